# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Attempts that end without a result: judged by the policy of `core.retry`, then carried out in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from clusterodm.aio import chance
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.evidence import Evidence
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.rescue import Rescue
from clusterodm.core.changes import TaskChanges
from clusterodm.core.errors import FilesLost, NodeRefused
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, refusal
from clusterodm.core.retry import (
    RULES,
    Again,
    Circumstances,
    Failure,
    classify,
    classify_refusal,
    decide,
    describe,
    told_limit,
)
from clusterodm.core.tasks import (
    CANCELED_CODE,
    COMPLETED_CODE,
    FAILED_CODE,
    RUNNING_CODE,
    Attempt,
    Cleanup,
    Outcome,
    Phase,
    Task,
    shown_code,
)
from clusterodm.files.console import Consoles
from clusterodm.observe import outcome_of

#: Nodes that one task avoids at most.
_MOST_AVOIDED: Final = 20


class Failed(NamedTuple):
    """How an attempt failed, as the code that noticed it reports it."""

    failure: Failure
    #: The node's own words, or what else is known.
    detail: str = ""

    @classmethod
    def refused(cls, error: NodeRefused) -> Failed:
        """Return the failure of a task that its node refused."""
        return cls(classify_refusal(error), str(error))

    @classmethod
    def on_node(cls, task: Task, text: str) -> Failed:
        """Return the failure of a task that its node shows as failed with this error text."""
        return cls(classify(text, task.processing_time / 1000), text)


class Requeue(msgspec.Struct, frozen=True, kw_only=True):
    """The task goes back to the queue."""

    attempt: Attempt
    changes: TaskChanges
    text: str
    #: A line for the owner; empty if clients see nothing of the attempt.
    console: str


class Fail(msgspec.Struct, frozen=True, kw_only=True):
    """The task has failed."""

    attempt: Attempt
    error: str


