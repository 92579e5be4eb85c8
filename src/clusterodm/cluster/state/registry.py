# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes: each is polled on its own in the background, so that a hung one delays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Unpack

import msgspec
import structlog

from clusterodm.aio import Clock, Observers
from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.state.description import Describer, Description
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.health import Healths
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.changes import NodeChanges, NodeTerms
from clusterodm.core.cluster import cluster_info
from clusterodm.core.errors import NodeError
from clusterodm.core.nodes import LARGEST, NodeAddress, NodeFacts, NodeInfo, NodeRecord, Origin
from clusterodm.core.placement import Capacity, FreeSlots, Needs, free_elsewhere, never
from clusterodm.core.tasks import Task
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store

_log = structlog.get_logger("registry")

#: Failed polls in a row after which a node counts as offline.
_MISSES: Final = 2
#: Polls per second over all nodes: with many nodes each is polled less often.
_POLLS_PER_SECOND: Final = 200
#: Factor on the poll interval while the cluster is idle.
_AT_REST: Final = 3


class Node:
    """A node: its record, and what its polls and tasks have shown."""

    _facts: NodeFacts | None

    def __init__(self, record: NodeRecord, clock: Callable[[], float]) -> None:
        self.record = record
        self._clock = clock
        self.info = NodeInfo()
        self.seen_at = 0.0
        #: When it was last polled (monotonic).
        self.asked_at = 0.0
        self.failures = _MISSES
        self.error = "not asked yet"
        self.chosen_at = 0.0
        #: Peak memory in use since a task was last placed on it.
        self.most_used = 0
        self.set_aside_until = 0.0
        #: The file limit that it gave when it refused a task, and `maxImages` of its `/info` at that time.
        self.learnt: tuple[int, int | None] | None = None
        #: Tasks on their way (None), or committed since the last poll began (at this monotonic time).
        self.reserved: dict[str, float | None] = {}
        #: Tasks believed to run there: a slot is free once the outcome of its task is known.
        self.running: set[str] = set()
        #: Uploads that are prefetched to it.
        self.prefetches: set[str] = set()

    @property
    def address(self) -> NodeAddress:
        """Return its address."""
        return self.record.address

    @property
    def online(self) -> bool:
        """True if one of its last polls succeeded."""
        return self.failures < _MISSES

    @property
    def slots(self) -> int:
        """Return how many tasks it may run at a time."""
        return self.record.slots or max(1, self.info.max_parallel_tasks)

    @property
    def max_images(self) -> int | None:
        """Return how many files of one task it accepts: what it reports, or a lower limit learned since."""
        reported, learnt = self.info.max_images, self.learnt
        if learnt is None or learnt[1] != reported:
            return reported
        return learnt[0] if reported is None else min(learnt[0], reported)

    @property
    def closed(self) -> str:
        """Return why it accepts no tasks; empty if it does."""
        return self.record.closed(self._clock())

    def __setattr__(self, name: str, value: Any) -> None:
        """Invalidate the cached facts on any change."""
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_facts", None)

    def facts(self, now: float | None = None) -> NodeFacts:
        """Return the facts for placement; cached, because they are read often."""
        record, info, cached = self.record, self.info, self._facts
        reserved, prefetching = len(self.reserved), len(self.prefetches)
        queue = max(info.task_queue_count, len(self.running - self.reserved.keys()))
        if (
            cached is not None
            and (cached.queue, cached.reserved, cached.prefetching) == (queue, reserved, prefetching)
            and not record.ends
        ):
            return cached
        cached = NodeFacts(
            id=record.id,
            name=str(self.address),
            online=self.online,
            known=bool(self.seen_at),
            closed=record.closed(self._clock() if now is None else now),
            max_images=self.max_images,
            slots=self.slots,
            queue=queue,
            reserved=reserved,
            prefetching=prefetching,
            total_memory=info.total_memory,
            can_be_larger=record.origin is Origin.AUTOSCALER and LARGEST not in record.labels,
            chosen_at=self.chosen_at,
            set_aside_until=self.set_aside_until,
        )
        object.__setattr__(self, "_facts", cached)
        return cached


