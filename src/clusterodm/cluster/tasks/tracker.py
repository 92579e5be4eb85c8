# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Running tasks: polled until they end, with their console lines copied and their results checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.attempts import Attempts, Failed
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.cluster.tasks.redelivery import Redelivery
from clusterodm.cluster.tasks.relay import Poll, Relay
from clusterodm.core.errors import BadResults, NodeForgot, NodeRefused, NodeUnreachable, StaleTask
from clusterodm.core.options import added_options
from clusterodm.core.retry import FETCHED, Failure, restarts
from clusterodm.core.tasks import (
    CANCELED_CODE,
    COMPLETED_CODE,
    FAILED_CODE,
    FOLLOWED,
    QUEUED_CODE,
    RUNNING_CODE,
    Attempt,
    Phase,
    Task,
)
from clusterodm.nodeodm import CALL_TIMEOUT, Snapshot

_log = structlog.get_logger("tracker")

#: Times in a row that a node must deny a task before it counts as forgotten.
_MISSES: Final = 2
#: Polls per second over all tasks: with many of them each is polled less often.
_POLLS_PER_SECOND: Final = 100
#: Times that results may be missing on a node that reports a task as completed.
_RESULT_TRIES: Final = 5
#: Seconds for an answer even if the node is given up right afterwards.
_SHORTEST_CALL: Final = 1.0
#: Attempts with a wrong number of images that end unseen and uncharged; further ones are charged.
_MISCOUNTS: Final = 3
_OVER: Final = (COMPLETED_CODE, FAILED_CODE, CANCELED_CODE)
_CUT: Final = "[clusterodm] the rest of the output could not be read from the node"
#: Longest pause before results are tried again; pauses double.
_LONGEST_PAUSE: Final = 30.0


