# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prefetch: send files to a free node while their client still uploads, so that only the rest is left at the commit.

A prefetch takes no slot: a committed task that needs one gets it. It is used if its node has a slot at the commit;
otherwise the node is told to remove it. Only the leader prefetches.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from clusterodm.cluster.controller import Controller, Loop, Periodic, Scope
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.core.errors import FilesLost, NodeError, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.files import HeldFile
from clusterodm.core.names import SEED, counted_files, is_archive
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, best, refusal
from clusterodm.core.retry import RULES, Failure, classify_refusal
from clusterodm.core.tasks import DISCARDED, Attempt, Cleanup, Phase, Stage, Task, node_uuid
from clusterodm.files.spool import Spool
from clusterodm.nodeodm import NodeClient, Transfer, Transfers

#: Bytes of an upload below which prefetching is not worth it.
WORTH: Final = 8 << 20
#: Seconds between a file and the look at its upload, to batch files, and between two looks.
_SETTLE: Final = 0.05
_LOOK: Final = 1.0
#: Seconds without a file after which a prefetch is discarded.
RESTING: Final = 900.0
#: Prefetches of one upload at most.
_TRIES: Final = 5
#: Settings that a node gets with the files. When one changes, the prefetch is of no use.
_SETTINGS: Final = ("name", "options", "skip_post_processing", "outputs")


class Prefetch:
    """One upload on its way to a node before its commit."""

    def __init__(self, task: Task, attempt: Attempt, transfer: Transfer) -> None:
        self.task = task
        self.attempt = attempt
        self.transfer = transfer
        #: Files prefetched or queued for it.
        self.names: set[str] = set()
        #: Those of them that count against a node's limit.
        self.files = 0
        #: What went wrong.
        self.error: NodeError | FilesLost | None = None
        self.begun = False
        self.done = asyncio.Event()

    async def finish(self) -> None:
        """Wait for the last file. Raises a NodeError, or FilesLost."""
        await self.done.wait()
        if self.error is not None:
            raise self.error


