# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The order of the queue, and the matching of waiting tasks with free slots."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from clusterodm.core.fairness import EXPECTED, Usage, node_time, payer
from clusterodm.core.placement import Capacity, FreeSlots, Needs, Wait, wait
from clusterodm.core.retry import LONGEST_BACK_OFF
from clusterodm.core.tasks import ON_NODE, Phase, Task


class Placement(msgspec.Struct, frozen=True):
    """One decision: this task goes to this node now."""

    task: str
    node: int


class Plan(msgspec.Struct, frozen=True):
    """All decisions from one snapshot: what goes where, and why the rest waits (by task uuid)."""

    placements: list[Placement]
    waiting: dict[str, str]
    #: Tasks of those that wait for nothing but a node or a slot, next first.
    wanting: list[str]
    #: Tasks that will want one in a moment, after a failed attempt.
    soon: list[str]
    #: Of those that wait, the ones that no slot that comes free will help.
    stuck: dict[str, Wait]


_A_MOMENT: Final = Wait("its next attempt starts in a moment")
_FETCHED: Final = Wait("its images are being fetched")
_NOT_APPROVED: Final = Wait("the service that knows its owner has not approved it yet", stuck=True)
#: Seconds of waiting that count as much as one step of priority, unless a setting says otherwise.
AGEING: Final = 3600.0


class Turn(msgspec.Struct, frozen=True):
    """A waiting task, and what determines its place in the queue."""

    task: Task
    #: Steps of priority that it has by waiting.
    aged: int
    #: Node-seconds that its owner has used lately.
    used: float
    #: Tasks of its owner that are on nodes or before it in the queue.
    before: int
    #: What its owner will have used when its turn comes, against the share: who has less comes first.
    due: float

    @property
    def why(self) -> str:
        """In words."""
        aged = f" ({self.aged} of it by waiting)" if self.aged else ""
        share = f" at a share of {self.task.share:g}" if self.task.share != 1.0 else ""
        tasks = f"{self.before} task{'' if self.before == 1 else 's'}" if self.before else "nothing"
        owner = f"its owner used {node_time(self.used)} lately{share} and has {tasks} running or ahead of it"
        return f"priority {self.task.priority + self.aged}{aged}; {owner}"


NO_USAGE: Final = Usage()


def turns(tasks: Iterable[Task], now: float = 0.0, *, ageing: float = AGEING, usage: Usage = NO_USAGE) -> list[Turn]:
    """Tasks in phase QUEUED, next first: by priority, then in turn between owners (who has used less of the nodes
    lately, against its share, comes first), then by time of commit.

    What runs, and what comes first in the queue, counts with the length that is expected of a task or that it has
    already. A step of priority is added for each `ageing` seconds of waiting, up to the highest priority that waits, so
    that no owner starves and none overtakes by age alone. A task that was on a node before keeps its first commit time,
    so it does not go to the back.
    """
    waiting: list[Task] = []
    used: defaultdict[str, float] = defaultdict(float, usage.ended)
    expected: defaultdict[str, float] = defaultdict(float, usage.ended)
    before: Counter[str] = Counter()
    for task in tasks:
        if task.phase is Phase.QUEUED:
            waiting.append(task)
        elif task.phase in ON_NODE:
            owner, elapsed = payer(task.owner), usage.elapsed(task.uuid, now)
            used[owner] += elapsed
            expected[owner] += max(EXPECTED, elapsed)
            before[owner] += 1
    top = max((task.priority for task in waiting), default=0)
    queue: list[Turn] = []
    for task in sorted(waiting, key=lambda task: (-task.priority, task.committed_at, task.uuid)):
        owner = payer(task.owner)
        aged = min(top - task.priority, int(max(0.0, now - task.committed_at) // ageing))
        queue.append(Turn(task, aged, used[owner], before[owner], expected[owner] / task.share))
        expected[owner] += EXPECTED
        before[owner] += 1
    return sorted(queue, key=_place)


def _place(turn: Turn) -> tuple[int, float, float, str]:
    task = turn.task
    return -task.priority - turn.aged, turn.due, task.committed_at, task.uuid


_NOTHING: Final[Mapping[str, int]] = {}


def plan(
    tasks: Iterable[Task],
    slots: FreeSlots,
    now: float,
    *,
    max_sending: int,
    ageing: float = AGEING,
    prefetched: Mapping[str, int] = _NOTHING,
    alone: Collection[int] = (),
    machines: Collection[Capacity] = (),
    usage: Usage = NO_USAGE,
) -> Plan:
    """Match waiting tasks with free slots, at most `max_sending` tasks on their way to nodes at a time.

    `prefetched`: the node (its id) that has files of a task already, by task; if a slot is free there, the task goes
    there at once. `alone`: nodes that a task has to itself. `machines`: what the sizes take that
    may be ordered. `usage`: what owners have used, for whose turn it is."""
    tasks = list(tasks)
    free, held = slots.copy(), set(alone)
    for node_id in held:
        free.hold(node_id)
    sending = sum(task.phase is Phase.DISPATCHING for task in tasks)
    decided = Plan([], {}, [], [], {})
    full: dict[Needs, Wait] = {}  # slots only get fewer within one plan
    having = Counter(task.owner for task in tasks if task.phase in ON_NODE)
    for task in (turn.task for turn in turns(tasks, now, ageing=ageing, usage=usage)):
        needs = Needs.of(task).among(slots.nodes.values())
        why = _not_yet(task, now) or _too_many(task, having[task.owner]) or full.get(needs)
        if not why and sending >= max_sending and task.uuid not in prefetched:
            why = Wait("too many transfers at once")
        if not why and (node := free.take(needs, now, prefetched.get(task.uuid))):
            decided.placements.append(Placement(task.uuid, node.id))
            if needs.alone:
                free.hold(node.id)
                held.add(node.id)
            sending += 1
            having[task.owner] += 1
            continue
        if not why:
            _make_room(free, needs, now, held)
            why = full[needs] = wait(slots.nodes.values(), needs, now, machines)
        decided.waiting[task.uuid] = why.text
        if why.stuck or why.never:
            decided.stuck[task.uuid] = why
        if why is full.get(needs) or why is _A_MOMENT:
            (decided.soon if why is _A_MOMENT else decided.wanting).append(task.uuid)
    return decided


def _make_room(free: FreeSlots, needs: Needs, now: float, held: set[int]) -> None:
    """Have one node emptied for a task that is to be alone, unless half of those with several slots are in the hands of
    such tasks already: it is not passed over without a limit, and neither are all others."""
    if not needs.alone:
        return
    several = {node.id for node in free.nodes.values() if node.slots > 1 and node.online and not node.closed}
    if len(several & held) < max(1, len(several) // 2) and (node := free.to_empty(needs, now, held)):
        free.hold(node.id)
        held.add(node.id)


def _not_yet(task: Task, now: float) -> Wait | None:
    if task.zipurl:
        return _FETCHED
    if task.approval_due:
        return _NOT_APPROVED
    if now < task.not_before <= now + LONGEST_BACK_OFF:  # further ahead: the clock was set back
        return _A_MOMENT
    return None


def _too_many(task: Task, having: int) -> Wait | None:
    if 0 <= task.concurrency <= having:
        why = f"its owner has {having} tasks on nodes, as many as the token allows"
        return Wait(why, never=task.concurrency == 0)
    return None
