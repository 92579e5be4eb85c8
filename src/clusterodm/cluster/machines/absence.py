# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines as their providers report them: one listing serves all machines of a provider, one denial proves nothing."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock, KeyedLock
from clusterodm.core.machines import Machine
from clusterodm.providers import BoundedProvider, ProviderMachine

#: Consecutive looks at which a provider must deny a machine before it counts as absent.
CONFIRMATIONS: Final = 2
#: Seconds after creation during which a provider may not list its own machine yet.
SETTLE: Final = 60.0


class AbsenceTracker:
    """Looks machines up, listing each provider at most once per interval, and counts denials."""

    def __init__(self, *, cluster: str, interval: float, clock: Clock) -> None:
        self.settle = SETTLE
        self._cluster = cluster
        self._interval = interval
        self._clock = clock
        #: The last listing of each provider and its (monotonic) time.
        self._listed: dict[str, tuple[float, dict[str, ProviderMachine]]] = {}
        self._listing: KeyedLock[str] = KeyedLock()
        #: Consecutive denials of each machine, and the (monotonic) time of the first.
        self._denials: dict[str, tuple[int, float]] = {}

    async def look(self, machine: Machine, provider: BoundedProvider) -> ProviderMachine | None:
        """Return a machine as listed by its provider, or looked up by id if it is not listed. Raises a
        ProviderError."""
        async with self._listing.hold(provider.name):
            at, listed = self._listed.get(provider.name, (-self._interval, {}))
            if self._clock.steady() - at >= self._interval or machine.provider_id not in listed:
                at = self._clock.steady()
                listed = {each.id: each for each in await provider.list_machines(self._cluster)}
                self._listed[provider.name] = (at, listed)
        return listed.get(machine.provider_id) or await provider.get(machine.provider_id, machine.location)

    def absent(self, machine: Machine, seconds: float) -> bool:
        """Count a denial; return True once there are enough in a row, over at least `seconds`."""
        now = self._clock.steady()
        count, since = self._denials.get(machine.id, (0, now))
        self._denials[machine.id] = (count + 1, since)
        return count + 1 >= CONFIRMATIONS and now - since >= seconds

    def present(self, machine_id: str) -> None:
        """Forget the denials of a machine: it exists after all, or its absence would now mean something else."""
        self._denials.pop(machine_id, None)

    def reset(self) -> None:
        """Forget all denials: there was no look in between."""
        self._denials.clear()
