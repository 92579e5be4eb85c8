# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Positions in the queue and expected waits, estimated from one snapshot of the cluster."""

from __future__ import annotations

from typing import Final

import msgspec

from clusterodm.admin.plane import OperatorPlane
from clusterodm.cluster.state.registry import Node
from clusterodm.core.durations import elapsed
from clusterodm.core.estimates import Pace, Running, pace, waits
from clusterodm.core.scheduling import Turn, turns
from clusterodm.core.tasks import Outcome

#: Past tasks that the pace is computed from, and their largest age.
_PAST: Final = 200
_PAST_SECONDS: Final = 7 * 86400.0
#: Seconds for which a pace is used.
_FRESH: Final = 60.0


class Guesses(msgspec.Struct, frozen=True):
    """The queue in its order, and the expected wait of each task in seconds (None: no estimate)."""

    turns: list[Turn]
    expected: list[float | None]
    #: Of a task that came now.
    next_one: float | None
    index: dict[str, int]

    def of(self, uuid: str) -> tuple[int, float | None]:
        """Return position (from 1; 0: not queued) and expected wait of a task."""
        place = self.index.get(uuid)
        return (0, None) if place is None else (place + 1, self.expected[place])

    @classmethod
    async def now(cls, cluster: OperatorPlane) -> Guesses:
        """Estimate from the present state of the cluster."""
        typical, clock = await _pace(cluster), cluster.clock()
        entries = list(cluster.tasks.active())
        fair = cluster.fair
        queue = turns((entry.task for entry in entries), clock, ageing=fair.ageing, usage=fair.usage())
        running = [
            Running(task.image_count, elapsed(attempt.started_at, clock), task.progress)
            for task, attempt in cluster.tasks.on_nodes()
        ]
        slots = sum(node.slots for node in cluster.registry.nodes() if _takes_tasks(node, clock))
        moving = [turn.task for turn in queue if not cluster.dispatcher.waits.is_stuck(turn.task.uuid)]
        expected = waits([task.image_count for task in moving] + [1], running, slots, typical)
        by_task = dict(zip((task.uuid for task in moving), expected, strict=False))
        passed_over = {entry.task.uuid for entry in entries if entry.wait}
        shown = [_shown(by_task.get(turn.task.uuid), turn.task.uuid in passed_over) for turn in queue]
        index = {turn.task.uuid: place for place, turn in enumerate(queue)}
        return cls(queue, shown, expected[-1], index)


def _takes_tasks(node: Node, now: float) -> bool:
    return node.online and not node.closed and node.set_aside_until <= now


def _shown(expected: float | None, passed_over: bool) -> float | None:
    """Return an estimate; None if it promises an immediate start to a task that was passed over."""
    return None if expected == 0.0 and passed_over else expected


async def _pace(cluster: OperatorPlane) -> Pace:
    """Return the pace of recent tasks, computed once a minute."""
    cached = cluster.tasks.pace
    now = cluster.clock.steady()
    if cached is None or now - cached[0] > _FRESH:
        past = await cluster.store.ended_tasks(cluster.clock() - _PAST_SECONDS, limit=_PAST)
        done = [task for task in past if task.outcome is Outcome.COMPLETED]
        cached = cluster.tasks.pace = (now, pace((task.image_count, task.processing_time / 1000) for task in done))
    return cached[1]
