# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""DELETING: move the tasks elsewhere, and have the provider delete the machine until it is gone."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from clusterodm.cluster.machines.absence import AbsenceTracker
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.core.changes import MachineChanges
from clusterodm.core.errors import ProviderError, StaleTask
from clusterodm.core.machines import Machine, State
from clusterodm.core.retry import Failure
from clusterodm.providers import BoundedProvider, MachineStatus, ProviderMachine

_log = structlog.get_logger("machines")


@dataclass(kw_only=True, slots=True)
class TerminateStep:
    """Deletes machines."""

    machines: Machines
    registry: Registry
    attempts: Attempts
    absence: AbsenceTracker
    cluster: str
    interval: float

    async def begin(self, machine: Machine, why: str, *, failure: Failure = Failure.MACHINE, detail: str = "") -> None:
        """Begin to delete a machine. Its node is drained first: no task may go there, not even after a crash in
        between. Raises StaleMachine."""
        node = self.machines.node(machine)
        if node is not None and not node.record.draining:
            await self.registry.change(node, draining=True)
        changed = await self.machines.advance(machine, State.DELETING, why)
        await self._free(changed, failure, detail or why)

    async def step(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Delete a machine, until its provider denies it at several looks."""
        await self._free(machine, Failure.MACHINE, machine.reason)
        node = self.machines.node(machine)
        if node is not None and not node.record.removed:
            await self.registry.remove(node)
        if not machine.provider_id:
            return await self._delete_by_name(machine, provider)
        target = ProviderMachine(
            id=machine.provider_id,
            name=machine.id,
            status=MachineStatus.ENDING,
            location=machine.location,
            volumes=machine.volumes,
        )
        await provider.delete(target)
        if await provider.get(machine.provider_id, machine.location) is not None:
            self.absence.present(machine.id)
            return self.interval
        if not self.absence.absent(machine, self.interval):
            return self.interval
        if machine.volumes:
            await provider.delete(target)  # its disks can be deleted only now
        if node is not None:
            await self.registry.forget(node)
        await self.machines.advance(machine, State.GONE, machine.reason)
        return None

    async def _delete_by_name(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Delete a machine whose creation was not confirmed: it may exist, and may take a while to be listed."""
        named = [each for each in await provider.list_machines(self.cluster) if each.name == machine.id]
        for each in named:
            await provider.delete(each)
        if named:
            self.absence.present(machine.id)
            changes: MachineChanges = {"volumes": [volume for each in named for volume in each.volumes]}
            if len(named) == 1:
                changes["provider_id"] = named[0].id
            await self.machines.change(machine, **changes)
            return self.interval
        if not self.absence.absent(machine, self.absence.settle):
            return max(self.interval, self.absence.settle / 2)
        await self.machines.advance(machine, State.GONE, machine.reason)
        return None

    async def _free(self, machine: Machine, failure: Failure, why: str) -> None:
        """Take all tasks off a machine: finished ones are collected first, the others are retried elsewhere."""
        await self.attempts.rescue(self.machines.entries(machine))
        for entry in self.machines.entries(machine):
            try:
                await self.attempts.failed(entry, failure, why)
            except (StaleTask, ProviderError) as error:
                _log.info("task changed meanwhile", machine=machine.id, task=entry.task.uuid, why=str(error))
