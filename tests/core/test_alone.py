# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks that must have a node to themselves, nodes that a task avoids, and waits that nothing ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.names import counted_files
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Capacity, FreeSlots, Needs, Wait, never, wait
from clusterodm.core.scheduling import Plan, plan
from clusterodm.core.tasks import Phase, Task


def node(number: int, **fields: Any) -> NodeFacts:
    return NodeFacts(id=number, name=f"n{number}", **fields)


def task(number: int, phase: Phase = Phase.QUEUED, **fields: Any) -> Task:
    values: dict[str, Any] = {"owner": "o", "image_count": 10, "committed_at": float(number)} | fields
    return Task(uuid=f"{number:08d}-0000-4000-8000-000000000000", phase=phase, **values)


def decide(tasks: list[Task], nodes: list[NodeFacts], **options: Any) -> Plan:
    return plan(tasks, FreeSlots(nodes), 0.0, max_sending=99, **options)


def placed(decided: Plan) -> dict[str, int]:
    return {placement.task: placement.node for placement in decided.placements}


def test_a_task_that_must_be_alone_goes_to_an_empty_node_and_nobody_joins_it() -> None:
    lone, other = task(1, alone=True), task(2)
    decided = decide([lone, other], [node(1, slots=4, queue=1), node(2, slots=2)])
    assert placed(decided) == {lone.uuid: 2, other.uuid: 1}
    decided = decide([other], [node(2, slots=2, queue=1)], alone={2})
    assert decided.waiting == {other.uuid: "all acceptable nodes are busy"}
    assert not decided.stuck


def test_it_does_not_even_go_beside_others_where_its_files_are_already() -> None:
    lone = task(1, alone=True)
    decided = decide([lone], [node(1, slots=4, queue=1)], prefetched={lone.uuid: 1})
    assert not decided.placements
    assert "has the next one to itself" in decided.waiting[lone.uuid]
    assert decided.wanting == [lone.uuid]


def test_one_node_is_emptied_for_it_and_the_others_go_on() -> None:
    lone, other = task(1, alone=True), task(2)
    decided = decide([lone, other], [node(1, slots=4, queue=3), node(2, slots=4, queue=1), node(3, slots=4, queue=2)])
    assert placed(decided) == {other.uuid: 3}  # the most free slots of those that are not emptied


def test_a_node_of_one_slot_needs_no_emptying() -> None:
    lone, other = task(1, alone=True), task(2)
    decided = decide([lone, other], [node(1, queue=1), node(2, slots=4, queue=1)])
    assert placed(decided) == {other.uuid: 2}


def test_no_more_than_half_of_the_nodes_are_given_to_tasks_that_must_be_alone() -> None:
    lone, other = task(1, alone=True), task(2)
    nodes = [node(number, slots=4, queue=1) for number in range(1, 4)]
    assert placed(decide([lone, other], nodes, alone={1}))[other.uuid] in (2, 3)
    assert not decide([lone, other], nodes[:1]).placements  # one node is emptied in any case


class Cluster:
    """A few nodes of several slots; tasks that run for some rounds each."""

    def __init__(self, slots: list[int]) -> None:
        self.slots = dict(enumerate(slots, 1))
        self.running: dict[str, tuple[int, int]] = {}
        self.tasks: dict[str, Task] = {}

    def round(self, now: int, rounds: dict[str, int]) -> list[str]:
        """End what is over, place what can be placed; what ended."""
        over = [uuid for uuid, (_, end) in self.running.items() if end <= now]
        for uuid in over:
            del self.running[uuid], self.tasks[uuid]
        queue = {number: sum(on == number for on, _ in self.running.values()) for number in self.slots}
        nodes = [node(number, slots=slots, queue=queue[number]) for number, slots in self.slots.items()]
        reserved = {on for uuid, (on, _) in self.running.items() if self.tasks[uuid].alone}
        decided = plan(self.tasks.values(), FreeSlots(nodes), float(now), max_sending=999, alone=reserved)
        for placement in decided.placements:
            uuid = placement.task
            self.tasks[uuid] = msgspec.structs.replace(self.tasks[uuid], phase=Phase.RUNNING)
            self.running[uuid] = (placement.node, now + rounds[uuid])
        return over

    def check(self) -> None:
        """Nobody is beside a task that must be alone, and no node has more tasks than slots."""
        for uuid, (on, _) in self.running.items():
            beside = [other for other, (its, _) in self.running.items() if its == on and other != uuid]
            assert not (self.tasks[uuid].alone and beside)
            assert len(beside) < self.slots[on]


@given(
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    lone=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    others=st.lists(st.integers(1, 5), min_size=1, max_size=12),
)
def test_whoever_must_be_alone_is_neither_joined_nor_passed_over_for_ever_and_keeps_nobody_waiting_for_ever(
    slots: list[int], lone: list[int], others: list[int]
) -> None:
    """Tasks of another owner keep coming, so that the nodes never are empty by themselves."""
    cluster, rounds, ended = Cluster(slots), {}, set[str]()
    first = [task(100 + number, alone=True, owner="a") for number in range(len(lone))]
    for each, length in zip(first, lone, strict=True):
        rounds[each.uuid] = length
    coming = 0
    for now in range(400):
        for length in others if now < 200 else []:
            if sum(each.phase is Phase.QUEUED for each in cluster.tasks.values()) < 12:
                coming += 1
                new = task(1000 + coming, owner="b")
                cluster.tasks[new.uuid], rounds[new.uuid] = new, length
        if now == 3:
            cluster.tasks |= {each.uuid: each for each in first}
        ended.update(cluster.round(now, rounds))
        cluster.check()
        lonely = {each.uuid for each in first}
        if lonely < ended:
            break
    assert lonely < ended  # all of them, and others
    assert now < 200


