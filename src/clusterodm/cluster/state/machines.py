# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All machines in memory: a cache of the store, and the only writer of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Unpack

import msgspec
import structlog

from clusterodm.aio import Clock, Observers
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.changes import MachineChanges
from clusterodm.core.machines import Machine, State
from clusterodm.store import Store

_log = structlog.get_logger("machines")


class Machines:
    """Machines that are not gone, by id."""

    def __init__(self, store: Store, tasks: Tasks, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._tasks = tasks
        self._registry = registry
        self._clock = clock
        self._alive: dict[str, Machine] = {}
        self.observers: Observers[[Machine]] = Observers()
        #: Held while machines are changed in store and memory, so that an older state never replaces a newer one.
        self._writing = asyncio.Lock()
        #: Tasks by their node; rebuilt after a task has changed.
        self._by_node: dict[int, list[Entry]] | None = None
        tasks.watch(self._task_changed)

    def _task_changed(self, _: Entry) -> None:
        self._by_node = None

    async def load(self) -> None:
        """Load all that are not gone from the store."""
        for machine in await self._store.machines_alive():
            self._alive[machine.id] = machine
        self.begin()

    def begin(self) -> None:
        """Restart the idle time of all machines: what they did before they were observed is unknown."""
        now = self._clock()
        for machine in self.alive():
            self._alive[machine.id] = msgspec.structs.replace(machine, idle_since=now if machine.ready_at else 0.0)

    async def reload(self) -> None:
        """Reload them: another process may have changed them. Idle times are kept, because they are only in memory."""
        async with self._writing:
            stored = {machine.id: machine for machine in await self._store.machines_alive()}
            vanished = [machine for key, machine in self._alive.items() if key not in stored]
            for machine in vanished:
                self._take_over(
                    msgspec.structs.replace(machine, state=State.GONE, reason="gone, as another replica recorded")
                )
            for machine in stored.values():
                previous = self._alive.get(machine.id)
                self._take_over(
                    msgspec.structs.replace(machine, idle_since=previous.idle_since) if previous else machine
                )

    def _take_over(self, machine: Machine) -> None:
        before = self._alive.get(machine.id)
        if machine.state is State.GONE:
            self._alive.pop(machine.id, None)
        else:
            self._alive[machine.id] = machine
        if before is None or before.state is not machine.state:
            self.observers.tell(machine)

    def watch(self, watcher: Callable[[Machine], None]) -> None:
        """Call `watcher(machine)` after each state change."""
        self.observers.add(watcher)

    def alive(self) -> list[Machine]:
        """Return all that are not gone, in order of their launch."""
        return list(self._alive.values())

    def get(self, machine_id: str) -> Machine | None:
        """Return a machine that is not gone."""
        return self._alive.get(machine_id)

    def of_node(self, node_id: int) -> Machine | None:
        """Return the machine that a node runs on."""
        return next((machine for machine in self._alive.values() if node_id and machine.node_id == node_id), None)

    async def add(self, machine: Machine) -> None:
        """Record a machine before it is created."""
        async with self._writing:
            await self._store.add_machine(machine)
            self._alive[machine.id] = machine
        self._tell(machine)

    async def advance(self, machine: Machine, to: State, why: str, **changes: Unpack[MachineChanges]) -> Machine:
        """Change the state of a machine, in the store and then in memory. Raises StaleMachine."""
        changes["reason"] = why
        if to is State.GONE:
            changes["gone_at"] = max(self._clock(), machine.ordered_at, machine.ready_at)
        async with self._writing:
            await self._store.advance_machine(machine, to, at=self._clock(), **changes)
            changed = msgspec.structs.replace(self._alive.get(machine.id, machine), state=to, **changes)
            if to is State.GONE:
                self._alive.pop(machine.id, None)
            else:
                self._alive[machine.id] = changed
        self._tell(changed)
        return changed

    async def change(self, machine: Machine, **changes: Unpack[MachineChanges]) -> Machine:
        """Update columns other than the state, whatever that is now; return the machine. Raises StaleMachine when it is
        gone."""
        async with self._writing:
            await self._store.change_machine(machine, **changes)
            changed = msgspec.structs.replace(self._alive.get(machine.id, machine), **changes)
            self._alive[machine.id] = changed
        return changed

    def touch(self, machine: Machine, at: float) -> None:
        """Note that a machine was busy at `at`; only in memory."""
        if machine.id in self._alive:
            self._alive[machine.id] = msgspec.structs.replace(machine, idle_since=at)

    def _tell(self, machine: Machine) -> None:
        _log.info(machine.reason, machine=machine.id, state=str(machine.state))
        self.observers.tell(machine)

    # Their nodes and tasks

    def node(self, machine: Machine) -> Node | None:
        """Return its node, once it is registered."""
        return self._registry.get(machine.node_id) if machine.node_id else None

    def entries(self, machine: Machine) -> list[Entry]:
        """Return the tasks that are on it or on their way there."""
        if self._by_node is None:
            self._by_node = {}
            for entry in self._tasks.active():
                if (on_node := entry.on_node) is not None:
                    self._by_node.setdefault(on_node.attempt.node_id, []).append(entry)
        return self._by_node.get(machine.node_id, []) if machine.node_id else []

    def usable(self, machine: Machine) -> bool:
        """True if the machine's node is online and schedulable, or not registered yet."""
        node = self.node(machine)
        return node is None or (node.online and not node.closed)

    def busy(self, machine: Machine) -> int:
        """Return the number of its tasks: as known here or as its node reports, whichever is more."""
        node = self.node(machine)
        if node is None:
            return 0
        tasks = {entry.task.uuid for entry in self.entries(machine)} | set(node.reserved)
        return max(len(tasks), node.info.task_queue_count if node.online else 0)
