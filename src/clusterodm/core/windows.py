# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weekly time windows, such as "Mon-Fri 07:00-18:00"."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clusterodm.core.errors import ConfigError

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM: Final = re.compile(r"(?:(\w{3})(?:-(\w{3}))? )?(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_DAY: Final = 24 * 60


class Window(msgspec.Struct, frozen=True):
    """Minutes of a day, on some days (0: Monday); one that ends before it begins continues on the next day."""

    days: frozenset[int]
    begin: int
    end: int

    def has(self, day: int, minute: int) -> bool:
        """Return True if a minute of a day is in the window."""
        if self.begin <= self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


def parse_windows(texts: list[str]) -> list[Window]:
    """Parse windows. Raises ConfigError."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> Window:
    match = _FORM.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"a window reads Mon-Fri 07:00-18:00 or 07:00-18:00, not {text[:50]!r}")
    first, last, *numbers = match.groups()
    begin_hour, begin_minute, end_hour, end_minute = map(int, numbers)
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if (
        any(day and day not in _DAYS for day in (first, last))
        or max(begin, end) > _DAY
        or max(begin_minute, end_minute) > 59
    ):
        raise ConfigError(f"no such time of the week: {text[:50]!r}")
    if first is None:
        return Window(frozenset(range(7)), begin, end)
    start = _DAYS.index(first)
    count = (_DAYS.index(last or first) - start) % 7 + 1
    return Window(frozenset((start + step) % 7 for step in range(count)), begin, end)
