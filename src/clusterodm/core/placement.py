# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which node a task goes to: the rule of the original, and what we add to it (set aside, larger after a failure)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from operator import itemgetter

import msgspec

from clusterodm.core.nodes import LONGEST_SET_ASIDE, NodeFacts
from clusterodm.core.tasks import Task


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks of a node."""

    images: int
    larger_than: int = 0
    more_memory_than: int = 0
    #: What it will take, where there is a choice.
    memory: int = 0

    @classmethod
    def of(cls, task: Task) -> Needs:
        """The needs of `task`, with what its failed attempts taught."""
        return cls(
            images=task.image_count,
            larger_than=task.larger_than,
            more_memory_than=task.more_memory_than,
            memory=task.expected_memory,
        )


def refusal(node: NodeFacts, needs: Needs, now: float) -> str:
    """Why `node` cannot take the task at all, in words; empty when it can (though perhaps not now)."""
    if not node.online:
        return "offline"
    if node.closed:
        return node.closed
    if node.max_images is not None and node.max_images < needs.images:
        return f"takes at most {node.max_images} images"
    if why := _too_small(node, needs):
        return why
    if now < node.set_aside_until <= now + LONGEST_SET_ASIDE:
        return "set aside after a failure"
    return ""


def _too_small(node: NodeFacts, needs: Needs) -> str:
    if not _is_larger(node, needs):
        return "no larger than the node that ran out of memory"
    if node.can_be_larger and 0 < node.total_memory < needs.memory:
        return "expected to have too little memory for it"
    return ""


def _is_larger(node: NodeFacts, needs: Needs) -> bool:
    if not needs.larger_than and not needs.more_memory_than:
        return True
    takes_more = needs.larger_than > 0 and (node.max_images is None or node.max_images > needs.larger_than)
    return takes_more or node.total_memory > needs.more_memory_than > 0


def best(nodes: Iterable[NodeFacts], needs: Needs, now: float) -> NodeFacts | None:
    """The first of all acceptable nodes: those with a free slot, then smallest maxImages (absent counts as largest),
    those with slots for more than the uploads that go there ahead, most free slots, shortest queue, least recently
    chosen. None when no node is acceptable."""
    return min((node for node in nodes if not refusal(node, needs, now)), key=_order, default=None)


_Order = tuple[bool, float, bool, int, int, float, int]


def _order(node: NodeFacts) -> _Order:
    size = float("inf") if node.max_images is None else float(node.max_images)
    free = node.free
    return (
        free <= 0,
        size,
        free <= node.ahead,
        -free,
        node.queue + node.reserved,
        node.chosen_at,
        node.id,
    )


def _has_slot(node: NodeFacts) -> bool:
    return node.online and node.free > 0


class FreeSlots:
    """Nodes, and those of them that have a free slot in the order of `best`: with thousands of nodes a slot is found
    without looking at each of them, and only what changed is sorted anew."""

    def __init__(self, nodes: Iterable[NodeFacts] = ()) -> None:
        #: All of them, by id.
        self.nodes: dict[int, NodeFacts] = {}
        self._able: list[tuple[_Order, NodeFacts]] = []
        for node in nodes:
            self.put(node)

    def copy(self) -> FreeSlots:
        """One whose slots can be taken while these stay free."""
        copied = FreeSlots()
        copied.nodes, copied._able = self.nodes.copy(), self._able.copy()
        return copied

    def put(self, node: NodeFacts) -> None:
        """A node, or what is known of it now."""
        self._unrank(node.id)
        self.nodes[node.id] = node
        if _has_slot(node):
            insort(self._able, (_order(node), node))

    def drop(self, node_id: int) -> None:
        """A node is no more."""
        self._unrank(node_id)
        self.nodes.pop(node_id, None)

    def _unrank(self, node_id: int) -> None:
        known = self.nodes.get(node_id)
        if known is not None and _has_slot(known):
            del self._able[self._rank(known)]

    def _rank(self, node: NodeFacts) -> int:
        return bisect_left(self._able, _order(node), key=itemgetter(0))

    def take(self, needs: Needs, now: float, prefer: int | None = None) -> NodeFacts | None:
        """The node of which a slot is taken: `prefer` (its id) if that is acceptable and free, else the same as `best`;
        None when none is."""
        node = self._find(needs, now, prefer)
        if node is not None:
            self.put(msgspec.structs.replace(node, reserved=node.reserved + 1, chosen_at=now))
        return node

    def _find(self, needs: Needs, now: float, prefer: int | None) -> NodeFacts | None:
        wanted = self.nodes.get(prefer) if prefer is not None else None
        if wanted is not None and wanted.free > 0 and not refusal(wanted, needs, now):
            return wanted
        # smaller nodes come first, and those that are too small for so many images need no look
        begin = bisect_left(self._able, (False, float(needs.images)), key=itemgetter(0))
        able = (self._able[place][1] for place in range(begin, len(self._able)))
        return next((node for node in able if not refusal(node, needs, now)), None)


def wait_reason(nodes: Iterable[NodeFacts], needs: Needs, now: float) -> str:
    """Why no node takes the task now, in one sentence for its owner and the operator."""
    nodes = list(nodes)
    if not nodes:
        return "no node is configured"
    if any(not refusal(node, needs, now) for node in nodes):
        return "all acceptable nodes are busy"
    refusals = {node.name: refusal(node, needs, now) for node in nodes}
    reasons: dict[str, list[str]] = {}
    for name, why in refusals.items():
        reasons.setdefault(why, []).append(name)
    parts = [f"{_some(names)} {why if why.startswith('takes') else 'is ' + why}" for why, names in reasons.items()]
    return "no acceptable node: " + "; ".join(parts[:4])


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {len(names)} nodes"
