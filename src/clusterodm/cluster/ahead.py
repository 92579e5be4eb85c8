# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Send ahead: files go to a free node while their client still uploads, so that after the commit only the rest is left.

An upload that is sent ahead takes no slot: a committed task that wants one gets it. What was sent is of use if, at the
commit, its node has a slot; else the node is told to remove it. All of it is work of the replica that leads.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from clusterodm.aio import Clock, Duty, WorkQueue, every
from clusterodm.cluster.callbacks import Callbacks
from clusterodm.cluster.entry import Entry
from clusterodm.cluster.registry import Node, Registry
from clusterodm.cluster.tasks import Tasks
from clusterodm.core.errors import FilesLost, NodeError, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.files import HeldFile
from clusterodm.core.names import SEED, counted_files, is_archive
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, best, refusal
from clusterodm.core.retry import RULES, Failure, classify_refusal
from clusterodm.core.tasks import TAKEN_BACK, Attempt, Cleanup, Phase, Stage, Task, node_uuid
from clusterodm.nodeodm import NodeClient, Transfer, Transfers
from clusterodm.observe import Metrics
from clusterodm.spool import Spool

#: Bytes of an upload from which on it is worth it: fewer are sent in a moment.
WORTH: Final = 8 << 20
#: Seconds between a file and the look at its upload (many files come in that time), and between two looks.
_SETTLE: Final = 0.05
_LOOK: Final = 1.0
#: Seconds without a file after which an upload loses what was sent ahead.
RESTING: Final = 900.0
#: Times that one upload is sent ahead at most.
_TRIES: Final = 5
#: What a node was told about a task. When it changes, what was sent is of no use.
_TOLD: Final = ("name", "options", "skip_post_processing", "outputs")


class Sent:
    """What is sent ahead of one upload."""

    def __init__(self, task: Task, attempt: Attempt, transfer: Transfer) -> None:
        self.task = task
        self.attempt = attempt
        self.transfer = transfer
        #: Files that were sent or are to be.
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


