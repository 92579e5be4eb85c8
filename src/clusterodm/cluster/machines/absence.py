# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What providers say of their machines: one list is as good for all of them, and one denial is no proof."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock, KeyedLock
from clusterodm.core.machines import Machine
from clusterodm.providers import BoundedProvider, ProviderMachine

#: Looks in a row at which a provider must say that a machine is not there before we believe it.
CONFIRMATIONS: Final = 2


class AbsenceTracker:
    """Looks at machines, at each provider's list at most once per interval."""

    def __init__(self, *, cluster: str, interval: float, clock: Clock) -> None:
        self._cluster = cluster
        self._interval = interval
        self._clock = clock
        #: What each provider listed last, and when (by a clock that nobody sets).
        self._listed: dict[str, tuple[float, dict[str, ProviderMachine]]] = {}
        self._listing: KeyedLock[str] = KeyedLock()
        #: Looks in a row at which a machine was not there, and when (by a clock that nobody sets) that began.
        self._missing: dict[str, tuple[int, float]] = {}

    async def look(self, machine: Machine, provider: BoundedProvider) -> ProviderMachine | None:
        """The machine as its provider has it: from the list, and asked for by itself when it is not there. Raises a
        ProviderError."""
        async with self._listing.hold(provider.name):
            at, listed = self._listed.get(provider.name, (-self._interval, {}))
            if self._clock.steady() - at >= self._interval or machine.provider_id not in listed:
                at = self._clock.steady()
                listed = {found.id: found for found in await provider.list_machines(self._cluster)}
                self._listed[provider.name] = (at, listed)
        return listed.get(machine.provider_id) or await provider.get(machine.provider_id, machine.location)

    def missed(self, machine: Machine, seconds: float) -> bool:
        """Take note that a machine is not there; whether it was not at several looks, over so many seconds."""
        now = self._clock.steady()
        count, since = self._missing.get(machine.id, (0, now))
        self._missing[machine.id] = (count + 1, since)
        return count + 1 >= CONFIRMATIONS and now - since >= seconds

    def seen(self, machine_id: str) -> None:
        """Misses of a machine count no more: it is there after all, or it is looked for from the beginning."""
        self._missing.pop(machine_id, None)