@dataclass(kw_only=True, slots=True, eq=False)
class Attempts:
    """Judge failed attempts, and carry the verdict out."""

    state: ClusterState
    consoles: Consoles
    holdings: Holdings
    max_attempts: int
    runtime: Runtime
    evidence: Evidence = field(init=False)
    _rescue: Rescue = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.state.tasks, self.state.registry, self.runtime.clock)
        self._rescue = Rescue(self.state.tasks, self.state.registry, self.consoles)

    async def rescue(self, entries: Iterable[Entry]) -> None:
        """Collect the results of finished tasks before their machine goes."""
        await self._rescue.collect(entries)

    async def failed(self, entry: Entry, failure: Failure, detail: str = "") -> None:
        """End the current attempt of a task: it is queued again, or has failed. Raises StaleTask."""
        task, attempt = entry.require_on_node()
        detail = "" if failure is Failure.FORGOTTEN else detail.replace(attempt.node_uuid, task.uuid)
        failed = Failed(failure, detail)
        around = await self._circumstances(task, attempt, failed)
        verdict = await self._judge(task, attempt, failed, around)
        self._record(task, attempt, failed, around)
        await self._carry_out(entry, attempt, verdict)

    async def _circumstances(self, task: Task, attempt: Attempt, failed: Failed) -> Circumstances:
        rule, node, why = RULES[failed.failure], self.state.registry.get(attempt.node_id), describe(*failed)
        earlier = await self.state.store.attempts(task.uuid) if rule.avoid else []
        return Circumstances(
            max_attempts=self.max_attempts,
            larger_exists=rule.larger and node is not None and self._larger_exists(task, node.facts()),
            with_others=rule.shared and self.evidence.lost_with_others(attempt),
            confirmed=any(each.reason == why and each.node_id in task.avoid for each in earlier),
        )

    async def _judge(self, task: Task, attempt: Attempt, failed: Failed, around: Circumstances) -> Requeue | Fail:
        """Decide what follows; a task whose files are gone is over in any case."""
        (failure, detail), now = failed, self.runtime.clock()
        why = describe(failure, detail)
        decision = decide(task, failure, detail, now, around, chance())
        if not isinstance(decision, Again):
            return _fail(task, attempt.ended(now, why, Cleanup.NONE), decision.error)
        try:
            restored = await self.holdings.restored(task)
        except FilesLost as lost:
            error = detail if failure is Failure.FILES else f"{why}; {lost}, so it cannot go on elsewhere"
            return _fail(task, attempt.ended(now, why, Cleanup.NONE), error)
        return self._requeue(task, attempt.ended(now, why, Cleanup.REMOVE), failed, decision, restored)

    def _requeue(self, task: Task, ended: Attempt, failed: Failed, decision: Again, restored: TaskChanges) -> Requeue:
        text = f"attempt {ended.number} on {ended.node_name} ended: {ended.reason}"
        newly_alone = decision.alone and not task.alone
        own_node = "retrying on a node of its own, because other tasks were lost with it" if newly_alone else ""
        refetch = "fetching its zipurl again" if restored else ""
        unseen = RULES[failed.failure].unseen
        return Requeue(
            attempt=ended,
            changes=restored | self._changes(task, ended, failed, decision),
            text="; ".join(filter(None, [text, own_node, refetch])),
            console="" if unseen else f"{text}; {own_node or 'retrying elsewhere'}",
        )

    def _changes(self, task: Task, attempt: Attempt, failed: Failed, decision: Again) -> TaskChanges:
        """Return the changed columns of a task that goes back to the queue."""
        node = self.state.registry.get(attempt.node_id)
        shown = task.node_code if task.phase is Phase.DISPATCHING else shown_code(task)
        changes: TaskChanges = {
            "charged": decision.charged,
            "not_before": decision.not_before,
            "alone": decision.alone,
            "node_code": RUNNING_CODE if shown == RUNNING_CODE else 0,
        }
        if decision.larger and node is not None:
            changes |= _larger_than(node.facts())
        if failed.failure is Failure.TOO_MANY and (limit := told_limit(failed.detail)) is not None:
            changes["larger_than"] = max(task.larger_than, limit)
        if RULES[failed.failure].avoid:
            others = [node_id for node_id in task.avoid if node_id != attempt.node_id]
            changes["avoid"] = [*others, attempt.node_id][-_MOST_AVOIDED:]
        return changes

    def _record(self, task: Task, attempt: Attempt, failed: Failed, around: Circumstances) -> None:
        """Record what the failure tells about the node, before the task is queued and placed again."""
        self.runtime.metrics.attempts.labels(outcome_of(failed.failure)).inc()
        self.evidence.record(attempt, task, *failed)
        if RULES[failed.failure].shared:
            self.evidence.record_loss(attempt)
        if around.confirmed:
            self.state.registry.health.absolve(task.uuid)

    async def _carry_out(self, entry: Entry, was: Attempt, verdict: Requeue | Fail) -> None:
        if isinstance(verdict, Fail):
            text = f"failed: {verdict.error}"
            ended = verdict.attempt
            await self.state.tasks.finish(entry, Outcome.FAILED, text, attempt=ended, was=was, error=verdict.error)
            return
        text = verdict.text
        await self.state.tasks.advance(entry, Phase.QUEUED, text, attempt=verdict.attempt, was=was, **verdict.changes)
        if verdict.console:
            # between attempts only: a node's lines are counted from the start of its attempt; the back-off leaves time
            await self.consoles.append(entry.task.uuid, [f"[clusterodm] {verdict.console}"])

    def _larger_exists(self, task: Task, small: NodeFacts) -> bool:
        needs = msgspec.structs.replace(Needs.of(task), avoid=(), **_larger_than(small))
        if any(map(needs.fits, self.state.registry.machines())):
            return True
        nodes = (
            msgspec.structs.replace(node, online=True, set_aside_until=0.0) for node in self.state.registry.facts()
        )
        return any(not refusal(node, needs, 0.0) for node in nodes)


def _fail(task: Task, ended: Attempt, error: str) -> Fail:
    """Return the verdict on a failed task. One that was never committed to its node is removed there; one that may
    still run there is canceled."""
    over = task.node_code in (COMPLETED_CODE, FAILED_CODE, CANCELED_CODE)
    cleanup = Cleanup.REMOVE if task.phase is Phase.DISPATCHING else Cleanup.NONE if over else Cleanup.CANCEL
    return Fail(attempt=msgspec.structs.replace(ended, cleanup=cleanup), error=error)


def _larger_than(node: NodeFacts) -> TaskChanges:
    return {"larger_than": node.max_images or 0, "more_memory_than": node.total_memory}
