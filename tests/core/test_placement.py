# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which node takes a task, and who is next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.fairness import Usage
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import FreeSlots, Needs, best, free_elsewhere, refusal, wait_reason
from clusterodm.core.scheduling import Turn, plan, turns
from clusterodm.core.tasks import Phase, Task


def node(number: int, **fields: Any) -> NodeFacts:
    return NodeFacts(id=number, name=f"n{number}", **fields)


def task(number: int, phase: Phase = Phase.QUEUED, **fields: Any) -> Task:
    values: dict[str, Any] = {"owner": "o", "image_count": 10, "committed_at": float(number)} | fields
    return Task(uuid=f"{number:08d}-0000-4000-8000-000000000000", phase=phase, **values)


NEEDS = Needs(images=10)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"online": False}, "offline"),
        ({"closed": "locked"}, "locked"),
        ({"max_images": 9}, "takes at most 9 images"),
        ({"max_images": 10}, ""),
        ({"set_aside_until": 5.0}, ""),
        ({"set_aside_until": 15.0}, "set aside after a failure"),
        ({"set_aside_until": 5000.0}, ""),
    ],
)
def test_refusals(fields: dict[str, Any], why: str) -> None:
    assert refusal(node(1, **fields), NEEDS, 10.0) == why


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({"max_images": 100, "total_memory": 8}, False),
        ({"max_images": 101, "total_memory": 8}, True),
        ({"max_images": None, "total_memory": 8}, True),
        ({"max_images": 50, "total_memory": 9}, True),
    ],
)
def test_after_a_lack_of_memory_only_a_larger_node_will_do(fields: dict[str, Any], accepted: bool) -> None:
    needs = Needs(images=10, larger_than=100, more_memory_than=8)
    assert (refusal(node(1, **fields), needs, 0.0) == "") is accepted


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"max_images": 20}, {"max_images": 30}),
        ({"max_images": 20}, {"max_images": None}),
        ({"max_images": None}, {"max_images": 20, "queue": 1}),
        ({"slots": 3}, {"slots": 2}),
        ({"slots": 2, "queue": 1}, {"slots": 3, "queue": 2}),
        ({"chosen_at": 1.0}, {"chosen_at": 2.0}),
    ],
)
def test_the_better_node_comes_first(better: dict[str, Any], worse: dict[str, Any]) -> None:
    nodes = [node(1, **worse), node(2, **better)]
    assert best(nodes, NEEDS, 0.0) == best(nodes[::-1], NEEDS, 0.0) == nodes[1]


def test_full_nodes_are_ranked_last_by_the_shorter_queue() -> None:
    nodes = [node(1, queue=3), node(2, queue=2), node(3, slots=2, queue=1)]
    assert best(nodes, NEEDS, 0.0) == nodes[2]
    assert best(nodes[:2], NEEDS, 0.0) == nodes[1]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "no node is configured"),
        ([node(1, queue=1)], "all acceptable nodes are busy"),
        ([node(1, online=False)], "no acceptable node: n1 is offline"),
        (
            [node(1, online=False), node(2, online=False), node(3, max_images=1)],
            "no acceptable node: each of 2 nodes is offline; n3 takes at most 1 images",
        ),
    ],
)
def test_every_wait_has_a_reason(nodes: list[NodeFacts], reason: str) -> None:
    assert wait_reason(nodes, NEEDS, 0.0) == reason


def ordered(tasks: list[Task], now: float = 0.0) -> list[Task]:
    return [turn.task for turn in turns(tasks, now)]


def test_only_committed_tasks_that_are_not_over_count_for_the_turns() -> None:
    waiting = task(1, owner="a")
    others = [task(number, phase, owner="a") for number, phase in enumerate((Phase.RECEIVING, Phase.FINISHED), 2)]
    assert turns([waiting, *others], 0.0) == turns([waiting], 0.0)


def test_owners_take_turns() -> None:
    tasks = [task(1, owner="a"), task(2, owner="a"), task(3, owner="a"), task(4, owner="b")]
    assert [t.committed_at for t in ordered(tasks)] == [1.0, 4.0, 2.0, 3.0]


def test_an_owner_with_tasks_on_nodes_comes_after_one_without() -> None:
    tasks = [task(1, Phase.RUNNING, owner="a"), task(2, owner="a"), task(3, owner="b")]
    assert [t.committed_at for t in ordered(tasks)] == [3.0, 2.0]


def test_priority_comes_before_everything() -> None:
    assert [t.committed_at for t in ordered([task(1), task(2, priority=5)])] == [2.0, 1.0]


def test_what_is_fetched_or_backing_off_waits_with_its_reason() -> None:
    decided = plan(
        [task(1, zipurl="http://x"), task(2, not_before=9.0)], FreeSlots([node(1, slots=9)]), 5.0, max_sending=9
    )
    assert list(decided.waiting.values()) == ["its images are being fetched", "its next attempt starts in a moment"]
    assert decided.placements == []


