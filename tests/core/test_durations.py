# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times and durations in texts."""

from __future__ import annotations

import pytest

from clusterodm.core.durations import elapsed, time_of_day


@pytest.mark.parametrize(
    ("at", "text"), [(0.0, "00:00:00 UTC"), (86399.9, "23:59:59 UTC"), (1_700_000_000.0, "22:13:20 UTC")]
)
def test_the_time_of_day_is_in_utc(at: float, text: str) -> None:
    assert time_of_day(at) == text


def test_no_duration_is_negative_after_the_clock_was_set_back() -> None:
    assert (elapsed(10.0, 12.5), elapsed(12.5, 10.0)) == (2.5, 0.0)
