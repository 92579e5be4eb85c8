# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The queue against the free slots: which task goes to which node. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from clusterodm.aio import Clock
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.fairshare import FairShare
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.core.scheduling import Placement, Plan, plan
from clusterodm.core.tasks import ON_NODE, Attempt, Phase, Task


@dataclass(kw_only=True, slots=True, eq=False)
class Placer:
    """Choose nodes for waiting tasks, and keep their slots from the choice on."""

    state: ClusterState
    prefetcher: Prefetcher
    fair: FairShare
    clock: Clock
    #: The node chosen for a task (its id), until its dispatch has ended.
    _chosen: dict[str, int] = field(init=False, default_factory=dict)

    def plan(self, max_sending: int, takes_no_turn: Callable[[Entry], bool]) -> Plan:
        """Plan all waiting tasks, with at most `max_sending` under way to nodes at a time, beside those that take no
        turn."""
        if not self.state.tasks.any_queued(besides=self._chosen):
            return Plan([], {}, [], [], {})
        entries = list(self.state.tasks.active())
        return plan(
            (self._as_chosen(entry.task) for entry in entries),
            self.state.registry.free_slots(),
            self.clock(),
            max_sending=max_sending + sum(map(takes_no_turn, entries)),
            ageing=self.fair.ageing,
            prefetched=self.prefetcher.nodes(),
            alone={node for entry in entries if entry.task.alone and (node := self._node_of(entry))},
            machines=self.state.registry.machines(),
            usage=self.fair.usage(),
        )

    def choose(self, placement: Placement) -> bool:
        """Take the slot of a placement; return False if its node has vanished."""
        node = self.state.registry.get(placement.node)
        if node is None:
            return False
        self.state.registry.reserve(node, placement.task)
        self._chosen[placement.task] = placement.node
        return True

    def chosen(self, uuid: str) -> Node | None:
        """Return the node chosen for a task."""
        return self.state.registry.get(self._chosen.get(uuid, 0))

    def close(self, uuid: str, entry: Entry | None) -> None:
        """End the choice for a task; its slot is free again unless the task is on its way there."""
        node_id = self._chosen.pop(uuid, None)
        if node_id is not None and (entry is None or entry.task.phase not in ON_NODE):
            self.state.registry.release(node_id, uuid)

    def hold_slot(self, task: Task, attempt: Attempt) -> None:
        """Hold the slot of an attempt until the outcome on its node is known: a node that fails every task must not get
        the next one before that is seen."""
        node = self.state.registry.get(attempt.node_id)
        if task.phase is Phase.DISPATCHING and node is not None:
            self.state.registry.reserve(node, task.uuid)
        elif task.phase is Phase.RUNNING and node is not None:
            self.state.registry.committed(node, task.uuid)
        elif task.phase is Phase.COLLECTING and node is not None:
            node.running.discard(task.uuid)
        elif task.phase not in ON_NODE:
            self.state.registry.release(attempt.node_id, task.uuid)

    def _node_of(self, entry: Entry) -> int | None:
        """Return the node (its id) that a task is on, or that was chosen for it."""
        if entry.attempt is not None and entry.task.phase in (Phase.DISPATCHING, Phase.RUNNING):
            return entry.attempt.node_id
        return self._chosen.get(entry.task.uuid)

    def _as_chosen(self, task: Task) -> Task:
        """Return a task as under way once a node was chosen for it, also before that is stored."""
        chosen = task.uuid in self._chosen and task.phase is Phase.QUEUED
        return msgspec.structs.replace(task, phase=Phase.DISPATCHING) if chosen else task
