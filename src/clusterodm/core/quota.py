# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The quota of held files: a share of the disk, or a number of bytes; and which files to release when it is full."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import IntEnum
from typing import Final

import msgspec

_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]?b?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Quota(msgspec.Struct, frozen=True):
    """Either `share` (above 0, at most 1, of the whole disk, whoever fills it) or `limit` (bytes of held files)."""

    share: float | None
    limit: int

    def room(self, *, disk_total: int, disk_free: int, held: int) -> int:
        """Return the bytes left; negative if files should be released."""
        if self.share is None:
            return min(self.limit - held, disk_free)
        return int(disk_total * self.share) - (disk_total - disk_free)

    def size(self, disk_total: int) -> int:
        """Return the total bytes allowed."""
        return self.limit if self.share is None else int(disk_total * self.share)


def parse_quota(text: str) -> Quota:
    """Read `90%`, `500GB` or plain bytes. Raises ValueError."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a share of the disk such as 90% or a size such as 500GB")
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        if not 0 < number <= 100:
            raise ValueError("must be a share of the disk between 0% and 100%")
        return Quota(number / 100, 0)
    return Quota(None, int(number * _UNITS[unit.removesuffix("b")]))


class Rank(IntEnum):
    """The order in which held files are released, lowest first."""

    #: Of an upload that rests, or was removed.
    ABANDONED = 0
    #: Of a task that is over: they are there for a restart.
    LEFTOVER = 1
    #: Of a task that runs: it needs them if its node is lost. Only with `--release-running-files`.
    RUNNING = 2


class Holding(msgspec.Struct, frozen=True):
    """The held files of one task that may be released."""

    task: str
    size: int
    rank: Rank
    #: When the upload was active last, the task ended or began to run: the earliest goes first.
    since: float


def shortage(needs: Iterable[int], *, room: int, releasable: int) -> int:
    """Bytes to release for those who wait for room, the most modest first. Who could not be served even if all that is
    releasable went costs no running task anything."""
    missing, needed = 0, 0
    for need in sorted(needs):
        needed += need
        if needed - room > releasable:
            break
        missing = max(missing, needed - room)
    return missing


def to_release(holdings: Collection[Holding], missing: int) -> list[Holding]:
    """The first of them, by rank and age, that together have so many bytes."""
    chosen: list[Holding] = []
    for holding in sorted(holdings, key=lambda each: (each.rank, each.since, each.task)):
        if missing <= 0:
            break
        if holding.size > 0:
            chosen.append(holding)
            missing -= holding.size
    return chosen
