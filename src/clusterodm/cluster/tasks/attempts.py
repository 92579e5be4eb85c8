# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of an attempt that brought no result: what follows is decided in `core.retry`, kept and carried out here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import msgspec

from clusterodm.aio import chance
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.core.changes import TaskChanges
from clusterodm.core.errors import FilesLost, NodeRefused, StaleTask
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, machine_takes, refusal
from clusterodm.core.retry import (
    FETCHED,
    RULES,
    Again,
    Circumstances,
    Failure,
    Over,
    awaits_restart,
    classify,
    classify_refusal,
    decide,
    describe,
    failure_of,
    is_packed,
    told_limit,
)
from clusterodm.core.tasks import (
    COMPLETED,
    RUNNING_CODE,
    Attempt,
    Cleanup,
    Outcome,
    Phase,
    Stage,
    Task,
    shown_code,
)
from clusterodm.files.console import Consoles
from clusterodm.observe import Metrics, outcome_of
from clusterodm.store import Store

#: Seconds for which the end of an attempt tells something about its node.
_LATELY: Final = 60.0
#: Seconds within which tasks that one node loses were lost together: as long as it takes to ask it for all of them.
_TOGETHER: Final = 120.0
#: Seconds that results get to be brought here before their machine goes; a spot machine has two minutes.
_RESCUE: Final = 90.0
#: Nodes that one task avoids at most.
_MOST_AVOIDED: Final = 20


