# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Running tasks: asked how they are, their console lines kept, their end seen, their results made sure of."""

from __future__ import annotations

from typing import Final

import structlog

from clusterodm.aio import Clock, Leadership, WorkQueue
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.cluster.tasks.redelivery import Redelivery
from clusterodm.cluster.tasks.relay import Look, Relay
from clusterodm.core.errors import BadResults, NodeForgot, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.options import added_options
from clusterodm.core.retry import FETCHED, Failure, restarts
from clusterodm.core.tasks import (
    CANCELED_CODE,
    COMPLETED_CODE,
    FAILED_CODE,
    QUEUED_CODE,
    RUNNING_CODE,
    Attempt,
    Phase,
)
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import CALL_TIMEOUT, NodeClient, Snapshot

_log = structlog.get_logger("tracker")

#: Times in a row that a node must not know a task before we believe it.
_MISSES: Final = 2
#: With many running tasks each is asked less often: this many a second in all.
_POLLS_PER_SECOND: Final = 100
#: Times that results may be missing on a node that says completed.
_RESULT_TRIES: Final = 5
#: Seconds that a node has for an answer even if it is given up right after.
_SHORTEST_CALL: Final = 1.0
#: Attempts with another number of images than was sent that end unseen and uncharged; further ones are charged.
_MISCOUNTS: Final = 3
_OVER: Final = (COMPLETED_CODE, FAILED_CODE, CANCELED_CODE)
_CUT: Final = "[clusterodm] the rest of the output could not be read from the node"
#: Seconds between two of them at most; each pause is twice as long as the one before.
_LONGEST_PAUSE: Final = 30.0


