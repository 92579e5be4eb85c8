# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rungs that are passed over for a while after they failed, twice as long each time unless they worked in between."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.scaling import Offering

#: Seconds for which an offering is passed over after a failure: the first time and at most, and at most after it
#: refused what is configured.
FIRST_BLOCK: Final = 30.0
STOCK_OUT: Final = 600.0
REFUSED: Final = 1800.0


class OfferingBackoff:
    """Which offerings are not to be tried before a time (by a clock that nobody sets)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.until: dict[Offering, float] = {}
        self._failures: dict[Offering, int] = {}

    def block(self, offering: Offering, longest: float) -> None:
        """It failed."""
        count = self._failures[offering] = self._failures.get(offering, 0) + 1
        backoff = Backoff(first=FIRST_BLOCK, longest=longest)
        self.until[offering] = self._clock.steady() + backoff.wait(count, chance())

    def worked(self, offering: Offering) -> None:
        """It worked."""
        self._failures.pop(offering, None)