class Attempts:
    """Ends attempts, with a reason in the timeline."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        registry: Registry,
        consoles: Consoles,
        holdings: Holdings,
        metrics: Metrics,
        *,
        max_attempts: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._registry = registry
        self._consoles = consoles
        self._holdings = holdings
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._clock = clock
        #: What was lost of late: node, task and when.
        self._lost: list[tuple[int, str, float]] = []
        #: Set once the results of a task are collected, or are not to be had.
        self._collected: dict[str, asyncio.Event] = {}
        tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        """A task that completed shows that its node is well."""
        if entry.task.phase is not Phase.COLLECTING and (collected := self._collected.get(entry.task.uuid)):
            collected.set()
        attempt = entry.attempt
        if attempt is None or attempt.reason != COMPLETED or self._clock() - attempt.ended_at > _LATELY:
            return
        if entry.task.outcome is Outcome.COMPLETED:
            self._registry.health.completed(attempt.node_id, entry.task.uuid)

    async def rescue(self, entries: Iterable[Entry]) -> None:
        """Wait until the results of those tasks that are finished on a node were brought here, as long as a machine
        that goes can wait for that."""
        finished = [entry for entry in entries if await self._is_finished_there(entry)]
        for entry in finished:
            if entry.attempt is not None and entry.task.phase is Phase.RUNNING:
                text = f"the results are fetched through {entry.attempt.node_name} before its machine goes"
                fetched = msgspec.structs.replace(entry.attempt, reason=FETCHED)
                with suppress(StaleTask):
                    await self._tasks.advance(entry, Phase.COLLECTING, text, attempt=fetched, not_before=0.0)
        under_way = [entry.task.uuid for entry in finished if entry.task.phase is Phase.COLLECTING]
        events = [self._collected.setdefault(uuid, asyncio.Event()) for uuid in under_way]
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESCUE):
                for event in events:
                    await event.wait()
        for uuid in under_way:
            self._collected.pop(uuid, None)

    async def _is_finished_there(self, entry: Entry) -> bool:
        node = self._registry.get(entry.attempt.node_id) if entry.attempt is not None else None
        if node is None or not node.online:
            return False
        if awaits_restart(entry.task, entry.attempt):
            return is_packed(await self._consoles.last_line(entry.task.uuid))
        return entry.task.phase is Phase.COLLECTING

    async def failed_there(self, entry: Entry, text: str) -> None:
        """End the current attempt of a task that its node shows as failed, with this error text."""
        await self.failed(entry, classify(text, entry.task.processing_time / 1000), text)

    async def refused(self, entry: Entry, error: NodeRefused) -> None:
        """End the current attempt of a task that its node did not take."""
        await self.failed(entry, classify_refusal(error), str(error))

    async def failed(self, entry: Entry, failure: Failure, detail: str = "") -> None:
        """End the current attempt of a task with `failure`; the task goes back to the queue or is over. Raises
        StaleTask."""
        task, attempt = entry.require_on_node()
        now = self._clock()
        self._metrics.attempts.labels(outcome_of(failure)).inc()
        detail = "" if failure is Failure.FORGOTTEN else detail.replace(attempt.node_uuid, task.uuid)
        why = describe(failure, detail)
        around = await self._circumstances(entry, attempt, failure, why)
        self._tell_registry(attempt, task, failure, detail)
        if around.confirmed:
            self._registry.health.absolve(task.uuid)
        verdict = decide(task, failure, detail, now, around, chance())
        restored: TaskChanges = {}
        if isinstance(verdict, Again):
            try:
                restored = await self._holdings.restored(task)
            except FilesLost as lost:
                known = failure is Failure.FILES
                verdict = Over(error=detail if known else f"{why}; {lost}, so it cannot go on elsewhere")
        if isinstance(verdict, Again):
            await self._again(entry, attempt.ended(now, why, Cleanup.REMOVE), failure, detail, verdict, restored)
        else:
            sending = task.phase is Phase.DISPATCHING
            ended = attempt.ended(now, why, Cleanup.REMOVE if sending else Cleanup.NONE)
            text = f"failed: {verdict.error}"
            await self._tasks.finish(entry, Outcome.FAILED, text, attempt=ended, error=verdict.error)

    async def _again(
        self, entry: Entry, ended: Attempt, failure: Failure, detail: str, verdict: Again, restored: TaskChanges
    ) -> None:
        """Take a task back to the queue, and tell its owner why unless nothing of the attempt was to be seen."""
        text = f"attempt {ended.number} on {ended.node_name} ended: {ended.reason}"
        lonely = verdict.alone and not entry.task.alone
        then = "it goes on with a node to itself, because others were lost with it" if lonely else ""
        notes = [text, then, "its zipurl is fetched again" if restored else ""]
        changes = restored | self._changes(entry, ended, failure, detail, verdict)
        await self._tasks.advance(entry, Phase.QUEUED, "; ".join(filter(None, notes)), attempt=ended, **changes)
        if not RULES[failure].unseen:
            await self.say(entry, f"{text}; {then or 'it goes on elsewhere'}")

    def _changes(self, entry: Entry, attempt: Attempt, failure: Failure, detail: str, verdict: Again) -> TaskChanges:
        """The columns of a task that goes back to the queue."""
        task, node = entry.task, self._registry.get(attempt.node_id)
        shown = task.node_code if task.phase is Phase.DISPATCHING else shown_code(task)
        changes: TaskChanges = {
            "charged": verdict.charged,
            "not_before": verdict.not_before,
            "alone": verdict.alone,
            "node_code": RUNNING_CODE if shown == RUNNING_CODE else 0,
        }
        if verdict.larger and node is not None:
            changes |= _larger_than(node.facts())
        if failure is Failure.TOO_MANY and (limit := told_limit(detail)) is not None:
            changes["larger_than"] = max(task.larger_than, limit)
        if RULES[failure].avoid:
            rest = [each for each in task.avoid if each != attempt.node_id]
            changes["avoid"] = [*rest, attempt.node_id][-_MOST_AVOIDED:]
        return changes

    async def _circumstances(self, entry: Entry, attempt: Attempt, failure: Failure, why: str) -> Circumstances:
        rule, node = RULES[failure], self._registry.get(attempt.node_id)
        earlier = await self._store.attempts(entry.task.uuid) if rule.avoid else []
        return Circumstances(
            max_attempts=self._max_attempts,
            larger_exists=rule.larger and node is not None and self._larger_exists(entry.task, node.facts()),
            with_others=rule.shared and self._lost_with_others(attempt),
            confirmed=any(each.reason == why and each.node_id in entry.task.avoid for each in earlier),
        )

    def _lost_with_others(self, attempt: Attempt) -> bool:
        """Whether other tasks run on the node of an attempt that is lost, or were lost there a moment ago."""
        now, node_id = self._clock(), attempt.node_id
        lately = [lost for lost in self._lost if now - _TOGETHER <= lost[2] <= now]
        self._lost = [*lately, (node_id, attempt.task, now)]
        return any(
            node == node_id and uuid != attempt.task and at >= attempt.started_at for node, uuid, at in lately
        ) or any(
            each.task.uuid != attempt.task and each.attempt is not None and each.attempt.node_id == node_id
            for each in self._tasks.active()
            if each.task.phase in (Phase.RUNNING, Phase.COLLECTING)
        )

    def learn(self, entry: Entry) -> None:
        """An attempt that another process ended: what it tells of its node is known here, too."""
        attempt = entry.attempt
        if attempt is None or attempt.stage is not Stage.ENDED or self._clock() - attempt.ended_at > _LATELY:
            return
        failure = failure_of(attempt.reason)
        if failure is not None:
            words = attempt.reason.removeprefix(f"{failure} (").removesuffix(")")
            self._tell_registry(attempt, entry.task, failure, words)

    def _tell_registry(self, attempt: Attempt, task: Task, failure: Failure, words: str) -> None:
        """What the end of an attempt says of its node."""
        self._registry.health.set_aside(attempt.node_id, RULES[failure].set_aside)
        if failure is Failure.TOO_MANY and (limit := told_limit(words)) is not None:
            self._registry.health.learn_limit(attempt.node_id, limit)
        seconds = task.processing_time / 1000
        told = words if words and RULES[failure].quoted else describe(failure, words)
        self._registry.health.failed(attempt.node_id, task.uuid, failure, told, seconds)

    async def say(self, entry: Entry, text: str) -> None:
        """A line of ours in the task's console; only between attempts, because a node's lines are counted from the
        start of its attempt. The back-off before the next one leaves time for it."""
        await self._consoles.append(entry.task.uuid, [f"[clusterodm] {text}"])

    def _larger_exists(self, task: Task, small: NodeFacts) -> bool:
        needs = msgspec.structs.replace(Needs.of(task), avoid=(), **_larger_than(small))
        able = (msgspec.structs.replace(node, online=True, set_aside_until=0.0) for node in self._registry.facts())
        larger = any(machine_takes(size, needs) for size in self._registry.machines())
        return larger or any(not refusal(node, needs, 0.0) for node in able)


def _larger_than(node: NodeFacts) -> TaskChanges:
    return {"larger_than": node.max_images or 0, "more_memory_than": node.total_memory}