@dataclass(kw_only=True, slots=True, eq=False)
class Tracker:
    """Poll tasks in the phases RUNNING and COLLECTING."""

    state: ClusterState
    attempts: Attempts
    collector: Collector
    redelivery: Redelivery
    relay: Relay
    interval: float
    lost_after: float
    runtime: Runtime
    _polls: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._polls = Controller(
            "tracker",
            self._follow,
            "polls running tasks, appends console lines, collects results",
            keys=self._keys,
            concurrency=200,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.registry.ended.add(self.look)
        self.state.tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        entry.reset_misses()
        if entry.attempt is not None and entry.task.phase is not Phase.RUNNING:
            self.relay.forget(entry.attempt)
        if entry.task.phase in FOLLOWED:
            self._polls.put(entry.task.uuid, self.interval / 4 if entry.task.phase is Phase.RUNNING else 0.0)
        else:
            self._polls.cancel(entry.task.uuid)

    async def _keys(self) -> list[str]:
        """Return tasks to follow; what an earlier term observed of their nodes does not count."""
        followed = [entry for entry in self.state.tasks.active() if entry.task.phase in FOLLOWED]
        for entry in followed:
            entry.reset_misses()
        return [entry.task.uuid for entry in followed]

    def look(self, uuid: str) -> None:
        """Poll a task soon: its node reported a change."""
        entry = self.state.tasks.get(uuid)
        if entry is not None and entry.task.phase is Phase.RUNNING:
            self._polls.put(uuid)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._polls,)

    async def _follow(self, uuid: str) -> float | None:
        entry = self.state.tasks.get(uuid)
        if entry is None or entry.attempt is None or entry.task.phase not in FOLLOWED:
            return None
        try:
            step = await self._step(entry, entry.attempt)
            if not isinstance(step, Failed):
                return step
            await self.attempts.failed(entry, *step)
        except StaleTask as stale:
            _log.info("poll superseded", task=uuid, why=str(stale))
        return None

    async def _step(self, entry: Entry, attempt: Attempt) -> float | Failed | None:
        """Poll or collect a task; return the seconds until the next time, or how its attempt failed."""
        node = self.state.registry.get(attempt.node_id)
        if node is None:
            return Failed(Failure.UNREACHABLE, "the node was deleted")
        if entry.task.phase is Phase.RUNNING:
            return await self._poll(entry, attempt, node)
        return await self._collect(entry, attempt, node)

    async def _poll(self, entry: Entry, attempt: Attempt, node: Node) -> float | Failed | None:
        if wait := self.redelivery.wait(entry):
            return wait
        try:
            seconds = min(CALL_TIMEOUT, max(_SHORTEST_CALL, self._time_left(entry)))
            poll = await self.relay.poll(attempt, node, seconds)
        except NodeForgot as error:
            entry.misses += 1
            if entry.misses < _MISSES:
                return self.interval
            return Failed(Failure.FORGOTTEN, str(error))
        except (NodeUnreachable, NodeRefused) as error:
            return self._unreachable(entry, str(error))
        entry.reset_misses()
        if entry.attempt is not attempt or entry.task.phase is not Phase.RUNNING:
            return None
        failed = await self._apply(entry, attempt, node, poll)
        return failed or max(self.interval, len(self._polls) / _POLLS_PER_SECOND)

    def _unreachable(self, entry: Entry, why: str) -> float | Failed:
        """Give a node up once it has not answered for `lost_after` seconds."""
        entry.unreachable_since = entry.unreachable_since or self.runtime.clock.steady()
        if (remaining := self._time_left(entry)) > 0:
            return min(self.interval * 2, 30.0, remaining)
        return Failed(Failure.UNREACHABLE, why)

    def _time_left(self, entry: Entry) -> float:
        """Return the seconds until the node of a task is given up if it stays silent."""
        if not entry.unreachable_since:
            return self.lost_after
        return self.lost_after - (self.runtime.clock.steady() - entry.unreachable_since)

    async def _apply(self, entry: Entry, attempt: Attempt, node: Node, poll: Poll) -> Failed | None:
        """Keep what a node reports of a task; return how its attempt failed."""
        snapshot = poll.snapshot
        if _is_guessing(snapshot) and entry.confirmed != attempt.number and attempt.expected_images >= 0:
            return None  # nothing of the attempt is shown before its images are counted
        if failed := self._check_count(entry, attempt, snapshot):
            return failed
        code = snapshot.status.code
        if not await self.relay.keep(entry, attempt, node, poll) and code in _OVER:
            await self.relay.consoles.append(attempt.task, [_CUT])
        if entry.attempt is None or entry.attempt.started_at != attempt.started_at:
            return None  # restarted by its owner meanwhile: what was polled is of the run before
        attempt = entry.attempt
        self.state.tasks.progress(
            entry,
            progress=min(100.0, max(0.0, snapshot.progress)),
            processing_time=_processing_time(snapshot),
            node_code=RUNNING_CODE if code == QUEUED_CODE and _was_running(entry.task, attempt) else code,
            added_options=added_options(entry.task.options, snapshot.options),
        )
        if not entry.task.date_created:
            await self._adopt(entry, snapshot)
        if code == COMPLETED_CODE:
            text = f"completed on {attempt.node_name}; checking its results"
            await self.state.tasks.advance(entry, Phase.COLLECTING, text, was=attempt, node_code=code)
        elif code == FAILED_CODE:
            text = snapshot.status.error_message
            if text or not await self.redelivery.failed(entry, attempt, node):
                return Failed.on_node(entry.task, text)
        elif code == CANCELED_CODE:
            return Failed(Failure.CANCELED_THERE)
        return None

    def _check_count(self, entry: Entry, attempt: Attempt, snapshot: Snapshot) -> Failed | None:
        """Compare the images that a node counts with those sent: an upload without an answer may be there twice."""
        if entry.confirmed == attempt.number or snapshot.status.code in (FAILED_CODE, CANCELED_CODE):
            return None
        if attempt.expected_images < 0 or snapshot.images_count < 0:
            return None
        if snapshot.images_count == attempt.expected_images:
            entry.confirmed = attempt.number
            return None
        entry.miscounts += 1
        failure = Failure.MISCOUNTED if entry.miscounts <= _MISCOUNTS else Failure.MISCOUNTS
        return Failed(failure, f"{attempt.expected_images} images were sent, and it has {snapshot.images_count}")

    async def _adopt(self, entry: Entry, snapshot: Snapshot) -> None:
        """Take over the description of an imported task from its node."""
        await self.state.tasks.change(
            entry,
            name=snapshot.name,
            options=snapshot.options,
            date_created=snapshot.date_created,
            file_count=max(0, snapshot.images_count),
            image_count=max(0, snapshot.images_count),
            counted_files=max(0, snapshot.images_count),
        )

    async def _collect(self, entry: Entry, attempt: Attempt, node: Node) -> float | Failed | None:
        try:
            await self.collector.collect(entry, attempt, node)
        except (NodeForgot, NodeRefused, BadResults) as error:
            entry.misses += 1
            if entry.misses < _RESULT_TRIES:
                return min(_LONGEST_PAUSE, self.interval * 2.0**entry.misses)
            failure = Failure.NOT_DELIVERED if attempt.reason == FETCHED else Failure.NO_RESULTS
            return Failed(failure, str(error))
        except NodeUnreachable as error:
            return self._unreachable(entry, str(error))
        return None


def _was_running(task: Task, attempt: Attempt) -> bool:
    """Return True if a client has seen a task running, on an earlier node or before its node restarted it."""
    return task.node_code == RUNNING_CODE or bool(restarts(attempt.reason))


def _is_guessing(snapshot: Snapshot) -> bool:
    """Return True while a node still puts the files in place: its number of images is a guess."""
    return snapshot.status.code == RUNNING_CODE and snapshot.processing_time < 0 <= snapshot.images_count


def _processing_time(snapshot: Snapshot) -> int:
    """Return the milliseconds that a node reports, -1 for none; a clock set back may yield less."""
    return -1 if snapshot.processing_time == -1 else max(0, int(snapshot.processing_time))
