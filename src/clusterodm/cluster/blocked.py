# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rungs that are passed over for a while after they failed, twice as long each time unless they worked in between."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.scaling import Rung

#: Seconds for which a rung is passed over after it failed: the first time, and at most; and at most after it refused
#: what is configured.
FIRST_BLOCK: Final = 30.0
STOCK_OUT: Final = 600.0
REFUSED: Final = 1800.0


class Blocked:
    """Which rungs are not to be tried before a time (by a clock that nobody sets)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.until: dict[Rung, float] = {}
        self._failures: dict[Rung, int] = {}

    def block(self, rung: Rung, longest: float) -> None:
        """It failed."""
        count = self._failures[rung] = self._failures.get(rung, 0) + 1
        backoff = Backoff(first=FIRST_BLOCK, longest=longest)
        self.until[rung] = self._clock.steady() + backoff.wait(count, chance())

    def worked(self, rung: Rung) -> None:
        """It worked."""
        self._failures.pop(rung, None)
