# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waits between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.backoff import Backoff

CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [
        (1, 0.0, 0.5),
        (2, 0.0, 1.0),
        (4, 0.0, 4.0),
        (5, 0.0, 6.0),
        (1000000, 0.0, 6.0),
        (1, 1.0, 0.375),
        (2, 0.5, 0.875),
        (99, 1.0, 4.5),
        (0, 0.0, 0.5),
    ],
)
def test_waits_double_up_to_the_longest_and_chance_takes_a_part_away(
    failures: int, chance: float, seconds: float
) -> None:
    assert Backoff(first=0.5, longest=6.0, jitter=0.25).wait(failures, chance) == seconds


@given(st.integers(1, 10**6), CHANCES, CHANCES)
def test_no_wait_is_longer_than_the_longest_or_shorter_than_half_of_the_first(
    failures: int, chance: float, other: float
) -> None:
    backoff = Backoff(first=1.0, longest=60.0)
    assert 0.5 <= backoff.wait(failures, chance) <= 60.0
    assert backoff.wait(failures + 1, other) >= backoff.wait(failures, other)


@given(st.floats(0.01, 1), st.floats(1, 5), st.floats(1, 100))
def test_what_failed_together_does_not_come_back_together(first: float, factor: float, longest: float) -> None:
    backoff = Backoff(first=first, factor=factor, longest=longest)
    assert len({backoff.wait(3, number / 10) for number in range(10)}) == 10