class Tracker:
    """Follows tasks in phases RUNNING and COLLECTING."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        attempts: Attempts,
        collector: Collector,
        redelivery: Redelivery,
        consoles: Consoles,
        client: NodeClient,
        *,
        leadership: Leadership,
        interval: float,
        lost_after: float,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._attempts = attempts
        self._collector = collector
        self._redelivery = redelivery
        self._consoles = consoles
        self._relay = Relay(tasks, consoles, client)
        self._interval = interval
        self._lost_after = lost_after
        self._clock = clock
        self._polls: WorkQueue[str] = WorkQueue("tracker", self._follow, concurrency=200, leadership=leadership)
        tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        entry.unreachable_since, entry.misses = 0.0, 0
        if entry.attempt is not None and entry.task.phase is not Phase.RUNNING:
            self._relay.forget(entry.attempt)
        if entry.task.phase in (Phase.RUNNING, Phase.COLLECTING):
            self._polls.put(entry.task.uuid, self._interval / 4 if entry.task.phase is Phase.RUNNING else 0.0)
        else:
            self._polls.cancel(entry.task.uuid)

    def on_elected(self) -> None:
        """After a restart: follow again what was running."""
        for entry in self._tasks.active():
            self._task_changed(entry)

    def look(self, uuid: str) -> None:
        """Ask for this task soon: its node says that something happened."""
        entry = self._tasks.get(uuid)
        if entry is not None and entry.task.phase is Phase.RUNNING:
            self._polls.put(uuid)

    async def run(self) -> None:
        """Follow for ever."""
        await self._polls.run()

    async def _follow(self, uuid: str) -> float | None:
        entry = self._tasks.get(uuid)
        if entry is None or entry.attempt is None or entry.task.phase not in (Phase.RUNNING, Phase.COLLECTING):
            return None
        node = self._registry.get(entry.attempt.node_id)
        try:
            if node is None:
                await self._attempts.failed(entry, Failure.UNREACHABLE, "the node was deleted")
            elif entry.task.phase is Phase.RUNNING:
                return await self._look(entry, entry.attempt, node)
            else:
                return await self._collect(entry, entry.attempt, node)
        except StaleTask as stale:
            _log.info("look is moot", task=uuid, why=str(stale))
        return None

    async def _look(self, entry: Entry, attempt: Attempt, node: Node) -> float | None:
        if wait := self._redelivery.wait(entry):
            return wait
        try:
            seconds = min(CALL_TIMEOUT, max(_SHORTEST_CALL, self._left(entry)))
            look = await self._relay.look(attempt, node, seconds)
        except NodeForgot as error:
            entry.misses += 1
            if entry.misses < _MISSES:
                return self._interval
            await self._attempts.failed(entry, Failure.FORGOTTEN, str(error))
        except (NodeUnreachable, NodeRefused) as error:
            return await self._unreachable(entry, str(error))
        else:
            entry.unreachable_since, entry.misses = 0.0, 0
            if entry.attempt is attempt and entry.task.phase is Phase.RUNNING:
                await self._take(entry, attempt, node, look)
                return max(self._interval, len(self._polls) / _POLLS_PER_SECOND)
        return None

    async def _unreachable(self, entry: Entry, why: str) -> float | None:
        """One missed answer proves nothing; many over a long time do."""
        entry.unreachable_since = entry.unreachable_since or self._clock.steady()
        if (left := self._left(entry)) > 0:
            return min(self._interval * 2, 30.0, left)
        await self._attempts.failed(entry, Failure.UNREACHABLE, why)
        return None

    def _left(self, entry: Entry) -> float:
        """Seconds until the node of a task is given up, if it goes on giving no answer."""
        if not entry.unreachable_since:
            return self._lost_after
        return self._lost_after - (self._clock.steady() - entry.unreachable_since)

    async def _take(self, entry: Entry, attempt: Attempt, node: Node, look: Look) -> None:
        snapshot = look.snapshot
        if not await self._confirmed(entry, attempt, snapshot):
            return
        code = snapshot.status.code
        if not await self._relay.keep(entry, attempt, node, look) and code in _OVER:
            await self._consoles.append(attempt.task, [_CUT])
        attempt = entry.attempt or attempt
        self._tasks.progress(
            entry,
            progress=min(100.0, max(0.0, snapshot.progress)),
            processing_time=_processing_time(snapshot),
            # one that is begun again has been seen running
            node_code=RUNNING_CODE if code == QUEUED_CODE and restarts(attempt.reason) else code,
            added_options=added_options(entry.task.options, snapshot.options),
        )
        if not entry.task.date_created:
            await self._adopt(entry, snapshot)
        if code == COMPLETED_CODE:
            await self._tasks.advance(
                entry, Phase.COLLECTING, f"done on {attempt.node_name}; looking at its results", node_code=code
            )
        elif code == FAILED_CODE:
            text = snapshot.status.error_message
            if text or not await self._redelivery.failed(entry, attempt, node):
                await self._attempts.failed_there(entry, text)
        elif code == CANCELED_CODE:
            await self._attempts.failed(entry, Failure.CANCELED_THERE)

    async def _confirmed(self, entry: Entry, attempt: Attempt, snapshot: Snapshot) -> bool:
        """Whether the node has looked at its files, and has the images that were sent. Until then nothing of the
        attempt is shown; one with another number of images ends: an upload without an answer may be there twice."""
        if entry.confirmed == attempt.number or attempt.expected_images < 0 or snapshot.images_count < 0:
            return True
        code = snapshot.status.code
        if code in (FAILED_CODE, CANCELED_CODE):
            return True
        if code == RUNNING_CODE and snapshot.processing_time < 0:
            return False  # its files are still being put in place, and the number is a guess
        if snapshot.images_count == attempt.expected_images:
            entry.confirmed = attempt.number
            return True
        entry.miscounts += 1
        failure = Failure.MISCOUNTED if entry.miscounts <= _MISCOUNTS else Failure.MISCOUNTS
        text = f"{attempt.expected_images} images were sent, and it has {snapshot.images_count}"
        await self._attempts.failed(entry, failure, text)
        return False

    async def _adopt(self, entry: Entry, snapshot: Snapshot) -> None:
        """An imported task: its node knows what it is."""
        await self._tasks.change(
            entry,
            name=snapshot.name,
            options=snapshot.options,
            date_created=snapshot.date_created,
            file_count=max(0, snapshot.images_count),
            image_count=max(0, snapshot.images_count),
            counted_files=max(0, snapshot.images_count),
        )

    async def _collect(self, entry: Entry, attempt: Attempt, node: Node) -> float | None:
        try:
            await self._collector.collect(entry, attempt, node)
        except (NodeForgot, NodeRefused, BadResults) as error:
            entry.misses += 1
            if entry.misses < _RESULT_TRIES:
                return min(_LONGEST_PAUSE, self._interval * 2.0**entry.misses)
            failure = Failure.NOT_DELIVERED if attempt.reason == FETCHED else Failure.NO_RESULTS
            await self._attempts.failed(entry, failure, str(error))
        except NodeUnreachable as error:
            return await self._unreachable(entry, str(error))
        return None


def _processing_time(snapshot: Snapshot) -> int:
    """Return the milliseconds of a node's word, -1 while it has none; a node whose clock was set back says less."""
    return -1 if snapshot.processing_time == -1 else max(0, int(snapshot.processing_time))
