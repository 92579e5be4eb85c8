# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Delete orphans: machines that carry the cluster's tag but are unknown to it.

Every machine is stored before it is created, so an unknown one is left over from a crash, or from before a restored
backup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.machines import Machines
from clusterodm.core.errors import ProviderError
from clusterodm.providers import BoundedProvider, Fleet, MachineStatus, ProviderMachine

_log = structlog.get_logger("reaper")

#: Seconds for which a machine must have been an orphan before it is deleted.
GRACE: Final = 600.0


@dataclass(kw_only=True, slots=True, eq=False)
class Reaper:
    """Compares the machines that providers list with those that are known."""

    fleet: Fleet
    machines: Machines
    #: The tag of the machines.
    cluster: str
    clock: Clock
    #: Orphans by provider and id, and the (monotonic) time when each was first seen.
    _first_seen: dict[tuple[str, str], float] = field(init=False, default_factory=dict)
    #: Orphans whose disks are deleted once their provider no longer lists them.
    _dying: dict[tuple[str, str], ProviderMachine] = field(init=False, default_factory=dict)

    @property
    def orphans(self) -> list[str]:
        """The providers' ids of all orphans."""
        return [machine_id for _, machine_id in self._first_seen]

    async def sweep(self) -> None:
        """Compare all providers; one that fails does not affect the others."""
        for provider in self.fleet.providers.values():
            try:
                await self._compare(provider)
            except ProviderError as error:
                _log.warning("cannot list machines", provider=provider.name, error=str(error))

    async def _compare(self, provider: BoundedProvider) -> None:
        listed = await provider.list_machines(self.cluster)
        provider_ids = {machine.id: machine.provider_id for machine in self.machines.alive()}
        orphans = {
            (provider.name, each.id): each
            for each in listed
            # a machine that is being created is known by its name alone
            if each.name not in provider_ids or provider_ids[each.name] not in ("", each.id)
        }
        mine = {key for key in self._first_seen if key[0] == provider.name}
        for key in mine - set(orphans):
            del self._first_seen[key]
        for key, orphan in orphans.items():
            since = self._first_seen.setdefault(key, self.clock.steady())
            if self.clock.steady() - since >= GRACE:
                await self._delete(provider, key, orphan)
        await self._drop_disks(provider, set(orphans))

    async def _delete(self, provider: BoundedProvider, key: tuple[str, str], orphan: ProviderMachine) -> None:
        if orphan.status is not MachineStatus.ENDING:
            _log.warning("deleting orphan", provider=provider.name, id=orphan.id, name=orphan.name)
            await provider.delete(orphan)
        if orphan.volumes:
            self._dying[key] = orphan

    async def _drop_disks(self, provider: BoundedProvider, orphans: set[tuple[str, str]]) -> None:
        for key in [key for key in self._dying if key[0] == provider.name and key not in orphans]:
            await provider.delete(self._dying[key])
            del self._dying[key]
