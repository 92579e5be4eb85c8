# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of an attempt that brought no result: what follows is decided in `core.retry`, kept and carried out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from clusterodm.aio import chance
from clusterodm.cluster.registry import Registry
from clusterodm.cluster.tasks import Entry, Tasks
from clusterodm.console import Consoles
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, refusal
from clusterodm.core.retry import RULES, Again, Failure, Over, decide
from clusterodm.core.tasks import RUNNING_CODE, Cleanup, Outcome, Phase, Stage, Task, shown_code
from clusterodm.observe import Metrics
from clusterodm.spool import Spool

#: Seconds for which the end of an attempt tells something about its node.
_LATELY: Final = 60.0


class Attempts:
    """Ends attempts, with a reason in the timeline."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        consoles: Consoles,
        spool: Spool,
        metrics: Metrics,
        *,
        max_attempts: int,
        larger_size: Callable[[Needs], bool],
        clock: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._consoles = consoles
        self._spool = spool
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._larger_size = larger_size
        self._clock = clock

    async def failed(self, entry: Entry, failure: Failure, detail: str = "") -> None:
        """End the current attempt of a task with `failure`; the task goes back to the queue or is over."""
        attempt = entry.attempt
        assert attempt is not None, "only a task with an attempt can fail"  # noqa: S101 - an invariant of the phases
        now = self._clock()
        self._metrics.attempts.labels(failure.name.lower()).inc()
        node = self._registry.get(attempt.node_id)
        self._registry.set_aside(attempt.node_id, RULES[failure].set_aside)
        larger = node is not None and self._larger_exists(entry.task, node.facts())
        why = f"{failure}{f' ({detail})' if detail else ''}"
        verdict = decide(
            entry.task,
            failure,
            detail,
            now,
            max_attempts=self._max_attempts,
            larger_exists=larger,
            chance=chance(),
        )
        if isinstance(verdict, Again) and not await self._spool.listing(entry.task.uuid):
            verdict = Over(error=f"{why}; its files are not held here, so it cannot go on elsewhere")
        if isinstance(verdict, Again):
            changes = {"charged": verdict.charged, "not_before": verdict.not_before}
            sending = entry.task.phase is Phase.DISPATCHING
            shown = entry.task.node_code if sending else shown_code(entry.task)
            changes["node_code"] = RUNNING_CODE if shown == RUNNING_CODE else 0
            if verdict.larger and node is not None:
                changes |= _larger_than(node.facts())
            ended = attempt.ended(now, str(failure), Cleanup.REMOVE)
            text = f"attempt {attempt.number} on {attempt.node_name} ended: {why}"
            await self._tasks.advance(entry, Phase.QUEUED, text, attempt=ended, **changes)
            await self._say(entry, f"{text}; it goes on elsewhere")
        else:
            ended = attempt.ended(now, str(failure), Cleanup.NONE)
            text = f"failed: {verdict.error}"
            await self._tasks.finish(entry, Outcome.FAILED, text, attempt=ended, error=verdict.error)

    def learn(self, entry: Entry) -> None:
        """An attempt that another process ended: its node gets nothing new for a while here, too."""
        attempt = entry.attempt
        if attempt is None or attempt.stage is not Stage.ENDED or self._clock() - attempt.ended_at > _LATELY:
            return
        failure = next((failure for failure in Failure if str(failure) == attempt.reason), None)
        if failure is not None:
            self._registry.set_aside(attempt.node_id, RULES[failure].set_aside)

    async def _say(self, entry: Entry, text: str) -> None:
        """A line of ours in the task's console; only between attempts, because a node's lines are counted from the
        start of its attempt. The back-off before the next one leaves time for it."""
        await self._consoles.append(entry.task.uuid, [f"[clusterodm] {text}"])

    def _larger_exists(self, task: Task, small: NodeFacts) -> bool:
        needs = Needs(images=task.image_count, **_larger_than(small))
        able = (msgspec.structs.replace(node, online=True, set_aside_until=0.0) for node in self._registry.facts())
        return self._larger_size(needs) or any(not refusal(node, needs, 0.0) for node in able)


def _larger_than(node: NodeFacts) -> dict[str, int]:
    return {"larger_than": node.max_images or 0, "more_memory_than": node.total_memory}
