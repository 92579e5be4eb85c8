# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which node a task goes to: the rule of the original with additions (set aside, larger after a failure, alone
after it was lost together with others)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import Final

import msgspec

from clusterodm.core.nodes import LONGEST_SET_ASIDE, NodeFacts
from clusterodm.core.tasks import Task

#: How much more memory makes a node a larger one: machines of one size differ by a few pages.
_LARGER: Final = 1.02


class Capacity(msgspec.Struct, frozen=True):
    """What a size of machine takes."""

    max_images: int
    #: Bytes; 0: not known before a machine of this size was online.
    memory: int = 0


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of a task."""

    #: Files that count against a node's limit.
    images: int
    #: A node with this limit of images (0: none), or with these bytes of memory, was too small for it.
    larger_than: int = 0
    more_memory_than: int = 0
    #: Bytes that similar tasks used, where there is a choice; 0: unknown.
    memory: int = 0
    #: No other task may be on the node.
    alone: bool = False
    #: Nodes (their ids) that refused it or failed it at once.
    avoid: tuple[int, ...] = ()

    @classmethod
    def of(cls, task: Task) -> Needs:
        """Return the needs of `task`, including those learned from failed attempts."""
        return cls(
            images=max(task.counted_files, task.image_count),
            larger_than=task.larger_than,
            more_memory_than=task.more_memory_than,
            memory=task.expected_memory,
            alone=task.alone,
            avoid=tuple(task.avoid),
        )

    def fits(self, size: Capacity) -> bool:
        """Return True if a size takes the task: no other is launched for it, or kept for it."""
        if size.max_images < self.images:
            return False
        unknown = not size.memory and not self.larger_than
        return unknown or self.outgrown_by(size.max_images, size.memory)

    def outgrown_by(self, max_images: int | None, memory: int) -> bool:
        """Return True if a limit of images (None: none) or bytes of memory (0: unknown) exceed those of the node that
        was too small."""
        if not self.larger_than and not self.more_memory_than:
            return True
        takes_more = self.larger_than > 0 and (max_images is None or max_images > self.larger_than)
        return takes_more or memory > self.more_memory_than * _LARGER > 0

    def among(self, nodes: Collection[NodeFacts]) -> Needs:
        """Return the same without nodes to avoid if no other node could take the task."""
        if not self.avoid or any(node.id not in self.avoid and _could(node, self) for node in nodes):
            return self
        return msgspec.structs.replace(self, avoid=())


def _could(node: NodeFacts, needs: Needs) -> bool:
    """Return True if a node accepts tasks and is large enough."""
    return node.online and not node.closed and not _too_few(node, needs) and not _too_small(node, needs)


def refusal(node: NodeFacts, needs: Needs, now: float) -> str:
    """Return why `node` cannot take the task; empty if it can, though perhaps not now."""
    if not node.online:
        return "offline"
    if node.closed:
        return node.closed
    if why := _too_few(node, needs) or _too_small(node, needs):
        return why
    if node.id in needs.avoid:
        return "passed over, because it refused the task or failed it at once"
    if now < node.set_aside_until <= now + LONGEST_SET_ASIDE:
        return "set aside after a failure"
    return ""


def _too_few(node: NodeFacts, needs: Needs) -> str:
    if node.max_images is not None and node.max_images < needs.images:
        return f"takes at most {node.max_images} images"
    return ""


def _too_small(node: NodeFacts, needs: Needs) -> str:
    if not needs.outgrown_by(node.max_images, node.total_memory):
        return "no larger than the node that ran out of memory"
    if node.can_be_larger and 0 < node.total_memory < needs.memory:
        return "expected to have too little memory for it"
    return ""


def best(nodes: Iterable[NodeFacts], needs: Needs, now: float) -> NodeFacts | None:
    """Return the best acceptable node: with a free slot, then smallest maxImages (absent counts as largest), more free
    slots than prefetches, most free slots, shortest queue, least recently chosen. None if no node is acceptable."""
    return min((node for node in nodes if not refusal(node, needs, now)), key=_order, default=None)


def free_elsewhere(nodes: Collection[NodeFacts], needs: Needs, now: float, *, but: int) -> bool:
    """Return True if another node than `but` (an id) has a slot for a task now."""
    needs = needs.among(nodes)
    return any(node.id != but and _has_slot(node) and _takes_now(node, needs, now) for node in nodes)


_Order = tuple[bool, float, bool, int, int, float, int]


def _order(node: NodeFacts) -> _Order:
    size = float("inf") if node.max_images is None else float(node.max_images)
    free = node.free
    return (
        free <= 0,
        size,
        free <= node.prefetching,
        -free,
        node.queue + node.reserved,
        node.chosen_at,
        node.id,
    )


def _has_slot(node: NodeFacts) -> bool:
    return node.online and node.free > 0


def _takes_now(node: NodeFacts, needs: Needs, now: float) -> bool:
    """Return True if a node that has a slot takes the task now."""
    return not refusal(node, needs, now) and (node.empty or not needs.alone)


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
        """Return a copy whose slots can be taken independently."""
        copied = FreeSlots()
        copied.nodes, copied._able = self.nodes.copy(), self._able.copy()
        return copied

    def put(self, node: NodeFacts) -> None:
        """Add or update a node."""
        self._unrank(node.id)
        self.nodes[node.id] = node
        if _has_slot(node):
            insort(self._able, (_order(node), node))

    def drop(self, node_id: int) -> None:
        """Remove a node."""
        self._unrank(node_id)
        self.nodes.pop(node_id, None)

    def _unrank(self, node_id: int) -> None:
        facts = self.nodes.get(node_id)
        if facts is not None and _has_slot(facts):
            del self._able[self._rank(facts)]

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
        preferred = self.nodes.get(prefer) if prefer is not None else None
        if preferred is not None and preferred.free > 0 and _takes_now(preferred, needs, now):
            return preferred
        # smaller nodes come first, and those that are too small for so many images need no look
        begin = bisect_left(self._able, (False, float(needs.images)), key=itemgetter(0))
        able = (self._able[place][1] for place in range(begin, len(self._able)))
        return next((node for node in able if _takes_now(node, needs, now)), None)

    def hold(self, node_id: int) -> None:
        """Give no slot of a node to anybody: a task has it to itself, or will have once it is empty."""
        node = self.nodes.get(node_id)
        if node is not None and node.free > 0:
            self.put(msgspec.structs.replace(node, reserved=node.reserved + node.free))

    def to_empty(self, needs: Needs, now: float, besides: Collection[int]) -> NodeFacts | None:
        """The node of several slots that is emptied for a task that must be alone: the one with the least on it. None
        where a node of one slot takes the task: that is empty whenever it is free."""
        able = [node for node in self.nodes.values() if not refusal(node, needs, now)]
        if any(node.slots == 1 for node in able):
            return None
        able = [node for node in able if node.id not in besides]
        return min(able, key=lambda node: (node.queue + node.reserved, node.id), default=None)


class Wait(msgspec.Struct, frozen=True):
    """Why a task waits."""

    text: str
    #: A free slot would not help; another node, or a machine, would.
    stuck: bool = False
    #: No known node or machine would help: an operator or the owner has to act.
    never: bool = False


_BUSY: Final = "all acceptable nodes are busy"


def wait(nodes: Collection[NodeFacts], needs: Needs, now: float, machines: Collection[Capacity] = ()) -> Wait:
    """Return why no node takes the task now. `machines`: what the sizes take that could be launched."""
    text = wait_reason(nodes, needs, now)
    if text.startswith(_BUSY):
        return Wait(text)
    why = never(nodes, needs, machines)
    return Wait(why or text, stuck=True, never=bool(why))


def never(nodes: Collection[NodeFacts], needs: Needs, machines: Collection[Capacity] = ()) -> str:
    """Return why no node, in whatever state, and no machine could ever take the task; empty if one could, or if none is
    known."""
    if any(_could_ever(node, needs) for node in nodes) or any(map(needs.fits, machines)):
        return ""
    limits = [*(size.max_images for size in machines), *(node.max_images or 0 for node in nodes)]
    largest = max(limits, default=needs.images)
    if largest < needs.images:
        what = "node or machine" if machines else "node"
        return f"this task has {needs.images} files; the largest {what} takes {largest}"
    return "no node is larger than the one that was too small for it" if nodes or machines else ""


def _could_ever(node: NodeFacts, needs: Needs) -> bool:
    return not node.known or (not _too_few(node, needs) and needs.outgrown_by(node.max_images, node.total_memory))


def wait_reason(nodes: Collection[NodeFacts], needs: Needs, now: float) -> str:
    """Return why no node takes the task now, in one sentence for its owner and the operator."""
    if not nodes:
        return "no node is configured"
    if any(not refusal(node, needs, now) for node in nodes):
        return f"{_BUSY}; it has the next one to itself, because it was lost with others" if needs.alone else _BUSY
    refusals = {node.name: refusal(node, needs, now) for node in nodes}
    reasons: dict[str, list[str]] = {}
    for name, why in refusals.items():
        reasons.setdefault(why, []).append(name)
    parts = [f"{_some(names)} {why if why.startswith('takes') else 'is ' + why}" for why, names in reasons.items()]
    return "no acceptable node: " + "; ".join(parts[:4])


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {len(names)} nodes"
