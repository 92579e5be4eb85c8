# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes: asked in the background, each on its own, so that a hung one delays nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Unpack

import msgspec
import structlog

from clusterodm.aio import Observers, WorkQueue
from clusterodm.cluster.nodes.description import Describer, Description
from clusterodm.cluster.nodes.health import Healths
from clusterodm.core.changes import NodeChanges, NodeTerms
from clusterodm.core.cluster import cluster_info
from clusterodm.core.errors import NodeError
from clusterodm.core.nodes import LARGEST, NodeAddress, NodeFacts, NodeInfo, NodeRecord, Origin
from clusterodm.core.placement import FreeSlots, Needs, free_elsewhere, never
from clusterodm.core.tasks import Task
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store

_log = structlog.get_logger("registry")

#: Failed looks in a row after which a node counts as offline.
_MISSES: Final = 2
#: With many nodes each is asked less often: this many a second in all.
_POLLS_PER_SECOND: Final = 200
#: Times the interval after which a node is asked while the cluster has nothing to do.
_AT_REST: Final = 3


class Node:
    """One node and what is known of it."""

    _facts: NodeFacts | None

    def __init__(self, record: NodeRecord, clock: Callable[[], float]) -> None:
        self.record = record
        self._clock = clock
        self.info = NodeInfo()
        self.seen_at = 0.0
        #: When it was last asked (monotonic).
        self.asked_at = 0.0
        self.failures = _MISSES
        self.error = "not asked yet"
        self.chosen_at = 0.0
        #: The most memory in use since a task was last chosen for it.
        self.most_used = 0
        self.set_aside_until = 0.0
        #: The limit of files that it named when it refused a task, and what `/info` said of it then.
        self.learnt: tuple[int, int | None] | None = None
        #: Tasks on their way (None), or committed at a time (monotonic) after which the node was not asked yet.
        self.reserved: dict[str, float | None] = {}
        #: Tasks that run there as far as is known: a slot is free once it is known how its task ended.
        self.running: set[str] = set()
        #: Uploads whose files go there ahead of their commit.
        self.prefetches: set[str] = set()

    @property
    def address(self) -> NodeAddress:
        """How to reach it."""
        return self.record.address

    @property
    def online(self) -> bool:
        """Whether it answered lately."""
        return self.failures < _MISSES

    @property
    def slots(self) -> int:
        """Tasks that it may run at a time."""
        return self.record.slots or max(1, self.info.max_parallel_tasks)

    @property
    def max_images(self) -> int | None:
        """Files of one task that it takes: as it says, or as it showed since it said so."""
        said, learnt = self.info.max_images, self.learnt
        if learnt is None or learnt[1] != said:
            return said
        return learnt[0] if said is None else min(learnt[0], said)

    @property
    def closed(self) -> str:
        """Why it gets nothing new; empty: it may."""
        return self.record.closed(self._clock())

    def __setattr__(self, name: str, value: Any) -> None:
        """Whatever changes, what placement looks at has to be made anew."""
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_facts", None)

    def facts(self, now: float | None = None) -> NodeFacts:
        """What placement looks at; kept until something changes, because it is asked for often."""
        record, info, made, reserved, prefetching = (
            self.record,
            self.info,
            self._facts,
            len(self.reserved),
            len(self.prefetches),
        )
        queue = max(info.task_queue_count, len(self.running - self.reserved.keys()))
        if (
            made is not None
            and (made.queue, made.reserved, made.prefetching) == (queue, reserved, prefetching)
            and not record.ends
        ):
            return made
        made = NodeFacts(
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
        object.__setattr__(self, "_facts", made)
        return made


class Registry:
    """All nodes of the cluster."""

    def __init__(
        self, store: Store, client: NodeClient, shipped: Description, *, interval: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._client = client
        self._interval = interval
        self._clock = clock
        self._nodes: dict[int, Node] = {}
        self._free = FreeSlots()
        self.description = Describer(store, client, shipped)
        self.health = Healths(self.get, clock)
        self._polls: WorkQueue[int] = WorkQueue("node", self._poll, concurrency=1000)
        self.observers: Observers[[]] = Observers()
        #: Whether the cluster has nothing to do, and whether nodes were asked less often because of that.
        self.at_rest: Callable[[], bool] = lambda: False
        self._rested = False
        #: Told of tasks of which one may have ended, because their node has fewer than are known.
        self.ended: Callable[[str], None] = lambda task: None
        #: Files that each size of machine takes that could be ordered.
        self.machines: Callable[[], list[int]] = list
        #: Held while nodes are changed in the store and in memory, so that an older state never replaces a newer one.
        self._writing = asyncio.Lock()
        self._info: tuple[int, bytes] = (-1, b"")

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

    async def run(self) -> None:
        """Ask all nodes for ever."""
        await self._polls.run()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher()` called when something that placement looks at has changed."""
        self.observers.add(watcher)

    async def add(self, address: NodeAddress, *, locked: bool = False, **terms: Unpack[NodeTerms]) -> Node:
        """Take a node in on these terms (columns of NodeRecord); one that is known by its place gets the new address
        and the new terms."""
        async with self._writing:
            return self._add(await self._store.add_node(NodeRecord(id=0, address=address, locked=locked, **terms)))

    def _add(self, record: NodeRecord) -> Node:
        node = self._nodes.setdefault(record.id, Node(record, self._clock))
        node.record = record
        self._polls.put(record.id)
        self._tell()
        return node

    async def change(self, node: Node, **changes: Unpack[NodeChanges]) -> None:
        """Change what is kept of a node: locked, draining, ..."""
        async with self._writing:
            await self._store.change_node(node.record.id, **changes)
            node.record = msgspec.structs.replace(node.record, **changes)
        self._info = (-1, b"")
        self._tell()

    async def remove(self, node: Node) -> None:
        """Show a node no more. Tasks that are on it finish there, and their results stay reachable."""
        await self.change(node, removed=True)

    async def forget(self, node: Node) -> None:
        """Let go of a node whose machine is no longer: nothing will ever answer there."""
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
        """Let go of removed nodes to which no task refers any more."""
        async with self._writing:
            for node_id in await self._store.forget_nodes():
                self._drop(node_id)

    def look(self, node: Node) -> None:
        """Ask a node at once."""
        self._polls.put(node.record.id)

    def find(self, address: NodeAddress) -> Node | None:
        """The node at the place of an address."""
        return next((node for node in self.nodes() if node.address.place == address.place), None)

    def get(self, node_id: int) -> Node | None:
        """A node, also one that was removed while tasks are on it."""
        return self._nodes.get(node_id)

    def nodes(self) -> list[Node]:
        """All nodes by number."""
        return [node for node in self._nodes.values() if not node.record.removed]

    def all(self) -> list[Node]:
        """All nodes, removed ones too."""
        return list(self._nodes.values())

    def facts(self) -> list[NodeFacts]:
        """What placement looks at, for all nodes."""
        now = self._clock()
        return [node.facts(now) for node in self._nodes.values() if not node.record.removed]

    def never(self, needs: Needs) -> str:
        """Why no node and no machine could ever take such a task; empty: one could, or it is not known."""
        return never(self.facts(), needs, self.machines())

    def free_slots(self) -> FreeSlots:
        """The same in the order of placement, kept from look to look."""
        known, facts = self._free.nodes, {node.id: node for node in self.facts()}
        for node_id in known.keys() - facts.keys():
            self._free.drop(node_id)
        for node_id, node in facts.items():
            if known.get(node_id) is not node:
                self._free.put(node)
        return self._free

    def has_room_elsewhere(self, task: Task, node_id: int) -> bool:
        """True if another node than this one would take a task now."""
        return free_elsewhere(self.facts(), Needs.of(task), self._clock(), but=node_id)

    def reference(self) -> Node | None:
        """The node that speaks for all: the first that is online."""
        return next((node for node in self._nodes.values() if node.online and not node.record.removed), None)

    @property
    def options(self) -> list[dict[str, Any]]:
        """The options that tasks may have."""
        return self.description.now.options

    def info_json(self, waiting: int) -> bytes:
        """The body of `/info` with `waiting` tasks in the queue."""
        if self._info[0] != waiting:
            online = (node.info for node in self.nodes() if node.online)
            self._info = (waiting, msgspec.json.encode(cluster_info(online, self.description.now.info, waiting)))
        return self._info[1]

    # Slots

    def reserve(self, node: Node, task: str) -> None:
        """A slot of `node` is taken by `task`, which we begin to send."""
        if task not in node.reserved:
            node.reserved[task] = None
            node.chosen_at = self._clock()
            node.most_used = 0

    def committed(self, node: Node, task: str) -> None:
        """The node has the task now; its own count will tell from its next answer on."""
        node.reserved[task] = time.monotonic()
        node.running.add(task)
        self._polls.put(node.record.id)

    def release(self, node_id: int, task: str) -> None:
        """A task is no longer on the node or on its way there: ask it at once how many slots it has."""
        if node := self._nodes.get(node_id):
            node.reserved.pop(task, None)
            node.running.discard(task)
            self._polls.put(node_id)

    # Polling

    async def _poll(self, node_id: int) -> float | None:
        node = self._nodes.get(node_id)
        if node is None:
            return None
        begun = node.asked_at = time.monotonic()
        before = node.facts()
        try:
            node.info = await self._client.info(node.address)
        except NodeError as error:
            node.failures += 1
            node.error = str(error)
        else:
            node.failures, node.error, node.seen_at = 0, "", self._clock()
            node.most_used = max(node.most_used, node.info.total_memory - node.info.available_memory)
            self._forget_reservations(node, begun)
            if node.info.task_queue_count < len(node.running - node.reserved.keys()):
                for task in node.running:
                    self.ended(task)
            if node is self.reference():
                await self.description.refresh(node.record.id, node.address, node.info)
        if node.online != before.online:
            _log.info("node is online" if node.online else "node is offline", node=str(node.address), error=node.error)
        self._info = (-1, b"")
        if node.facts() != before:
            self._tell()
        return max(self._interval * self._patience(node), len(self._nodes) / _POLLS_PER_SECOND)

    def _patience(self, node: Node) -> int:
        if node.failures or node.info.task_queue_count or not self.at_rest():
            return 1
        self._rested = True
        return _AT_REST

    def wake(self) -> None:
        """There is something to do: ask nodes as often as ever."""
        if self._rested:
            self._rested = False
            for place, node in enumerate(self._nodes.values()):
                due = node.asked_at + self._interval - time.monotonic()
                self._polls.put(node.record.id, max(place / _POLLS_PER_SECOND, due))

    def _tell(self) -> None:
        self.observers.tell()

    @staticmethod
    def _forget_reservations(node: Node, asked_at: float) -> None:
        for task, committed_at in list(node.reserved.items()):
            if committed_at is not None and committed_at < asked_at:
                del node.reserved[task]
