# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times of the week."""

from __future__ import annotations

import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.core.windows import parse_windows

MON, FRI, SAT, SUN = 0, 4, 5, 6


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Mon-Fri 07:00-18:00", [(MON, 420), (FRI, 1079)], [(MON, 419), (FRI, 1080), (SAT, 600)]),
        ("07:00-18:00", [(SUN, 420)], [(SUN, 1080)]),
        ("sat 8:30-24:00", [(SAT, 510), (SAT, 1439)], [(SUN, 0), (SAT, 509)]),
        ("Sat-Mon 00:00-01:00", [(SAT, 0), (SUN, 59), (MON, 0)], [(FRI, 0)]),
        ("Fri 22:00-06:00", [(FRI, 1320), (SAT, 0), (SAT, 359)], [(FRI, 0), (SAT, 360), (SAT, 1320)]),
    ],
)
def test_a_window_has_its_minutes_and_no_others(
    text: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]
) -> None:
    window = parse_windows([text])[0]
    assert all(window.has(day, minute) for day, minute in inside)
    assert not any(window.has(day, minute) for day, minute in outside)


@pytest.mark.parametrize("text", ["", "always", "Mon 7-18", "Foo 07:00-18:00", "Mon-Xxx 07:00-18:00", "07:60-18:00"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_windows([text])


def test_a_day_has_24_hours() -> None:
    with pytest.raises(ConfigError, match="no such time"):
        parse_windows(["07:00-25:00"])
