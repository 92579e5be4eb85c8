# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the queue to a node: placement, files, commit.

The leader decides which task goes to which node. Whichever replica claims the attempt first sends its files; one that
sends much already hesitates. What a replica was sending when it died is resumed by the leader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from clusterodm.aio import Clock, Leadership, WorkQueue, every
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.fairshare import FairShare
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.prefetch import Prefetch, Prefetcher
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.core.durations import elapsed
from clusterodm.core.errors import FilesLost, NodeError, NodeForgot, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.files import HeldFile
from clusterodm.core.retry import Failure
from clusterodm.core.scheduling import Placement, plan
from clusterodm.core.tasks import ON_NODE, Attempt, Phase, Stage, Task, node_uuid
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import NodeClient, Transfer, Transfers
from clusterodm.observe import Metrics

_log = structlog.get_logger("dispatcher")

#: Seconds between two looks at the queue when nothing happens: back-offs and set-aside times end by themselves.
_SWEEP = 1.0
#: Times the length of a look that must pass before the next one, and seconds that must pass in any case: what comes in
#: that time is decided on together.
_REST = 2.0
_LEAST_REST = 0.01
#: Seconds by which a claim is put off for each transfer that is under way here, so that others come first.
_HESITATE = 0.02
_COMMIT_TRIES = 3


