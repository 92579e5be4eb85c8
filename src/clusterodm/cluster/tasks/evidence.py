# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What ended attempts tell about their nodes: health, file limits, and tasks lost together."""

from __future__ import annotations

from typing import Final

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.retry import RULES, Failure, describe, failure_of, told_limit
from clusterodm.core.tasks import COMPLETED, FOLLOWED, Attempt, Outcome, Stage, Task

#: Seconds for which an ended attempt counts as evidence.
_RECENT: Final = 60.0
#: Seconds within which tasks that one node loses count as lost together: the time it takes to poll all of them.
_TOGETHER: Final = 120.0


class Evidence:
    """Record how attempts ended, in the health of their nodes."""

    def __init__(self, tasks: Tasks, registry: Registry, clock: Clock) -> None:
        self._tasks = tasks
        self._registry = registry
        self._clock = clock
        #: Recent losses: node, task, time.
        self._losses: list[tuple[int, str, float]] = []
        tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        attempt = entry.attempt
        if attempt is None or attempt.reason != COMPLETED or not self._is_recent(attempt):
            return
        if entry.task.outcome is Outcome.COMPLETED:
            self._registry.health.completed(attempt.node_id, entry.task.uuid)

    def _is_recent(self, attempt: Attempt) -> bool:
        return self._clock() - attempt.ended_at <= _RECENT

    def learn(self, entry: Entry) -> None:
        """Record an attempt that another replica ended."""
        attempt = entry.attempt
        if attempt is None or attempt.stage is not Stage.ENDED or not self._is_recent(attempt):
            return
        failure = failure_of(attempt.reason)
        if failure is not None:
            detail = attempt.reason.removeprefix(f"{failure} (").removesuffix(")")
            self.record(attempt, entry.task, failure, detail)

    def record(self, attempt: Attempt, task: Task, failure: Failure, detail: str) -> None:
        """Record a failed attempt: its node may be set aside, or turn out to take fewer files."""
        rule, health = RULES[failure], self._registry.health
        health.set_aside(attempt.node_id, rule.set_aside)
        if failure is Failure.TOO_MANY and (limit := told_limit(detail)) is not None:
            health.learn_limit(attempt.node_id, limit)
        words = detail if detail and rule.quoted else describe(failure, detail)
        health.failed(attempt.node_id, task.uuid, failure, words, task.processing_time / 1000)

    def record_loss(self, attempt: Attempt) -> None:
        """Record that a node lost the task of an attempt."""
        self._losses = [*self._recent_losses(), (attempt.node_id, attempt.task, self._clock())]

    def lost_with_others(self, attempt: Attempt) -> bool:
        """Return True if other tasks are on the node of a lost attempt, or were lost there moments ago."""
        lost = any(
            node_id == attempt.node_id and uuid != attempt.task and at >= attempt.started_at
            for node_id, uuid, at in self._recent_losses()
        )
        return lost or any(
            task.uuid != attempt.task and other.node_id == attempt.node_id
            for task, other in self._tasks.on_nodes()
            if task.phase in FOLLOWED
        )

    def _recent_losses(self) -> list[tuple[int, str, float]]:
        now = self._clock()
        return [loss for loss in self._losses if now - _TOGETHER <= loss[2] <= now]