def test_no_more_than_the_allowed_number_of_transfers_begins() -> None:
    tasks = [task(1, Phase.DISPATCHING), task(2), task(3)]
    decided = plan(tasks, FreeSlots([node(1, slots=9)]), 0.0, max_sending=2)
    assert len(decided.placements) == 1
    assert list(decided.waiting.values()) == ["too many transfers at once"]


facts = st.builds(
    NodeFacts,
    id=st.integers(1, 10**6),
    name=st.just("n"),
    online=st.booleans(),
    closed=st.sampled_from(["", "locked", "draining"]),
    max_images=st.none() | st.integers(1, 50),
    slots=st.integers(1, 4),
    queue=st.integers(0, 5),
    reserved=st.integers(0, 2),
    set_aside_until=st.sampled_from([0.0, 100.0]),
)
waiting = st.builds(
    lambda number, images, owner, priority: task(number, image_count=images, owner=owner, priority=priority),
    st.integers(1, 10**6),
    st.integers(1, 60),
    st.sampled_from("abc"),
    st.integers(0, 2),
)


@given(
    st.lists(waiting, max_size=20, unique_by=lambda t: t.uuid), st.lists(facts, max_size=8, unique_by=lambda n: n.id)
)
def test_a_plan_never_overfills_a_node_nor_uses_one_that_refuses_nor_leaves_a_possible_placement(
    tasks: list[Task], nodes: list[NodeFacts]
) -> None:
    decided = plan(tasks, FreeSlots(nodes), 10.0, max_sending=1000)
    by_id, by_uuid = {n.id: n for n in nodes}, {t.uuid: t for t in tasks}
    assert len({p.task for p in decided.placements} | set(decided.waiting)) == len(tasks)
    used: dict[int, int] = {}
    for placement in decided.placements:
        used[placement.node] = used.get(placement.node, 0) + 1
        assert refusal(by_id[placement.node], Needs.of(by_uuid[placement.task]), 10.0) == ""
    assert all(count <= by_id[number].free for number, count in used.items())
    filled = [msgspec.structs.replace(n, reserved=n.reserved + used.get(n.id, 0)) for n in nodes]
    for uuid in decided.waiting:
        needs = Needs.of(by_uuid[uuid])
        assert not [n for n in filled if n.online and n.free > 0 and not refusal(n, needs, 10.0)]


@given(st.lists(waiting, max_size=30, unique_by=lambda t: t.uuid))
def test_the_order_of_the_queue_does_not_depend_on_the_order_of_asking(tasks: list[Task]) -> None:
    assert ordered(tasks) == ordered(tasks[::-1])


def test_owners_take_turns_by_their_shares() -> None:
    hers = [task(number, owner="a", share=1.0) for number in range(1, 5)]
    his = [task(number, owner="b", share=3.0) for number in range(11, 23)]
    order = "".join(each.owner for each in ordered([*hers, *his]))
    assert [order[:count].count("a") for count in (4, 8, 12, 16)] == [1, 2, 3, 4]


def test_a_task_over_its_owners_limit_waits_and_lets_others_pass() -> None:
    running = task(1, Phase.RUNNING, owner="a", concurrency=1)
    hers, his, none = task(2, owner="a", concurrency=1), task(3, owner="b"), task(4, owner="c", concurrency=0)
    decided = plan([running, hers, his, none], FreeSlots([node(1, slots=9)]), 0.0, max_sending=9)
    assert [placement.task for placement in decided.placements] == [his.uuid]
    assert decided.waiting[hers.uuid] == "its owner has 1 tasks on nodes, as many as the token allows"
    assert "0 tasks" in decided.waiting[none.uuid]


def test_a_machine_that_is_expected_to_be_too_small_is_left_alone_while_larger_ones_can_be_had() -> None:
    needs = Needs(images=1, memory=9)
    small = node(1, total_memory=8, can_be_larger=True)
    assert refusal(small, needs, 0.0) == "expected to have too little memory for it"
    for able in (node(1, total_memory=8), node(1, total_memory=9, can_be_larger=True), node(1, can_be_larger=True)):
        assert refusal(able, needs, 0.0) == ""


def test_a_task_that_is_not_approved_waits_and_one_in_back_off_will_want_a_slot_soon() -> None:
    due, failed, ready = task(1, approval_due=True), task(2, not_before=9.0), task(3, image_count=99)
    decided = plan([due, failed, ready], FreeSlots([node(1, max_images=1)]), 5.0, max_sending=9)
    assert decided.waiting[due.uuid] == "the service that knows its owner has not approved it yet"
    assert (decided.wanting, decided.soon) == ([ready.uuid], [failed.uuid])


