# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks that are finished but for their results, which their node could not pack or deliver to its bucket: begun again
there, then fetched through the node. What comes next is decided in `core.retry`.

All that is known between two steps is kept with the task and its attempt, so that another process can go on.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock, chance
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.durations import span
from clusterodm.core.errors import NodeError
from clusterodm.core.retry import FETCHED, RESTART_BACK_OFF, RESTARTS, Restart, awaits_restart, restarts, undelivered
from clusterodm.core.tasks import Attempt, Phase
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import NodeClient
from clusterodm.providers import Fleet

_log = structlog.get_logger("redelivery")

#: Characters of a node's last line that go into a timeline.
_LONGEST_WORDS: Final = 300


class Redelivery:
    """Decides and orders what follows when a node says that a task failed, but not why."""

    def __init__(self, tasks: Tasks, consoles: Consoles, client: NodeClient, fleet: Fleet, *, clock: Clock) -> None:
        self._tasks = tasks
        self._consoles = consoles
        self._client = client
        self._fleet = fleet
        self._clock = clock

    def wait(self, entry: Entry) -> float:
        """Return the seconds until the node of a task is told to begin it again; 0 if it is not to be, or now."""
        if not awaits_restart(entry.task, entry.attempt):
            return 0.0
        left = entry.task.not_before - self._clock()
        return left if 0 < left <= RESTART_BACK_OFF.longest else 0.0  # further ahead: the clock was set back

    async def failed(self, entry: Entry, attempt: Attempt, node: Node) -> bool:
        """Take the next step for a task that its node shows as failed without a reason; False if there is none left.
        Raises StaleTask."""
        if awaits_restart(entry.task, entry.attempt):
            await self._restart(entry, attempt, node)
            return True
        last = (await self._consoles.last_line(attempt.task)).strip()[:_LONGEST_WORDS]
        words = f" ({last})" if last else ""
        step = undelivered(attempt.reason, last, self._time_left(attempt, node), chance())
        _log.warning("results were not delivered", task=attempt.task, node=attempt.node_name, then=type(step).__name__)
        if isinstance(step, Restart):
            number, reasoned = restarts(step.reason), msgspec.structs.replace(attempt, reason=step.reason)
            count = f"{span(step.wait)} ({number} of {RESTARTS})"
            text = f"{attempt.node_name} could not deliver the results{words}; restarting the task there in {count}"
            await self._tasks.change(entry, text, attempt=reasoned, not_before=self._clock() + step.wait)
        elif step is not None:
            reasoned = msgspec.structs.replace(attempt, reason=FETCHED)
            text = f"{attempt.node_name} could not deliver the results{words}; fetching them through the node: {step.why}"
            await self._tasks.advance(entry, Phase.COLLECTING, text, attempt=reasoned, not_before=0.0)
        return step is not None

    async def _restart(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Have the node begin the task again. A refusal, and no answer, count like a restart that did not help."""
        await self._tasks.change(entry)  # only while the task is ours: its owner may have canceled it elsewhere
        try:
            await self._client.restart(node.address, attempt.node_uuid, None)
        except NodeError as error:
            text = f"{attempt.node_name} could not restart the task: {error}"
            await self._tasks.change(entry, text, not_before=0.0)
            return
        # the node's lines begin at 0 again, after this one
        await self._consoles.append(attempt.task, [f"[clusterodm] restarted on its node: {attempt.reason}"])
        begun = msgspec.structs.replace(attempt, console_start=await self._consoles.count(attempt.task))
        text = f"restarted on {attempt.node_name} to deliver its results"
        await self._tasks.change(entry, text, attempt=begun, not_before=0.0)

    def _time_left(self, attempt: Attempt, node: Node) -> float:
        """Return the seconds until the node goes away, as far as that is known."""
        record, left = node.record, math.inf
        if record.ends_at:
            left = record.ends_at - self._clock()
        provider = self._fleet.providers.get(record.labels.get("provider", ""))
        if provider is not None and provider.config.max_runtime > 0:
            left = min(left, provider.config.max_runtime - self._clock.age(attempt.started_at))
        return left