@dataclass(kw_only=True, slots=True, eq=False)
class Prefetcher:
    """Prefetch uploads to free nodes."""

    state: ClusterState
    spool: Spool
    client: NodeClient
    transfers: Transfers
    callbacks: Callbacks
    #: The id of this replica.
    sender: str
    #: Uploads prefetched at a time.
    most: int
    runtime: Runtime
    _prefetches: dict[str, Prefetch] = field(init=False, default_factory=dict)
    #: Uploads refused by a node.
    _refused: set[str] = field(init=False, default_factory=set)
    #: Held while an attempt is ended, so that it ends only once.
    _ending: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    #: Prefetches under way, by the uuid on their node.
    _sending: dict[str, Prefetch] = field(init=False, default_factory=dict)
    _sends: Controller[str] = field(init=False)
    _looks: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._sends = Controller(
            "prefetch sends",
            self._send,
            "sends the files of uploads to their node; goes on after the commit, whoever leads then",
            concurrency=2 * self.most + 1,
            clock=self.runtime.clock,
            at_end=self.transfers.close,
        )
        self._looks = Controller(
            "prefetch",
            self._look,
            "chooses a free node while the client still uploads",
            keys=self._keys,
            concurrency=1,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
            at_end=self._drop_all,
        )
        self.state.tasks.watch(self._task_changed)
        self.state.registry.watch(self._look_at_all)

    def nodes(self) -> dict[str, int]:
        """Return the node that has files already, by task."""
        return {uuid: prefetch.attempt.node_id for uuid, prefetch in self._prefetches.items()}

    def grew(self, uuid: str, file: HeldFile) -> None:
        """Prefetch another file of an upload."""
        prefetch = self._prefetches.get(uuid)
        if prefetch is not None:
            self._add(prefetch, uuid, file)
        elif self.most:
            self._looks.put(uuid, _SETTLE)

    def _add(self, prefetch: Prefetch, uuid: str, file: HeldFile) -> None:
        if file.name not in prefetch.names and not is_archive(file.name):  # unpacked here, or deleted by nodes
            prefetch.names.add(file.name)
            prefetch.files += file.name != SEED
            prefetch.transfer.add(self.spool.path(uuid, file.name), file.size)

    def _task_changed(self, entry: Entry) -> None:
        """Drop the prefetch of a task that was removed, or is under way already."""
        if entry.task.phase not in (Phase.RECEIVING, Phase.QUEUED):
            self._drop(entry.task.uuid)
            self._refused.discard(entry.task.uuid)

    def _look_at_all(self) -> None:
        for uuid in self._prefetches:
            self._looks.put(uuid)

    async def _keys(self) -> list[str]:
        """Return uploads that another replica prefetched: that is discarded, and may begin anew."""
        on_node = (entry for entry in self.state.tasks.active() if entry.attempt is not None)
        return [entry.task.uuid for entry in on_node if entry.attempt and entry.attempt.stage is Stage.PREFETCHING]

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        sweep = Periodic(
            "prefetch sweep",
            self._sweep,
            "looks at uploads whose files come in at other replicas",
            scope=Scope.LEADER,
            every=_LOOK,
            clock=self.runtime.clock,
        )
        return (self._sends, self._looks, sweep)

    def _drop_all(self) -> None:
        for uuid in list(self._prefetches):
            self._drop(uuid)

    async def _sweep(self) -> None:
        """Look at uploads received by other replicas."""
        if self.state.tasks.others and self.most:
            for entry in self.state.tasks.active():
                if entry.task.phase is Phase.RECEIVING:
                    self._looks.put(entry.task.uuid)

    async def _look(self, uuid: str) -> float | None:
        entry = self.state.tasks.get(uuid)
        if entry is None or entry.task.phase not in (Phase.RECEIVING, Phase.QUEUED):
            return None
        prefetch = self._prefetches.get(uuid)
        if prefetch is None:
            if entry.task.phase is Phase.QUEUED:
                return None  # its sender takes or discards the prefetch
            await self._end(entry, "interrupted")
            return await self._begin(entry)
        if why := self._wrong(entry, prefetch):
            await self._discard(entry, why)
            return _SETTLE
        if self.state.tasks.others:
            for file in await self.spool.listing(uuid):
                self._add(prefetch, uuid, file)
        return _LOOK

    async def _begin(self, entry: Entry) -> float | None:
        """Choose a node and start prefetching, if it is worth it."""
        uuid = entry.task.uuid
        if len(self._prefetches) >= self.most or entry.task.attempts >= _TRIES or not self._with_room():
            return None
        if self._rests(entry) or uuid in self._refused:
            return None
        files = [file for file in await self.spool.listing(uuid) if not is_archive(file.name)]
        if sum(file.size for file in files) < WORTH:
            return None
        node = self._choose(counted_files(file.name for file in files))
        if node is None:
            return None
        number = entry.task.attempts + 1
        attempt = Attempt(
            task=uuid,
            number=number,
            node_id=node.record.id,
            node_name=str(node.address),
            node_uuid=node_uuid(uuid, number),
            stage=Stage.PREFETCHING,
            started_at=self.runtime.clock(),
            sender=self.sender,
        )
        async with self.state.tasks.locks.hold(entry):
            if entry.task.phase is not Phase.RECEIVING:
                return None
            text = f"prefetching to {node.address}"
            await self.state.tasks.change(entry, text, attempt=attempt, attempts=number)
            self._start(entry.task, attempt, node, files)
        return _LOOK

    def _with_room(self) -> list[NodeFacts]:
        """Return the nodes with more free slots than prefetches."""
        return [node for node in self.state.registry.facts() if node.free > node.prefetching]

    def _choose(self, files: int) -> Node | None:
        """Return the node for an upload with this many files so far; one that takes twice as many comes first, because
        the upload grows."""
        free, now = self._with_room(), self.runtime.clock()
        for count in (2 * files, files):
            if node := best(free, Needs(images=count), now):
                return self.state.registry.get(node.id)
        return None

    def _start(self, task: Task, attempt: Attempt, node: Node, files: list[HeldFile]) -> None:
        transfer = self.transfers.to(node.address, attempt.node_uuid)
        prefetch = self._prefetches[task.uuid] = Prefetch(task, attempt, transfer)
        node.prefetches.add(task.uuid)
        for file in files:
            self._add(prefetch, task.uuid, file)
        self._sending[attempt.node_uuid] = prefetch
        self._sends.put(attempt.node_uuid)

    async def _send(self, key: str) -> None:
        prefetch = self._sending.pop(key, None)
        node = self.state.registry.get(prefetch.attempt.node_id) if prefetch is not None else None
        if prefetch is None:
            return
        prefetch.begun = True
        prefetch.error = NodeUnreachable("the transfer was stopped")
        try:
            if node is not None:
                task = self.callbacks.for_node(prefetch.task, prefetch.attempt.number)
                await self.client.init(node.address, task, key, self.callbacks.webhook(task.uuid))
                await prefetch.transfer.run()
                prefetch.error = None
        except (NodeError, FilesLost) as error:
            prefetch.error = error
        finally:
            prefetch.done.set()
            self._looks.put(prefetch.task.uuid)

    async def stop(self, prefetch: Prefetch) -> None:
        """Stop a prefetch that was taken; nothing is in flight afterwards."""
        self._cancel(prefetch)
        if prefetch.begun:
            await prefetch.done.wait()

    def _cancel(self, prefetch: Prefetch) -> None:
        self._sending.pop(prefetch.attempt.node_uuid, None)
        self._sends.cancel(prefetch.attempt.node_uuid)

    def _wrong(self, entry: Entry, prefetch: Prefetch) -> str:
        """Return why a prefetch is of no use; empty if it is of use."""
        node = self.state.registry.get(prefetch.attempt.node_id)
        if prefetch.done.is_set() and prefetch.error is not None:
            if isinstance(prefetch.error, NodeError):
                self._blame(prefetch, prefetch.error)
            return str(prefetch.error)
        if node is None:
            return "the node was deleted"
        if any(getattr(entry.task, name) != getattr(prefetch.task, name) for name in _SETTINGS):
            return "announced again with other settings"
        if why := refusal(node.facts(), Needs(images=prefetch.files), self.runtime.clock()):
            return f"the node {why}" if why.startswith("takes") else f"the node is {why}"
        return "nothing was uploaded for a while" if self._rests(entry) else ""

    def _blame(self, prefetch: Prefetch, error: NodeError) -> None:
        """Blame the upload for a refusal, and prefetch it nowhere else; blame the node for all other errors."""
        node_id, uuid = prefetch.attempt.node_id, prefetch.task.uuid
        failure = classify_refusal(error) if isinstance(error, NodeRefused) else Failure.DISPATCH
        if failure is Failure.REFUSED:
            self._refused.add(uuid)
        else:
            self.state.registry.health.set_aside(node_id, RULES[failure].set_aside)
            self.state.registry.health.failed(node_id, uuid, failure, str(error), 0.0)

    def _rests(self, entry: Entry) -> bool:
        last = max(entry.last_activity, self.spool.last_change(entry.task.uuid))
        return entry.task.phase is Phase.RECEIVING and self.runtime.clock.age(last) > RESTING

    async def take(self, entry: Entry, node: Node) -> Prefetch | None:
        """Return the prefetch of a task that goes to `node` now. One on another node, or of no use, is discarded."""
        uuid = entry.task.uuid
        held = {file.name for file in await self.spool.listing(uuid)}
        prefetch = self._prefetches.get(uuid)
        if prefetch is None:
            await self._end(entry, "interrupted")
            return None
        why = "another node is free" if prefetch.attempt.node_id != node.record.id else self._wrong(entry, prefetch)
        if not why and not prefetch.names <= held:
            why = "a prefetched file is no longer held"
        if why:
            await self._discard(entry, why)
            return None
        self.runtime.metrics.prefetches.labels("used").inc()
        self._pop(uuid)
        return prefetch

    async def _discard(self, entry: Entry, why: str) -> None:
        self._drop(entry.task.uuid)
        await self._end(entry, why)

    async def _end(self, entry: Entry, why: str) -> None:
        """End the stored attempt, if there is one; the cleaner removes the files from its node."""
        async with self._ending:
            attempt = entry.attempt
            if attempt is None or attempt.stage is not Stage.PREFETCHING:
                return
            ended = attempt.ended(self.runtime.clock(), DISCARDED, Cleanup.REMOVE)
            with suppress(StaleTask):
                text = f"prefetch to {attempt.node_name} discarded: {why}"
                await self.state.tasks.change(entry, text, attempt=ended)

    def _drop(self, uuid: str) -> None:
        """Stop a prefetch that is of no use."""
        prefetch = self._pop(uuid)
        if prefetch is not None:
            self._cancel(prefetch)
            self.runtime.metrics.prefetches.labels("discarded").inc()
            self.runtime.metrics.sent.inc(prefetch.transfer.sent_bytes)

    def _pop(self, uuid: str) -> Prefetch | None:
        prefetch = self._prefetches.pop(uuid, None)
        node = self.state.registry.get(prefetch.attempt.node_id) if prefetch is not None else None
        if node is not None:
            node.prefetches.discard(uuid)
        return prefetch
