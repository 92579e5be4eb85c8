# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the queue to a node: placement, files, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from clusterodm.aio import WorkQueue
from clusterodm.cluster.attempts import Attempts
from clusterodm.cluster.registry import Node, Registry
from clusterodm.cluster.tasks import Entry, Tasks
from clusterodm.console import Consoles
from clusterodm.core.errors import NodeError, NodeForgot, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.retry import Failure
from clusterodm.core.scheduling import Placement, plan
from clusterodm.core.tasks import Attempt, Phase, Stage, Task, node_uuid
from clusterodm.nodeodm import NodeClient, RateLimit, Transfer
from clusterodm.observe import Metrics
from clusterodm.spool import Spool

_log = structlog.get_logger("dispatcher")

#: Seconds between two looks at the queue when nothing happens: back-offs and set-aside times end by themselves.
_SWEEP = 1.0
_COMMIT_TRIES = 3


class Dispatcher:
    """Gives waiting tasks to free slots."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        attempts: Attempts,
        spool: Spool,
        consoles: Consoles,
        client: NodeClient,
        metrics: Metrics,
        *,
        max_sending: int,
        connections: int,
        upload_speed: int,
        webhook: Callable[[str], str],
        ageing: float,
        clock: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._attempts = attempts
        self._spool = spool
        self._consoles = consoles
        self._client = client
        self._metrics = metrics
        self._max_sending = max_sending
        self._connections = connections
        self._limit = RateLimit(upload_speed)
        self._webhook = webhook
        self._ageing = ageing
        self._clock = clock
        self._chosen: dict[str, int] = {}
        #: Tasks that wait for nothing but a slot, next first, or will in a moment; and what others have to say about
        #: such a wait.
        self.wanting: list[str] = []
        self.soon: list[str] = []
        self.remark: Callable[[str], str] = lambda uuid: ""
        #: Transfers that are under way, by task.
        self.sending: dict[str, Transfer] = {}
        self._threads = ThreadPoolExecutor(max_sending * connections, thread_name_prefix="transfer")
        self._sends: WorkQueue[str] = WorkQueue("dispatch", self._dispatch, workers=max_sending)
        self._wake = asyncio.Event()
        tasks.watch(self._task_changed)
        registry.watch(self._wake.set)

    def _task_changed(self, entry: Entry) -> None:
        if entry.task.phase in (Phase.FINISHED, Phase.REMOVED):
            self._chosen.pop(entry.task.uuid, None)
            self._sends.cancel(entry.task.uuid)
        self._wake.set()

    async def recover(self) -> None:
        """After a restart: take up what was on its way."""
        for entry in list(self._tasks.active()):
            if entry.task.phase is Phase.DISPATCHING:
                await self._take_up(entry)

    async def _take_up(self, entry: Entry) -> None:
        """A dispatch that was interrupted, by a restart or because something could not be kept: what was being sent
        begins anew; what may have been committed is looked for on its node."""
        if entry.attempt is not None and entry.attempt.stage is Stage.COMMITTING:
            await self._now_running(entry, "interrupted at the commit; the node may have the task")
        else:
            await self._attempts.failed(entry, Failure.INTERRUPTED)

    async def run(self) -> None:
        """Place and send for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sends.run(), name="dispatch")
                while True:
                    self._wake.clear()
                    self._look()
                    try:
                        async with asyncio.timeout(_SWEEP):
                            await self._wake.wait()
                    except TimeoutError:
                        continue
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def look_soon(self) -> None:
        """Something that the queue depends on has changed."""
        self._wake.set()

    def _look(self) -> None:
        """Decide for all waiting tasks and start what can go."""
        if not self._tasks.queued:
            self.wanting, self.soon = [], []
            return
        entries = {entry.task.uuid: entry for entry in self._tasks.active()}
        taken_up = sum(
            entry.task.phase is Phase.DISPATCHING and uuid not in self._chosen for uuid, entry in entries.items()
        )
        decided = plan(
            (self._as_decided(entry.task) for entry in entries.values()),
            self._registry.facts(),
            self._clock(),
            max_sending=self._max_sending + taken_up,
            ageing=self._ageing,
        )
        self.wanting, self.soon = decided.wanting, decided.soon
        for uuid, why in decided.waiting.items():
            remark = self.remark(uuid)
            entries[uuid].wait = f"{why}; {remark}" if remark else why
        for placement in decided.placements:
            self._start(placement)

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
        try:
            if entry is not None and entry.task.phase is Phase.DISPATCHING:
                await self._take_up(entry)
            elif entry is not None and node is not None and entry.task.phase is Phase.QUEUED:
                await self._begin(entry, node)
                await self._send(entry, node)
        except StaleTask as stale:
            _log.info("dispatch is moot", task=uuid, why=str(stale))
        finally:
            self._chosen.pop(uuid, None)
            if node is not None and (entry is None or entry.task.phase is not Phase.RUNNING):
                self._registry.release(node.record.id, uuid)
            self._wake.set()

    async def _begin(self, entry: Entry, node: Node) -> None:
        task, number = entry.task, entry.task.attempts + 1
        attempt = Attempt(
            task=task.uuid,
            number=number,
            node_id=node.record.id,
            node_name=str(node.address),
            node_uuid=node_uuid(task.uuid, number),
            started_at=self._clock(),
            console_start=await self._consoles.count(task.uuid),
        )
        if number == 1:
            self._metrics.waits.observe(max(0.0, self._clock() - task.committed_at))
        await self._tasks.advance(
            entry, Phase.DISPATCHING, f"attempt {number}: sending to {node.address}", attempt=attempt, attempts=number
        )

    async def _send(self, entry: Entry, node: Node) -> None:
        attempt = entry.attempt
        assert attempt is not None, "begun"  # noqa: S101 - an invariant of the phases
        try:
            files = [
                self._spool.path(entry.task.uuid, file.name) for file in await self._spool.listing(entry.task.uuid)
            ]
            webhook = self._webhook(entry.task.uuid)
            await self._client.init(node.address, entry.task, attempt.node_uuid, entry.task.options, webhook)
            tls = self._client.trust.context(node.address)
            transfer = Transfer(node.address, attempt.node_uuid, limit=self._limit, executor=self._threads, tls=tls)
            self.sending[entry.task.uuid] = transfer
            try:
                await transfer.send(files, connections=self._connections)
            finally:
                del self.sending[entry.task.uuid]
                self._metrics.sent.inc(transfer.sent_bytes)
        except NodeRefused as error:
            await self._attempts.failed(entry, Failure.REFUSED, str(error))
        except NodeError as error:
            await self._attempts.failed(entry, Failure.DISPATCH, str(error))
        else:
            await self._tasks.change_attempt(entry, msgspec.structs.replace(attempt, stage=Stage.COMMITTING))
            await self._commit(entry, node)

    async def _commit(self, entry: Entry, node: Node) -> None:
        """Start the task on its node, once: after a commit without an answer the node is asked whether it has the task,
        and only if it has not is the commit repeated. When it cannot be asked either, the tracker will see."""
        attempt = entry.attempt
        assert attempt is not None, "begun"  # noqa: S101 - an invariant of the phases
        text = f"running on {node.address}"
        for _ in range(_COMMIT_TRIES):
            try:
                await self._client.commit(node.address, attempt.node_uuid)
                break
            except NodeRefused as error:
                await self._attempts.failed(entry, Failure.REFUSED, str(error))
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
        await self._now_running(entry, text)
        self._registry.committed(node, entry.task.uuid)

    async def _knows(self, node: Node, uuid: str) -> bool | None:
        """Whether the node has the committed task; None when it does not answer."""
        try:
            await self._client.task(node.address, uuid)
        except NodeForgot:
            return False
        except NodeError:
            return None
        return True

    async def _now_running(self, entry: Entry, text: str) -> None:
        assert entry.attempt is not None, "begun"  # noqa: S101 - an invariant of the phases
        attempt = msgspec.structs.replace(entry.attempt, stage=Stage.RUNNING)
        await self._tasks.advance(
            entry, Phase.RUNNING, text, attempt=attempt, progress=0, processing_time=-1, node_code=0
        )
