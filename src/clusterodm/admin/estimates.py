# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Places in the queue and guesses of how long it takes, made from one look at everything."""

from __future__ import annotations

from typing import Final

import msgspec

from clusterodm.cluster.context import Context
from clusterodm.cluster.state.registry import Node
from clusterodm.core.durations import elapsed
from clusterodm.core.estimates import Pace, Running, pace, waits
from clusterodm.core.scheduling import Turn, turns
from clusterodm.core.tasks import Outcome

#: Past tasks that the pace is taken from, and how old they may be.
_PAST: Final = 200
_PAST_SECONDS: Final = 7 * 86400.0
#: Seconds for which a pace is good.
_FRESH: Final = 60.0


class Guesses(msgspec.Struct, frozen=True):
    """The queue in its order, and for each task of it the seconds that it will wait (None: no guess)."""

    turns: list[Turn]
    expected: list[float | None]
    #: For a task that came now.
    next_one: float | None
    index: dict[str, int]

    def of(self, uuid: str) -> tuple[int, float | None]:
        """Position (from 1; 0: it does not wait) and expected wait of a task."""
        place = self.index.get(uuid)
        return (0, None) if place is None else (place + 1, self.expected[place])

    @classmethod
    async def now(cls, cluster: Context) -> Guesses:
        """Look at everything."""
        known, clock = await _pace(cluster), cluster.clock()
        entries = list(cluster.tasks.active())
        fair = cluster.fair
        queue = turns((entry.task for entry in entries), clock, ageing=fair.ageing, usage=fair.usage())
        running = [
            Running(task.image_count, elapsed(attempt.started_at, clock), task.progress)
            for task, attempt in cluster.tasks.on_nodes()
        ]
        slots = sum(node.slots for node in cluster.registry.nodes() if _takes_tasks(node, clock))
        moving = [turn.task for turn in queue if not cluster.dispatcher.waits.is_stuck(turn.task.uuid)]
        expected = waits([task.image_count for task in moving] + [1], running, slots, known)
        by_task = dict(zip((task.uuid for task in moving), expected, strict=False))
        looked_at = {entry.task.uuid for entry in entries if entry.wait}
        told = [_told(by_task.get(turn.task.uuid), turn.task.uuid in looked_at) for turn in queue]
        index = {turn.task.uuid: place for place, turn in enumerate(queue)}
        return cls(queue, told, expected[-1], index)


def _takes_tasks(node: Node, now: float) -> bool:
    return node.online and not node.closed and node.set_aside_until <= now


def _told(expected: float | None, looked_at: bool) -> float | None:
    """The guess for a task; none where it says that the task goes at once, and the task was passed over."""
    return None if expected == 0.0 and looked_at else expected


async def _pace(cluster: Context) -> Pace:
    """How fast tasks went of late; looked up once a minute."""
    known = cluster.tasks.pace
    now = cluster.clock.steady()
    if known is None or now - known[0] > _FRESH:
        past = await cluster.store.ended_tasks(cluster.clock() - _PAST_SECONDS, limit=_PAST)
        done = [task for task in past if task.outcome is Outcome.COMPLETED]
        known = cluster.tasks.pace = (now, pace((task.image_count, task.processing_time / 1000) for task in done))
    return known[1]
