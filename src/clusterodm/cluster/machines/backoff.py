# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Offerings to skip for a while after a failure, twice as long each time until one works again."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.machines import Machine
from clusterodm.core.scaling import Offering

#: Seconds to skip an offering after its first failure, and at most while it is out of stock or rejected.
FIRST_BLOCK: Final = 30.0
STOCK_OUT: Final = 600.0
REJECTED: Final = 1800.0


class OfferingBackoff:
    """Tracks failures of offerings by the machines that were launched from them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Offerings not to be tried before a (monotonic) time.
        self.until: dict[Offering, float] = {}
        self._failures: dict[Offering, int] = {}

    def unavailable(self, machine: Machine) -> None:
        """Skip the offering of a machine that could not be had."""
        self._block(machine, STOCK_OUT)

    def rejected(self, machine: Machine) -> None:
        """Skip the offering of a machine that its provider will reject until the configuration changes."""
        self._block(machine, REJECTED)

    def succeeded(self, machine: Machine) -> None:
        """Start over at the shortest wait."""
        self._failures.pop(Offering.of(machine), None)

    def _block(self, machine: Machine, longest: float) -> None:
        offering = Offering.of(machine)
        count = self._failures[offering] = self._failures.get(offering, 0) + 1
        backoff = Backoff(first=FIRST_BLOCK, longest=longest)
        self.until[offering] = self._clock.steady() + backoff.wait(count, chance())