class Ahead:
    """Sends ahead."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        spool: Spool,
        client: NodeClient,
        metrics: Metrics,
        *,
        most: int,
        transfers: Transfers,
        callbacks: Callbacks,
        sender: str,
        duty: Duty,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._spool = spool
        self._client = client
        self._metrics = metrics
        #: Uploads at a time.
        self.most = most
        self._transfers = transfers
        self._callbacks = callbacks
        self._sender = sender
        self._duty = duty
        self._clock = clock
        self._sent: dict[str, Sent] = {}
        #: Uploads that a node refused.
        self._refused: set[str] = set()
        #: Held while an attempt is ended, so that it ends once.
        self._ending = asyncio.Lock()
        #: Those that are being sent, by the uuid on their node.
        self._sending: dict[str, Sent] = {}
        self._sends: WorkQueue[str] = WorkQueue("ahead", self._send, workers=2 * most + 1)
        self._looks: WorkQueue[str] = WorkQueue("ahead", self._look, workers=1, duty=duty)
        tasks.watch(self._task_changed)
        registry.watch(self._look_at_all)

    def nodes(self) -> dict[str, int]:
        """The node that has files already, by task."""
        return {uuid: sent.attempt.node_id for uuid, sent in self._sent.items()}

    def grew(self, uuid: str, file: HeldFile) -> None:
        """A file of an upload is here."""
        sent = self._sent.get(uuid)
        if sent is not None:
            self._add(sent, uuid, file)
        elif self.most:
            self._looks.put(uuid, _SETTLE)

    def _add(self, sent: Sent, uuid: str, file: HeldFile) -> None:
        if file.name not in sent.names and not is_archive(file.name):  # it is unpacked here, or deleted there
            sent.names.add(file.name)
            sent.files += file.name != SEED
            sent.transfer.add(self._spool.path(uuid, file.name), file.size)

    def _task_changed(self, entry: Entry) -> None:
        """One that its owner removed, or that was taken up elsewhere."""
        if entry.task.phase not in (Phase.RECEIVING, Phase.QUEUED):
            self._drop(entry.task.uuid)
            self._refused.discard(entry.task.uuid)

    def _look_at_all(self) -> None:
        for uuid in self._sent:
            self._looks.put(uuid)

    def recover(self) -> None:
        """When the duty begins: what others sent ahead is taken back, and may be sent anew."""
        for entry in self._tasks.active():
            if entry.attempt is not None and entry.attempt.stage is Stage.AHEAD:
                self._looks.put(entry.task.uuid)

    async def run(self) -> None:
        """Send ahead for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._looks.run(), name="ahead")
                group.create_task(every(_LOOK, self._sweep, "ahead"), name="ahead sweep")
        finally:
            for uuid in list(self._sent):
                self._drop(uuid)

    async def send(self) -> None:
        """For ever: the sending itself, which goes on where the duty ends after a commit."""
        try:
            await self._sends.run()
        finally:
            self._transfers.close()

    async def _sweep(self) -> None:
        """Files that came in at other replicas."""
        if self._tasks.others and self.most:
            for entry in self._tasks.active():
                if entry.task.phase is Phase.RECEIVING:
                    self._looks.put(entry.task.uuid)

    async def _look(self, uuid: str) -> float | None:
        entry = self._tasks.get(uuid)
        if entry is None or entry.task.phase not in (Phase.RECEIVING, Phase.QUEUED):
            return None
        sent = self._sent.get(uuid)
        if sent is None:
            if entry.task.phase is Phase.QUEUED:
                return None  # whoever sends it to a node looks at what was sent ahead
            await self._end(entry, "we were interrupted")
            return await self._begin(entry)
        if why := self._wrong(entry, sent):
            await self._take_back(entry, why)
            return _SETTLE
        if self._tasks.others:
            for file in await self._spool.listing(uuid):
                self._add(sent, uuid, file)
        return _LOOK

    async def _begin(self, entry: Entry) -> float | None:
        """Choose a node and begin, where it is worth it."""
        uuid = entry.task.uuid
        if len(self._sent) >= self.most or entry.task.attempts >= _TRIES or not self._with_room():
            return None
        if self._rests(entry) or uuid in self._refused:
            return None
        files = [file for file in await self._spool.listing(uuid) if not is_archive(file.name)]
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
            stage=Stage.AHEAD,
            started_at=self._clock(),
            sender=self._sender,
        )
        async with self._tasks.locked(entry):
            if entry.task.phase is not Phase.RECEIVING:
                return None
            text = f"files are sent ahead to {node.address}"
            await self._tasks.change(entry, text, attempt=attempt, attempts=number)
            self._start(entry.task, attempt, node, files)
        return _LOOK

    def _with_room(self) -> list[NodeFacts]:
        """Nodes with a slot for more than what goes there already."""
        return [node for node in self._registry.facts() if node.free > node.ahead]

    def _choose(self, files: int) -> Node | None:
        """The node for an upload that has so many files by now: if there is one, one that takes twice as many, because
        it grows."""
        free, now = self._with_room(), self._clock()
        for count in (2 * files, files):
            if found := best(free, Needs(images=count), now):
                return self._registry.get(found.id)
        return None

    def _start(self, task: Task, attempt: Attempt, node: Node, files: list[HeldFile]) -> None:
        transfer = self._transfers.to(node.address, attempt.node_uuid)
        sent = self._sent[task.uuid] = Sent(task, attempt, transfer)
        node.ahead.add(task.uuid)
        for file in files:
            self._add(sent, task.uuid, file)
        self._sending[attempt.node_uuid] = sent
        self._sends.put(attempt.node_uuid)

    async def _send(self, key: str) -> None:
        sent = self._sending.pop(key, None)
        node = self._registry.get(sent.attempt.node_id) if sent is not None else None
        if sent is None:
            return
        sent.begun = True
        sent.error = NodeUnreachable("the transfer was stopped")
        try:
            if node is not None:
                task = self._callbacks.for_node(sent.task, sent.attempt.number)
                await self._client.init(node.address, task, key, self._callbacks.webhook(task.uuid))
                await sent.transfer.run()
                sent.error = None
        except (NodeError, FilesLost) as error:
            sent.error = error
        finally:
            sent.done.set()
            self._looks.put(sent.task.uuid)

    async def stop(self, sent: Sent) -> None:
        """Send no more of what was taken; nothing is in flight after it."""
        self._cancel(sent)
        if sent.begun:
            await sent.done.wait()

    def _cancel(self, sent: Sent) -> None:
        self._sending.pop(sent.attempt.node_uuid, None)
        self._sends.cancel(sent.attempt.node_uuid)

    def _wrong(self, entry: Entry, sent: Sent) -> str:
        """Why what was sent is of no use; empty: it is."""
        node = self._registry.get(sent.attempt.node_id)
        if sent.done.is_set() and sent.error is not None:
            if isinstance(sent.error, NodeError):
                self._blame(sent, sent.error)
            return str(sent.error)
        if node is None:
            return "the node was deleted"
        if any(getattr(entry.task, name) != getattr(sent.task, name) for name in _TOLD):
            return "it was announced again with something else"
        if why := refusal(node.facts(), Needs(images=sent.files), self._clock()):
            return f"the node {why}" if why.startswith("takes") else f"the node is {why}"
        return "nothing was uploaded for a while" if self._rests(entry) else ""

    def _blame(self, sent: Sent, error: NodeError) -> None:
        """What a node refused is the fault of the upload, which goes ahead to no other; all else is the node's."""
        node_id, uuid = sent.attempt.node_id, sent.task.uuid
        failure = classify_refusal(error) if isinstance(error, NodeRefused) else Failure.DISPATCH
        if failure is Failure.REFUSED:
            self._refused.add(uuid)
        else:
            self._registry.health.set_aside(node_id, RULES[failure].set_aside)
            self._registry.health.failed(node_id, uuid, failure, str(error), 0.0)

    def _rests(self, entry: Entry) -> bool:
        last = max(entry.last_activity, self._spool.last_change(entry.task.uuid))
        return entry.task.phase is Phase.RECEIVING and self._clock.age(last) > RESTING

    async def take(self, entry: Entry, node: Node) -> Sent | None:
        """What was sent ahead of a task that goes to `node` now. What was sent elsewhere, or is of no use, is taken
        back."""
        uuid = entry.task.uuid
        held = {file.name for file in await self._spool.listing(uuid)}
        sent = self._sent.get(uuid)
        if sent is None:
            await self._end(entry, "we were interrupted")
            return None
        why = "another node is free" if sent.attempt.node_id != node.record.id else self._wrong(entry, sent)
        if not why and not sent.names <= held:
            why = "a file of it was not kept"
        if why:
            await self._take_back(entry, why)
            return None
        self._metrics.ahead.labels("used").inc()
        self._pop(uuid)
        return sent

    async def _take_back(self, entry: Entry, why: str) -> None:
        self._drop(entry.task.uuid)
        await self._end(entry, why)

    async def _end(self, entry: Entry, why: str) -> None:
        """End the attempt in the store, if there is one; the cleaner has its node remove what was sent."""
        async with self._ending:
            attempt = entry.attempt
            if attempt is None or attempt.stage is not Stage.AHEAD:
                return
            ended = attempt.ended(self._clock(), TAKEN_BACK, Cleanup.REMOVE)
            with suppress(StaleTask):
                text = f"what was sent ahead to {attempt.node_name} is taken back: {why}"
                await self._tasks.change(entry, text, attempt=ended)

    def _drop(self, uuid: str) -> None:
        """Send no more of what is of no use."""
        sent = self._pop(uuid)
        if sent is not None:
            self._cancel(sent)
            self._metrics.ahead.labels("taken back").inc()
            self._metrics.sent.inc(sent.transfer.sent_bytes)

    def _pop(self, uuid: str) -> Sent | None:
        sent = self._sent.pop(uuid, None)
        node = self._registry.get(sent.attempt.node_id) if sent is not None else None
        if node is not None:
            node.ahead.discard(uuid)
        return sent
