# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who is next: the order of the queue and the matching of waiting tasks with free slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Needs, best, wait_reason
from clusterodm.core.retry import LONGEST_BACK_OFF
from clusterodm.core.tasks import ON_NODE, Phase, Task


class Placement(msgspec.Struct, frozen=True):
    """One decision: this task goes to this node now."""

    task: str
    node: int


class Plan(msgspec.Struct, frozen=True):
    """All decisions of one look at the cluster: what goes where, and why the rest waits (by task uuid)."""

    placements: list[Placement]
    waiting: dict[str, str]


def queue_order(tasks: Iterable[Task]) -> list[Task]:
    """Tasks in phase QUEUED, next first: by priority, then in turn between owners (who has fewer on nodes or
    already placed comes first), then by time of commit. A task that was on a node before keeps its first commit time,
    so it does not go to the back."""
    tasks = list(tasks)
    placed = Counter(task.owner for task in tasks if task.phase in ON_NODE)
    waiting = sorted(
        (task for task in tasks if task.phase is Phase.QUEUED), key=lambda task: (task.committed_at, task.uuid)
    )
    turns: list[tuple[int, int, float, str, Task]] = []
    for task in waiting:
        turns.append((-task.priority, placed[task.owner], task.committed_at, task.uuid, task))
        placed[task.owner] += 1
    return [turn[-1] for turn in sorted(turns, key=lambda turn: turn[:-1])]


def plan(tasks: Iterable[Task], nodes: Iterable[NodeFacts], now: float, *, max_sending: int) -> Plan:
    """Match waiting tasks with free slots, at most `max_sending` tasks on their way to nodes at a time."""
    tasks = list(tasks)
    facts = {node.id: node for node in nodes}
    sending = sum(task.phase is Phase.DISPATCHING for task in tasks)
    decided = Plan([], {})
    full: dict[Needs, str] = {}  # slots only get fewer within one plan
    for task in queue_order(tasks):
        needs = Needs.of(task)
        why = (
            _why_not_yet(task, now)
            or full.get(needs, "")
            or ("too many transfers at once" if sending >= max_sending else "")
        )
        if not why and (node := _choose(facts, needs, now)):
            decided.placements.append(Placement(task.uuid, node.id))
            facts[node.id] = msgspec.structs.replace(node, reserved=node.reserved + 1, chosen_at=now)
            sending += 1
            continue
        if not why:
            why = full[needs] = wait_reason(facts.values(), needs, now)
        decided.waiting[task.uuid] = why
    return decided


def _why_not_yet(task: Task, now: float) -> str:
    if task.zipurl:
        return "its images are being fetched"
    if now < task.not_before <= now + LONGEST_BACK_OFF:  # further ahead: the clock was set back
        return "waits a moment after a failed attempt"
    return ""


def _choose(facts: dict[int, NodeFacts], needs: Needs, now: float) -> NodeFacts | None:
    node = best(facts.values(), needs, now)
    return node if node is not None and node.free > 0 else None