def test_a_place_in_the_queue_has_a_reason() -> None:
    running = task(1, Phase.RUNNING, owner="a")
    usage = Usage({"a": 2520.0}, {running.uuid: 0.0})
    old, new = task(2, owner="a", share=2.0, committed_at=0.0), task(3, owner="b", priority=5, committed_at=9000.0)
    assert [turn.why for turn in turns([running, old, new], 9000.0, usage=usage)] == [
        "priority 5; its owner used no node time lately and has nothing running or ahead of it",
        "priority 2 (2 of it by waiting); its owner used 3.2 node-hours lately at a share of 2 "
        "and has 1 task running or ahead of it",
    ]
    assert turns([old], 9000.0) == [Turn(old, 0, 0.0, 0, 0.0)]  # nobody is more important


def test_submodels_take_turns_as_their_owner() -> None:
    jobs = [task(number, owner=f"a#job{number}", committed_at=1.0) for number in range(1, 5)]
    other = task(9, owner="b", committed_at=5.0)
    assert ordered([*jobs, other]).index(other) == 1


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.sampled_from("abc"), st.floats(0.1, 10)), min_size=1, max_size=12),
    st.integers(-20, 20),
)
def test_nobody_starves(rivals: list[tuple[int, str, float]], priority: int) -> None:
    """One task waits while new ones of any priority keep coming and one is placed each hour: its turn comes."""
    patient = task(1, owner="patient", priority=priority, committed_at=0.0)
    waiting, number = [patient], 1
    for hour in range(1, 400):
        for rival, owner, share in rivals[: 1 + hour % 2]:
            number += 1
            waiting.append(task(number, owner=owner, priority=rival, share=share, committed_at=hour * 3600.0))
        first = ordered(waiting, hour * 3600.0)[0]
        if first is patient:
            return
        waiting.remove(first)
    raise AssertionError("it waits for ever")


_SIZES = st.one_of(st.none(), st.sampled_from([5, 10, 20, 100]))


@given(
    nodes=st.lists(
        st.tuples(_SIZES, st.integers(1, 3), st.integers(0, 3), st.booleans(), st.floats(0, 3), st.integers(0, 9)),
        max_size=8,
    ),
    demands=st.lists(
        st.tuples(st.sampled_from([1, 5, 6, 10, 50]), st.sampled_from([0, 10]), st.sampled_from([0, 4])), max_size=12
    ),
)
def test_slots_are_taken_one_by_one_as_if_all_nodes_were_looked_at(
    nodes: list[tuple[int | None, int, int, bool, float, int]], demands: list[tuple[int, int, int]]
) -> None:
    facts = {
        number: node(
            number, max_images=size, slots=slots, queue=queue, online=online, chosen_at=chosen, total_memory=memory
        )
        for number, (size, slots, queue, online, chosen, memory) in enumerate(nodes)
    }
    free = FreeSlots(facts.values())
    for images, larger, memory in demands:
        needs = Needs(images=images, larger_than=larger, more_memory_than=memory)
        expected = best(facts.values(), needs, 5.0)
        expected = expected if expected is not None and expected.free > 0 else None
        chosen_node = free.take(needs, 5.0)
        assert (chosen_node and chosen_node.id) == (expected and expected.id)
        if expected is not None:
            facts[expected.id] = msgspec.structs.replace(expected, reserved=expected.reserved + 1, chosen_at=5.0)


@given(st.lists(st.tuples(st.integers(1, 5), st.none() | facts), max_size=30))
def test_slots_that_are_kept_are_those_that_would_be_found_anew(changes: list[tuple[int, NodeFacts | None]]) -> None:
    slots = FreeSlots()
    nodes: dict[int, NodeFacts] = {}
    for number, fact in changes:
        if fact is None:
            slots.drop(number)
            nodes.pop(number, None)
        else:
            nodes[number] = msgspec.structs.replace(fact, id=number)
            slots.put(nodes[number])
        copied, anew = slots.copy(), FreeSlots(nodes.values())
        assert copied.nodes == anew.nodes
        pairs = [(copied.take(NEEDS, 10.0), anew.take(NEEDS, 10.0)) for _ in range(9)]
        assert [node for node, _ in pairs] == [node for _, node in pairs]
        assert slots.nodes == nodes  # what is taken of a copy stays free


@pytest.mark.parametrize(
    ("other", "free"),
    [
        ({}, True),
        ({"online": False}, False),
        ({"slots": 1, "queue": 1}, False),
        ({"max_images": 9}, False),
        ({"set_aside_until": 15.0}, False),
    ],
)
def test_a_task_can_go_elsewhere_where_another_node_takes_it_now(other: dict[str, Any], free: bool) -> None:
    mine = node(1)
    assert free_elsewhere([mine, node(2, **other)], NEEDS, 10.0, but=1) is free
    assert not free_elsewhere([mine], NEEDS, 10.0, but=1)