class Dispatcher:
    """Gives waiting tasks to free slots."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        attempts: Attempts,
        holdings: Holdings,
        consoles: Consoles,
        client: NodeClient,
        metrics: Metrics,
        replicas: Replicas,
        prefetcher: Prefetcher,
        *,
        leadership: Leadership,
        max_sending: int,
        transfers: Transfers,
        callbacks: Callbacks,
        fair: FairShare,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._attempts = attempts
        self._holdings = holdings
        self._consoles = consoles
        self._client = client
        self._metrics = metrics
        self._replicas = replicas
        self._prefetcher = prefetcher
        self._leadership = leadership
        self._max_sending = max_sending
        self._transfers = transfers
        self._callbacks = callbacks
        self._fair = fair
        self._clock = clock
        self._chosen: dict[str, int] = {}
        #: Tasks that are being worked on here.
        self._working: set[str] = set()
        #: Tasks that wait for nothing but a slot, next first, or will in a moment; and what others have to say about
        #: such a wait.
        self.wanting: list[str] = []
        self.soon: list[str] = []
        self.waits = Waits(consoles, clock)
        self.remark: Callable[[str], str] = lambda uuid: ""
        #: Transfers that are under way, by task.
        self.sending: dict[str, Transfer] = {}
        self._sends: WorkQueue[str] = WorkQueue("dispatch", self._dispatch, concurrency=max_sending + prefetcher.most)
        self._wake = asyncio.Event()
        #: The leadership begins.
        self._leads = asyncio.Event()
        tasks.watch(self._task_changed)
        registry.watch(self._wake.set)

    def _task_changed(self, entry: Entry) -> None:
        task, attempt = entry.task, entry.attempt
        if task.phase in (Phase.FINISHED, Phase.REMOVED):
            self._chosen.pop(task.uuid, None)
            self._sends.cancel(task.uuid)
        if attempt is not None:
            self._hold_slot(task, attempt)
            if task.phase is Phase.DISPATCHING and not attempt.sender:
                self._sends.put(task.uuid, _HESITATE * len(self.sending))
            elif task.phase is Phase.QUEUED and attempt.sender != self._replicas.me.id:
                self._attempts.learn(entry)
        self._wake.set()

    def _hold_slot(self, task: Task, attempt: Attempt) -> None:
        """A slot is taken from the choice on until it is known how the task ended on the node: one that fails all that
        it gets would have others already when that is seen."""
        node = self._registry.get(attempt.node_id)
        if task.phase is Phase.DISPATCHING and node is not None:
            self._registry.reserve(node, task.uuid)
        elif task.phase is Phase.RUNNING and node is not None:
            self._registry.committed(node, task.uuid)
        elif task.phase is Phase.COLLECTING and node is not None:
            node.running.discard(task.uuid)
        elif task.phase not in ON_NODE:
            self._registry.release(attempt.node_id, task.uuid)

    async def on_elected(self) -> None:
        """Resume what was on its way from replicas that are gone, and look at the queue."""
        self._leads.set()
        self._wake.set()
        for entry in list(self._tasks.active()):
            if entry.attempt is not None and entry.task.phase in (Phase.DISPATCHING, Phase.RUNNING):
                self._hold_slot(entry.task, entry.attempt)
                if entry.task.phase is Phase.DISPATCHING and self._orphaned(entry.attempt):
                    await self._take_up(entry)

    def _orphaned(self, attempt: Attempt) -> bool:
        return bool(attempt.sender) and not self._replicas.alive(attempt.sender)

    async def _find_orphans(self) -> None:
        """Have what a dead replica was sending taken up, and what nobody sends claimed."""
        for entry in self._tasks.active():
            if entry.attempt is not None and entry.task.phase is Phase.DISPATCHING:
                lost = self._leadership.held and self._orphaned(entry.attempt)
                if lost or not entry.attempt.sender:
                    self._sends.put(entry.task.uuid)

    async def _take_up(self, entry: Entry) -> None:
        """Resume a dispatch that was interrupted by a restart or a failed write: sending begins anew; what may have
        been committed is looked for on its node."""
        if entry.attempt is not None and entry.attempt.stage is Stage.COMMITTING:
            await self._now_running(entry, entry.attempt, "interrupted at the commit; the node may have the task")
        else:
            await self._attempts.failed(entry, Failure.INTERRUPTED)

    async def run(self) -> None:
        """Place and send for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sends.run(), name="dispatch")
                group.create_task(every(_SWEEP, self._find_orphans, "dispatch"), name="orphans")
                while True:
                    self._wake.clear()
                    self._leads.clear()
                    began = time.monotonic()
                    self._look()
                    if self._leadership.held:
                        await self.waits.tell()
                    # a queue that takes long to decide on is looked at less often, so that all else goes on
                    await asyncio.sleep(min(_SWEEP, max(_LEAST_REST, _REST * (time.monotonic() - began))))
                    try:
                        async with asyncio.timeout(_SWEEP):
                            await (self._wake if self._leadership.held else self._leads).wait()
                    except TimeoutError:
                        continue
        finally:
            self._transfers.close()

    def look_soon(self) -> None:
        """Something that the queue depends on has changed."""
        self._wake.set()

    def _look(self) -> None:
        """Decide for all waiting tasks and, if that is ours to do, start what can go."""
        if not self._tasks.any_queued(besides=self._chosen):
            self.wanting, self.soon = [], []
            self.waits.look({}, {})
            return
        entries = {entry.task.uuid: entry for entry in self._tasks.active()}
        taken_up = sum(map(self._to_be_taken_up, entries.values()))
        decided = plan(
            (self._as_decided(entry.task) for entry in entries.values()),
            self._registry.free_slots(),
            self._clock(),
            max_sending=self._max_sending * len(self._replicas.there) + taken_up,
            ageing=self._fair.ageing,
            prefetched=self._prefetcher.nodes(),
            alone={node for entry in entries.values() if entry.task.alone and (node := self._node_of(entry))},
            machines=self._registry.machines(),
            usage=self._fair.usage(),
        )
        self.wanting, self.soon = decided.wanting, decided.soon
        for uuid, why in decided.waiting.items():
            remark = self.remark(uuid)
            entries[uuid].wait = f"{why}; {remark}" if remark else why
        known = self._leadership.held or not self._registry.machines()
        self.waits.look(decided.stuck, {uuid: entries[uuid].wait for uuid in decided.stuck}, machines_known=known)
        for placement in decided.placements if self._leadership.held else ():
            self._start(placement)

    def _node_of(self, entry: Entry) -> int | None:
        """The node on which a task is, or for which it was chosen."""
        if entry.attempt is not None and entry.task.phase in (Phase.DISPATCHING, Phase.RUNNING):
            return entry.attempt.node_id
        return self._chosen.get(entry.task.uuid)

    def _to_be_taken_up(self, entry: Entry) -> bool:
        """Whether a task is on its way only by name, so that it takes no turn from others."""
        if entry.attempt is None or entry.task.phase is not Phase.DISPATCHING:
            return False
        ours = entry.attempt.sender == self._replicas.me.id
        return self._orphaned(entry.attempt) or (ours and entry.task.uuid not in self._working)

    def _as_decided(self, task: Task) -> Task:
        """A task that was chosen counts as on its way, also before that is kept."""
        chosen = task.uuid in self._chosen and task.phase is Phase.QUEUED
        return msgspec.structs.replace(task, phase=Phase.DISPATCHING) if chosen else task

    def _start(self, placement: Placement) -> None:
        node = self._registry.get(placement.node)
        if node is not None:
            self._registry.reserve(node, placement.task)
            self._chosen[placement.task] = placement.node
            self._sends.put(placement.task)

    async def _dispatch(self, uuid: str) -> None:
        entry, node = self._tasks.get(uuid), self._registry.get(self._chosen.get(uuid, 0))
        self._working.add(uuid)
        try:
            if entry is not None and entry.task.phase is Phase.DISPATCHING:
                await self._go_on(entry)
            elif entry is not None and node is not None and entry.task.phase is Phase.QUEUED:
                await self._begin(entry, node)
        except StaleTask as stale:
            _log.info("dispatch is moot", task=uuid, why=str(stale))
        finally:
            self._chosen.pop(uuid, None)
            self._working.discard(uuid)
            if node is not None and (entry is None or entry.task.phase not in ON_NODE):
                self._registry.release(node.record.id, uuid)
            self._wake.set()

    async def _go_on(self, entry: Entry) -> None:
        """Claim an attempt that nobody sends yet; take up one whose sender failed."""
        (_, attempt), me = entry.require_on_node(), self._replicas.me.id
        if not attempt.sender:
            await self._send(entry, await self._tasks.change_attempt(entry, attempt, sender=me))
        elif attempt.sender == me or (self._leadership.held and self._orphaned(attempt)):
            await self._take_up(entry)

    async def _begin(self, entry: Entry, node: Node) -> None:
        """Keep the choice. Where there are others the attempt can be claimed by any of them."""
        if not entry.task.charged and not entry.task.not_before:
            self._metrics.waits.observe(elapsed(entry.task.committed_at, self._clock()))
        prefetch = await self._prefetcher.take(entry, node)
        if prefetch is not None:
            await self._begin_prefetched(entry, node, prefetch)
            return
        alone = len(self._replicas.there) == 1
        task, number = entry.task, entry.task.attempts + 1
        attempt = Attempt(
            task=task.uuid,
            number=number,
            node_id=node.record.id,
            node_name=str(node.address),
            node_uuid=node_uuid(task.uuid, number),
            started_at=max(self._clock(), task.committed_at),
            console_start=await self._consoles.count(task.uuid),
            sender=self._replicas.me.id if alone else "",
        )
        await self._tasks.advance(
            entry, Phase.DISPATCHING, f"attempt {number}: sending to {node.address}", attempt=attempt, attempts=number
        )
        if alone:
            await self._send(entry, attempt)

    async def _begin_prefetched(self, entry: Entry, node: Node, prefetch: Prefetch) -> None:
        """Its files are on the node already, or on their way there from here."""
        try:
            attempt = msgspec.structs.replace(
                prefetch.attempt,
                stage=Stage.SENDING,
                started_at=max(self._clock(), entry.task.committed_at),
                console_start=await self._consoles.count(entry.task.uuid),
            )
            count = f"{prefetch.transfer.arrived_files} of {entry.task.file_count} files"
            text = f"attempt {attempt.number}: {count} were prefetched to {node.address}, the rest follows"
            await self._tasks.advance(entry, Phase.DISPATCHING, text, attempt=attempt)
        except BaseException:
            await self._prefetcher.stop(prefetch)
            raise
        await self._send(entry, attempt, prefetch)

    async def _send(self, entry: Entry, attempt: Attempt, prefetch: Prefetch | None = None) -> None:
        node = self._registry.get(attempt.node_id)
        try:
            if node is None:
                await self._attempts.failed(entry, Failure.UNREACHABLE, "the node was deleted")
                return
            files = await self._holdings.whole(entry.task, besides=prefetch.names if prefetch is not None else ())
            await self._send_files(entry, attempt, node, files, prefetch)
        except FilesLost as error:
            await self._attempts.failed(entry, Failure.FILES, str(error))
        except NodeRefused as error:
            await self._attempts.refused(entry, error)
        except NodeError as error:
            await self._attempts.failed(entry, Failure.DISPATCH, str(error))
        else:
            images = await self._holdings.expected_images(entry.task.uuid, files)
            attempt = await self._tasks.change_attempt(entry, attempt, stage=Stage.COMMITTING, expected_images=images)
            await self._commit(entry, attempt, node)
        finally:
            if prefetch is not None:
                await self._prefetcher.stop(prefetch)

    async def _send_files(
        self, entry: Entry, attempt: Attempt, node: Node, files: list[HeldFile], prefetch: Prefetch | None
    ) -> None:
        """All of these files, or those that were not prefetched. Raises a NodeError, or FilesLost."""
        uuid = entry.task.uuid
        transfer = prefetch.transfer if prefetch is not None else self._transfers.to(node.address, attempt.node_uuid)
        for file in files:
            if prefetch is None or file.name not in prefetch.names:
                transfer.add(self._holdings.path(uuid, file.name), file.size)
        transfer.end()
        transfer.elsewhere = partial(self._registry.has_room_elsewhere, entry.task, node.record.id)
        transfer.prioritise()
        self.sending[uuid] = transfer
        try:
            if prefetch is not None:
                await prefetch.finish()
            else:
                task, webhook = self._callbacks.for_node(entry.task, attempt.number), self._callbacks.webhook(uuid)
                await self._client.init(node.address, task, attempt.node_uuid, webhook)
                await transfer.run()
        finally:
            del self.sending[uuid]
            self._metrics.sent.inc(transfer.sent_bytes)

    async def _commit(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Start the task on its node, once: after a commit without an answer the node is asked whether it has the task,
        and only if it has not is the commit repeated. When it cannot be asked either, the tracker will see."""
        text = f"running on {node.address}"
        for _ in range(_COMMIT_TRIES):
            try:
                await self._client.commit(node.address, attempt.node_uuid)
                break
            except NodeRefused as error:
                await self._attempts.refused(entry, error)
                return
            except (NodeForgot, NodeUnreachable) as error:
                known = await self._knows(node, attempt.node_uuid)
                if known is None:
                    text = f"the commit to {node.address} had no answer ({error}); looking whether it runs there"
                if known is not False:
                    break
        else:
            await self._attempts.failed(entry, Failure.DISPATCH, "the commit was not taken")
            return
        await self._now_running(entry, attempt, text)

    async def _knows(self, node: Node, uuid: str) -> bool | None:
        """Whether the node has the committed task; None when it does not answer."""
        try:
            await self._client.task(node.address, uuid)
        except NodeForgot:
            return False
        except NodeError:
            return None
        return True

    async def _now_running(self, entry: Entry, attempt: Attempt, text: str) -> None:
        running = msgspec.structs.replace(attempt, stage=Stage.RUNNING)
        await self._tasks.advance(
            entry, Phase.RUNNING, text, attempt=running, progress=0, processing_time=-1, node_code=0
        )