def test_a_task_goes_to_another_node_than_the_one_that_refused_it_even_if_that_is_busy() -> None:
    picky = task(1, avoid=[1])
    assert placed(decide([picky], [node(1), node(2)])) == {picky.uuid: 2}
    assert decide([picky], [node(1), node(2, queue=1)]).waiting == {picky.uuid: "all acceptable nodes are busy"}


@pytest.mark.parametrize("other", [{"online": False}, {"closed": "locked"}, {"max_images": 1}])
def test_where_no_other_node_could_take_it_the_task_goes_back(other: dict[str, Any]) -> None:
    picky = task(1, avoid=[1])
    assert placed(decide([picky], [node(1), node(2, **other)])) == {picky.uuid: 1}


def test_a_node_that_is_passed_over_says_so() -> None:
    needs = Needs(images=1, avoid=(1,))
    [set_aside] = [node(2, set_aside_until=10.0)]
    assert wait([node(1), set_aside], needs, 0.0).text == (
        "no acceptable node: n1 is passed over, because it refused the task or failed it at once; "
        "n2 is set aside after a failure"
    )


def test_files_count_as_a_node_counts_them() -> None:
    assert counted_files(["a.jpg", "gcp_list.txt", "x.zip", "seed.zip"]) == 3
    assert Needs.of(task(1, image_count=2, counted_files=5)).images == 5
    big = task(1, image_count=2, counted_files=5)
    assert decide([big], [node(1, max_images=4)]).stuck == {
        big.uuid: Wait("this task has 5 files; the largest node takes 4", stuck=True, never=True)
    }


@pytest.mark.parametrize(
    ("nodes", "machines", "why"),
    [
        ([], [], ""),
        ([node(1, max_images=100)], [], "this task has 120 files; the largest node takes 100"),
        (
            [node(1, max_images=100), node(2, max_images=110, online=False)],
            [],
            "this task has 120 files; the largest node takes 110",
        ),
        ([node(1, max_images=100), node(2, max_images=120, online=False)], [], ""),
        ([node(1, max_images=100), node(2, max_images=120, closed="locked")], [], ""),
        ([node(1, max_images=100), node(2, max_images=120, set_aside_until=9.0)], [], ""),
        ([node(1, max_images=100), node(2, known=False)], [], ""),
        (
            [node(1, max_images=100)],
            [Capacity(50), Capacity(110)],
            "this task has 120 files; the largest node or machine takes 110",
        ),
        ([], [Capacity(50)], "this task has 120 files; the largest node or machine takes 50"),
        ([node(1, max_images=100)], [Capacity(50), Capacity(120)], ""),
        ([node(1)], [], ""),
    ],
)
def test_what_no_node_and_no_machine_could_ever_take_is_known_by_its_numbers(
    nodes: list[NodeFacts], machines: list[Capacity], why: str
) -> None:
    assert never(nodes, Needs(images=120), machines) == why


def test_what_needs_a_larger_node_than_there_is_waits_in_vain() -> None:
    needs = Needs(images=1, larger_than=100, more_memory_than=8)
    small, large = node(1, max_images=100, total_memory=8), node(2, max_images=100, total_memory=9, online=False)
    assert never([small], needs) == "no node is larger than the one that was too small for it"
    assert never([small, large], needs) == ""
    assert never([], needs) == ""
    assert never([small], needs, [Capacity(100), Capacity(101)]) == ""
    assert never([small], needs, [Capacity(100)]) != ""
    without_limit = Needs(images=1, more_memory_than=16)  # the node that ran out had none
    assert never([], without_limit, [Capacity(500)]) == "", "its memory is known once a machine is online"
    assert never([], without_limit, [Capacity(500, 16)]) == "no node is larger than the one that was too small for it"
    assert never([], without_limit, [Capacity(500, 32)]) == ""


@given(
    st.lists(
        st.builds(node, st.integers(1, 9), online=st.booleans(), max_images=st.none() | st.integers(1, 9)), max_size=4
    ),
    st.lists(st.integers(1, 9), max_size=2),
    st.integers(1, 9),
)
def test_a_wait_without_hope_is_one_without_a_node_that_could_take_it(
    nodes: list[NodeFacts], machines: list[int], files: int
) -> None:
    needs = Needs(images=files)
    answer = wait(nodes, needs, 0.0, list(map(Capacity, machines)))
    could = any(each.max_images is None or each.max_images >= files for each in nodes) or max([0, *machines]) >= files
    assert answer.never is (bool(nodes or machines) and not could)
    assert answer.text


def test_tasks_that_no_free_slot_would_help_are_told_apart_from_those_that_wait_for_one() -> None:
    busy, big, held = task(1), task(2, image_count=50), task(3, approval_due=True)
    none = task(4, owner="z", concurrency=0)
    unavailable = [node(1, queue=1, max_images=20), node(2, online=False)]
    stuck = decide([busy, big, held, none], unavailable).stuck
    assert set(stuck) == {big.uuid, held.uuid, none.uuid}
    assert [stuck[each.uuid].never for each in (big, held, none)] == [False, False, True]


def test_a_task_goes_where_its_files_are_although_another_node_comes_first() -> None:
    sent = task(1)
    assert placed(decide([sent], [node(1, max_images=10), node(2)], prefetched={sent.uuid: 2})) == {sent.uuid: 2}
