# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who is next: the order of the queue and the matching of waiting tasks with free slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from clusterodm.core.placement import FreeSlots, Needs, wait_reason
from clusterodm.core.retry import LONGEST_BACK_OFF
from clusterodm.core.tasks import ON_NODE, OWNER_MARK, Phase, Task


class Placement(msgspec.Struct, frozen=True):
    """One decision: this task goes to this node now."""

    task: str
    node: int


class Plan(msgspec.Struct, frozen=True):
    """All decisions of one look at the cluster: what goes where, and why the rest waits (by task uuid)."""

    placements: list[Placement]
    waiting: dict[str, str]
    #: Tasks of those that wait for nothing but a node or a slot, next first.
    wanting: list[str]
    #: Tasks that will want one in a moment, after a failed attempt.
    soon: list[str]


_A_MOMENT: Final = "waits a moment after a failed attempt"
#: Seconds of waiting that count as much as one step of priority, unless a setting says otherwise.
AGEING: Final = 3600.0


class Turn(msgspec.Struct, frozen=True):
    """A waiting task, and what its place in the queue comes from."""

    task: Task
    #: Steps of priority that it has by waiting.
    aged: int
    #: Tasks of its owner that are on nodes or before it in the queue.
    before: int

    @property
    def why(self) -> str:
        """In words."""
        aged = f" ({self.aged} of it by waiting)" if self.aged else ""
        share = f" at a share of {self.task.share:g}" if self.task.share != 1.0 else ""
        priority = f"priority {self.task.priority + self.aged}{aged}"
        return f"{priority}; tasks of its owner that run or come first: {self.before}{share}"


def turns(tasks: Iterable[Task], now: float = 0.0, *, ageing: float = AGEING) -> list[Turn]:
    """Tasks in phase QUEUED, next first: by priority, then in turn between owners (who has fewer on nodes or already
    placed, against its share, comes first), then by time of commit.

    A step of priority is added for each `ageing` seconds of waiting, up to the highest priority that waits, so that
    nobody starves and nobody overtakes by age alone. Submodels count as their job's owner's. A task that was on a node
    before keeps its first commit time, so it does not go to the back.
    """
    tasks = list(tasks)
    placed = Counter(_who(task) for task in tasks if task.phase in ON_NODE)
    waiting = [task for task in tasks if task.phase is Phase.QUEUED]
    top = max((task.priority for task in waiting), default=0)
    found: list[Turn] = []
    for task in sorted(waiting, key=lambda task: (-task.priority, task.committed_at, task.uuid)):
        aged = min(top - task.priority, int(max(0.0, now - task.committed_at) // ageing))
        found.append(Turn(task, aged, placed[_who(task)]))
        placed[_who(task)] += 1
    return sorted(found, key=_place)


def _place(turn: Turn) -> tuple[int, float, float, str]:
    task = turn.task
    return -task.priority - turn.aged, turn.before / task.share, task.committed_at, task.uuid


def _who(task: Task) -> str:
    return task.owner.partition(OWNER_MARK)[0]


_NOTHING: Final[Mapping[str, int]] = {}


def plan(
    tasks: Iterable[Task],
    slots: FreeSlots,
    now: float,
    *,
    max_sending: int,
    ageing: float = AGEING,
    ahead: Mapping[str, int] = _NOTHING,
) -> Plan:
    """Match waiting tasks with free slots, at most `max_sending` tasks on their way to nodes at a time. `ahead`: the
    node (its id) that has files of a task already, by task; if a slot is free there, the task goes there at once."""
    tasks = list(tasks)
    free = slots.copy()
    sending = sum(task.phase is Phase.DISPATCHING for task in tasks)
    decided = Plan([], {}, [], [])
    full: dict[Needs, str] = {}  # slots only get fewer within one plan
    having = Counter(task.owner for task in tasks if task.phase in ON_NODE)
    for task in (turn.task for turn in turns(tasks, now, ageing=ageing)):
        needs = Needs.of(task)
        why = (
            _why_not_yet(task, now)
            or _why_too_many(task, having[task.owner])
            or full.get(needs, "")
            or ("too many transfers at once" if sending >= max_sending and task.uuid not in ahead else "")
        )
        if not why and (node := free.take(needs, now, ahead.get(task.uuid))):
            decided.placements.append(Placement(task.uuid, node.id))
            sending += 1
            having[task.owner] += 1
            continue
        if not why:
            why = full[needs] = wait_reason(slots.nodes.values(), needs, now)
        decided.waiting[task.uuid] = why
        if why in (full.get(needs), _A_MOMENT):
            (decided.soon if why == _A_MOMENT else decided.wanting).append(task.uuid)
    return decided


def _why_not_yet(task: Task, now: float) -> str:
    if task.zipurl:
        return "its images are being fetched"
    if task.approval_due:
        return "the service that knows its owner has not approved it yet"
    if now < task.not_before <= now + LONGEST_BACK_OFF:  # further ahead: the clock was set back
        return _A_MOMENT
    return ""


def _why_too_many(task: Task, having: int) -> str:
    if 0 <= task.concurrency <= having:
        return f"its owner has {having} tasks on nodes, as many as the token allows"
    return ""
