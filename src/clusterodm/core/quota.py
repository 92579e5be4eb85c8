# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much room held files may take: a share of the disk, or a number of bytes."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]?b?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Quota(msgspec.Struct, frozen=True):
    """Either `share` (above 0, at most 1, of the whole disk, whoever fills it) or `limit` (bytes of held files)."""

    share: float | None
    limit: int

    def room(self, *, disk_total: int, disk_free: int, held: int) -> int:
        """Bytes that may still come; negative when something should go."""
        if self.share is None:
            return min(self.limit - held, disk_free)
        return int(disk_total * self.share) - (disk_total - disk_free)

    def size(self, disk_total: int) -> int:
        """All bytes that it allows."""
        return self.limit if self.share is None else int(disk_total * self.share)


def parse_quota(text: str) -> Quota:
    """Read `90%`, `500GB` or plain bytes. Raises ValueError."""
    found = _PATTERN.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a share of the disk such as 90% or a size such as 500GB")
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        if not 0 < number <= 100:
            raise ValueError("must be a share of the disk between 0% and 100%")
        return Quota(number / 100, 0)
    return Quota(None, int(number * _UNITS[unit.removesuffix("b")]))
