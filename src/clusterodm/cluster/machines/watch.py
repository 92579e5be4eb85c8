# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""READY and DRAINING: end machines that are lost, overdue or broken, and those that are drained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from clusterodm.aio import Clock
from clusterodm.cluster.machines.absence import AbsenceTracker
from clusterodm.cluster.machines.terminate import TerminateStep
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.core.durations import span
from clusterodm.core.errors import Throttled
from clusterodm.core.machines import Machine, State
from clusterodm.core.retry import Failure
from clusterodm.core.tasks import Phase
from clusterodm.providers import BoundedProvider, MachineStatus

#: Seconds for which the node of a machine without tasks may be offline.
_BROKEN: Final = 600.0


@dataclass(kw_only=True, slots=True)
class WatchStep:
    """Watches machines that have booted."""

    machines: Machines
    registry: Registry
    absence: AbsenceTracker
    terminate: TerminateStep
    interval: float
    clock: Clock
    #: (Monotonic) times since which the nodes of idle machines have been offline.
    _offline_since: dict[str, float] = field(default_factory=dict)

    async def watch(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Look at a machine that takes tasks; what its provider says comes last, because it may not answer."""
        ended = (
            await self._overdue(machine, provider)
            or await self._expired(machine)
            or await self._broken(machine)
            or await self._lost(machine, provider)
        )
        return None if ended else self.interval * 3

    async def drain(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Terminate a machine once it is idle by the cluster's records and then by its node's next answer, too."""
        if machine.kept:  # said while the autoscaler let it go
            await self.resume(machine)
            return None
        node = self.machines.node(machine)
        if node is not None and not node.record.draining:
            await self.registry.change(node, draining=True)
            self.registry.look(node)
            return self.interval
        if self.machines.busy(machine):
            return await self.watch(machine, provider)
        await self.machines.advance(machine, State.DELETING, machine.reason)
        return None

    async def resume(self, machine: Machine) -> None:
        """Have a draining machine that an operator keeps take tasks again. Raises StaleMachine."""
        node = self.machines.node(machine)
        if node is not None:
            await self.registry.change(node, draining=False)
        current = self.machines.get(machine.id)
        if current is not None and current.state is State.DRAINING:
            await self.machines.advance(current, State.READY, "kept by an operator", idle_since=self.clock())

    def forget(self, machine_id: str) -> None:
        """Drop what is remembered of a machine."""
        self._offline_since.pop(machine_id, None)

    def reset(self) -> None:
        """Drop what is remembered of all machines."""
        self._offline_since.clear()

    async def _overdue(self, machine: Machine, provider: BoundedProvider) -> bool:
        """Terminate a machine that exceeds a time limit with a task; the task is retried elsewhere."""
        config = provider.config
        for entry in self.machines.entries(machine):
            if (running := entry.on_node) is None:
                continue
            age = self.clock.age(running.attempt.started_at)
            sending = running.task.phase is Phase.DISPATCHING
            limit = config.max_upload_time if sending else config.max_runtime
            if 0 < limit < age:
                failure = Failure.UPLOAD if sending else Failure.RUNTIME
                await self.terminate.begin(machine, str(failure), failure=failure, detail=span(limit))
                return True
        return False

    async def _expired(self, machine: Machine) -> bool:
        """Terminate a machine at the end that its provider announced; what runs there is lost anyhow."""
        node = self.machines.node(machine)
        if node is None or not node.record.ends_at or self.clock() < node.record.ends_at - 2 * self.interval:
            return False
        await self.terminate.begin(machine, "its provider's time limit is reached", failure=Failure.RUNTIME)
        return True

    async def _broken(self, machine: Machine) -> bool:
        """Terminate an idle machine whose node has been offline, or is not known any more, for too long."""
        node = self.machines.node(machine)
        if (node is not None and node.online) or self.machines.busy(machine) or self.machines.entries(machine):
            self._offline_since.pop(machine.id, None)
            return False
        since = self._offline_since.setdefault(machine.id, self.clock.steady())
        if self.clock.steady() - since <= _BROKEN:
            return False
        await self.terminate.begin(machine, f"its node has been offline for {span(_BROKEN)} with no task on it")
        return True

    async def _lost(self, machine: Machine, provider: BoundedProvider) -> bool:
        """Terminate a machine that its provider denies, or is taking away, at several looks. A machine whose node is
        online exists, whatever its provider says, unless that is taking it away."""
        try:
            reported = await self.absence.look(machine, provider)
        except Throttled:
            return False
        node = self.machines.node(machine)
        ending = reported is not None and reported.status is MachineStatus.ENDING
        online = node is not None and node.online and not ending
        if online or (reported is not None and reported.status in (MachineStatus.RUNNING, MachineStatus.STARTING)):
            self.absence.present(machine.id)
            return False
        if not self.absence.absent(machine, self.interval):
            return False
        status = "denied" if reported is None else str(reported.status)
        await self.terminate.begin(machine, f"its provider reports it as {status}")
        return True
