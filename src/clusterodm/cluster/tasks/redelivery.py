# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks processed on a node that could not pack the results or upload them to its bucket: restarted there a few times,
then fetched through the node, as `core.retry` decides.

All state is stored with the task and its attempt, so that another replica can continue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock, chance
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.durations import span
from clusterodm.core.errors import NodeError, StaleTask
from clusterodm.core.retry import FETCHED, RESTART_BACK_OFF, RESTARTS, Restart, awaits_restart, restarts, undelivered
from clusterodm.core.tasks import Attempt, Phase
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import NodeClient
from clusterodm.providers import Fleet

_log = structlog.get_logger("redelivery")

#: Characters of a node's last line quoted in a timeline.
_LONGEST_WORDS: Final = 300


@dataclass(kw_only=True, slots=True, eq=False)
class Redelivery:
    """Carry out what follows when a node reports a failure without a reason."""

    tasks: Tasks
    consoles: Consoles
    client: NodeClient
    fleet: Fleet
    clock: Clock

    def wait(self, entry: Entry) -> float:
        """Return the seconds until a task is restarted on its node; 0 if it is due now, or not planned."""
        if not awaits_restart(entry.task, entry.attempt):
            return 0.0
        remaining = entry.task.not_before - self.clock()
        return remaining if 0 < remaining <= RESTART_BACK_OFF.longest else 0.0  # further ahead: the clock was set back

    async def failed(self, entry: Entry, attempt: Attempt, node: Node) -> bool:
        """Take the next step for a task that failed without a reason; return False if none is left. Raises
        StaleTask."""
        if awaits_restart(entry.task, entry.attempt):
            await self.tasks.locks.command(attempt.task, lambda: self._restart(entry, attempt, node))
            return True
        last = (await self.consoles.last_line(attempt.task)).strip()[:_LONGEST_WORDS]
        problem = f"{attempt.node_name} could not deliver the results" + (f" ({last})" if last else "")
        step = undelivered(attempt.reason, last, self._time_left(attempt, node), chance())
        _log.warning("results not delivered", task=attempt.task, node=attempt.node_name, step=type(step).__name__)
        if isinstance(step, Restart):
            number, reasoned = restarts(step.reason), msgspec.structs.replace(attempt, reason=step.reason)
            count = f"{span(step.wait)} ({number} of {RESTARTS})"
            text = f"{problem}; restarting the task there in {count}"
            await self.tasks.change(entry, text, attempt=reasoned, not_before=self.clock() + step.wait)
        elif step is not None:
            reasoned = msgspec.structs.replace(attempt, reason=FETCHED)
            text = f"{problem}; fetching them through the node: {step.why}"
            await self.tasks.advance(entry, Phase.COLLECTING, text, attempt=reasoned, not_before=0.0)
        return step is not None

    async def _restart(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Restart a task on its node. A refusal, or no answer, counts as a restart that did not help."""
        _require_wait(entry)
        await self.tasks.change(entry)  # raises StaleTask if its owner canceled it through another replica
        try:
            await self.client.restart(node.address, attempt.node_uuid, None)
        except NodeError as error:
            _require_wait(entry)
            text = f"{attempt.node_name} could not restart the task: {error}"
            await self.tasks.change(entry, text, not_before=0.0)
            return
        # the node's lines begin at 0 again, after this one
        await self.consoles.append(attempt.task, [f"[clusterodm] restarted on its node: {attempt.reason}"])
        restarted = msgspec.structs.replace(attempt, console_start=await self.consoles.count(attempt.task))
        text = f"restarted on {attempt.node_name} to deliver its results"
        _require_wait(entry)
        await self.tasks.change(entry, text, attempt=restarted, not_before=0.0)

    def _time_left(self, attempt: Attempt, node: Node) -> float:
        """Return the seconds until the node goes away; infinite if that is not known."""
        record, remaining = node.record, math.inf
        if record.ends_at:
            remaining = record.ends_at - self.clock()
        provider = self.fleet.providers.get(record.labels.get("provider", ""))
        if provider is not None and provider.config.max_runtime > 0:
            remaining = min(remaining, provider.config.max_runtime - self.clock.age(attempt.started_at))
        return remaining


def _require_wait(entry: Entry) -> None:
    """Raise StaleTask if a task does not wait for its restart any more: canceled, removed or restarted by its owner."""
    if not awaits_restart(entry.task, entry.attempt):
        raise StaleTask(f"task {entry.task.uuid} does not wait for a restart")