class Registry:
    """All nodes of the cluster."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        client: NodeClient,
        shipped: Description,
        *,
        interval: float,
        machines: Callable[[], list[Capacity]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._client = client
        self._interval = interval
        self._clock = clock
        self._nodes: dict[int, Node] = {}
        self._free = FreeSlots()
        self.description = Describer(store, client, shipped, clock)
        self.health = Healths(self.get, clock)
        self._polls = Controller(
            "registry",
            self._poll,
            "polls every node on its own, counts slots and reservations, keeps the description; `health.py` sets "
            "failing nodes aside",
            concurrency=1000,
            clock=clock,
        )
        self.observers: Observers[[]] = Observers()
        #: Called with tasks of which one may have ended, because their node reports fewer than are known.
        self.ended: Observers[[str]] = Observers()
        #: Returns the file limits of the machine sizes that can be ordered.
        self.machines = machines
        #: True if nodes were polled less often because the cluster is idle.
        self._rested = False
        #: Held while nodes are changed in the store and in memory, so that an older state never replaces a newer one.
        self._writing = asyncio.Lock()
        self._info: tuple[int, bytes] = (-1, b"")
        tasks.watch(self._task_changed)

    async def load(self) -> None:
        """Read the configured nodes and the stored description."""
        await self.reload()
        await self.description.reload()

    async def reload(self) -> None:
        """Read the nodes again: another process may have changed them."""
        async with self._writing:
            records = {record.id: record for record in await self._store.nodes()}
            for node_id in [node_id for node_id in self._nodes if node_id not in records]:
                self._drop(node_id)
            for record in records.values():
                node = self._nodes.get(record.id)
                if node is None or node.record != record:
                    self._add(record)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._polls,)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher()` after each change that matters to placement."""
        self.observers.add(watcher)

    async def add(self, address: NodeAddress, *, locked: bool = False, **terms: Unpack[NodeTerms]) -> Node:
        """Add a node on these terms (columns of NodeRecord); one at the same place gets the new address and terms."""
        async with self._writing:
            return self._add(await self._store.add_node(NodeRecord(id=0, address=address, locked=locked, **terms)))

    def _add(self, record: NodeRecord) -> Node:
        node = self._nodes.setdefault(record.id, Node(record, self._clock))
        node.record = record
        self._polls.put(record.id)
        self._tell()
        return node

    async def change(self, node: Node, **changes: Unpack[NodeChanges]) -> None:
        """Change columns of a node: locked, draining, ..."""
        async with self._writing:
            await self._store.change_node(node.record.id, **changes)
            node.record = msgspec.structs.replace(node.record, **changes)
        self._info = (-1, b"")
        self._tell()

    async def remove(self, node: Node) -> None:
        """Remove a node from view. Its tasks finish there, and their results stay reachable."""
        await self.change(node, removed=True)

    async def forget(self, node: Node) -> None:
        """Delete a node whose machine is gone."""
        async with self._writing:
            await self._store.delete_node(node.record.id)
            self._drop(node.record.id)

    def _drop(self, node_id: int) -> None:
        self._nodes.pop(node_id, None)
        self.health.forget(node_id)
        self._polls.cancel(node_id)
        self._info = (-1, b"")
        self._tell()

    async def forget_removed(self) -> None:
        """Delete removed nodes to which no task refers any more."""
        async with self._writing:
            for node_id in await self._store.forget_nodes():
                self._drop(node_id)

    def look(self, node: Node) -> None:
        """Poll a node now."""
        self._polls.put(node.record.id)

    def find(self, address: NodeAddress) -> Node | None:
        """Return the node at the place of an address."""
        return next((node for node in self.nodes() if node.address.place == address.place), None)

    def get(self, node_id: int) -> Node | None:
        """Return a node, also one that was removed while tasks are on it."""
        return self._nodes.get(node_id)

    def nodes(self) -> list[Node]:
        """Return all nodes, in order of their number."""
        return [node for node in self._nodes.values() if not node.record.removed]

    def all(self) -> list[Node]:
        """Return all nodes, removed ones too."""
        return list(self._nodes.values())

    def facts(self) -> list[NodeFacts]:
        """Return the facts of all nodes for placement."""
        now = self._clock()
        return [node.facts(now) for node in self._nodes.values() if not node.record.removed]

    def never(self, needs: Needs) -> str:
        """Return why no node and no machine could ever take such a task; empty if one could, or it is not known."""
        return never(self.facts(), needs, self.machines())

    def free_slots(self) -> FreeSlots:
        """Return the facts in the order of placement, updated from call to call."""
        nodes, facts = self._free.nodes, {node.id: node for node in self.facts()}
        for node_id in nodes.keys() - facts.keys():
            self._free.drop(node_id)
        for node_id, node in facts.items():
            if nodes.get(node_id) is not node:
                self._free.put(node)
        return self._free

    def has_room_elsewhere(self, task: Task, node_id: int) -> bool:
        """True if a node other than this one would take a task now."""
        return free_elsewhere(self.facts(), Needs.of(task), self._clock(), but=node_id)

    def reference(self) -> Node | None:
        """Return the node whose options and version the cluster shows: the first that is online."""
        return next((node for node in self._nodes.values() if node.online and not node.record.removed), None)

    @property
    def options(self) -> list[dict[str, Any]]:
        """Return the options that tasks may have."""
        return self.description.now.options

    def info_json(self, waiting: int) -> bytes:
        """Return the body of `/info` with `waiting` tasks in the queue."""
        if self._info[0] != waiting:
            online = (node.info for node in self.nodes() if node.online)
            self._info = (waiting, msgspec.json.encode(cluster_info(online, self.description.now.info, waiting)))
        return self._info[1]

    # Slots

    def reserve(self, node: Node, task: str) -> None:
        """Reserve a slot of `node` for `task`, which is about to be sent."""
        if task not in node.reserved:
            node.reserved[task] = None
            node.chosen_at = self._clock()
            node.most_used = 0

    def committed(self, node: Node, task: str) -> None:
        """Note that the node has the task: from its next poll on its own count includes it."""
        node.reserved[task] = self._clock.steady()
        node.running.add(task)
        self._polls.put(node.record.id)

    def release(self, node_id: int, task: str) -> None:
        """Free the slot of a task that is no longer on the node or on its way there, and poll the node now."""
        if node := self._nodes.get(node_id):
            node.reserved.pop(task, None)
            node.running.discard(task)
            self._polls.put(node_id)

    # Polling

    async def _poll(self, node_id: int) -> float | None:
        node = self._nodes.get(node_id)
        if node is None:
            return None
        begun_at = node.asked_at = self._clock.steady()
        before = node.facts()
        try:
            node.info = await self._client.info(node.address)
        except NodeError as error:
            node.failures += 1
            node.error = str(error)
        else:
            node.failures, node.error, node.seen_at = 0, "", self._clock()
            node.most_used = max(node.most_used, node.info.total_memory - node.info.available_memory)
            self._forget_reservations(node, begun_at)
            if node.info.task_queue_count < len(node.running - node.reserved.keys()):
                for task in node.running:
                    self.ended.tell(task)
        if node.online != before.online:
            _log.info("node is online" if node.online else "node is offline", node=str(node.address), error=node.error)
        self._info = (-1, b"")
        if node.facts() != before:
            self._tell()
        if not node.failures and node is self.reference():  # last: it fails while the store does not answer
            await self.description.refresh(node.record.id, node.address, node.info)
        return max(self._interval * self._patience(node), len(self._nodes) / _POLLS_PER_SECOND)

    def _patience(self, node: Node) -> int:
        if node.failures or node.info.task_queue_count or not self._tasks.none_active:
            return 1
        self._rested = True
        return _AT_REST

    def _task_changed(self, _: Entry) -> None:
        """Poll nodes as often as before once the cluster is no longer idle."""
        if self._rested:
            self._rested = False
            for place, node in enumerate(self._nodes.values()):
                due = node.asked_at + self._interval - self._clock.steady()
                self._polls.put(node.record.id, max(place / _POLLS_PER_SECOND, due))

    def _tell(self) -> None:
        self.observers.tell()

    @staticmethod
    def _forget_reservations(node: Node, asked_at: float) -> None:
        for task, committed_at in list(node.reserved.items()):
            if committed_at is not None and committed_at < asked_at:
                del node.reserved[task]
