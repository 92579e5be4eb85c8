# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose turn it is by what owners have used: the real order of the queue, in virtual time."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterodm.core.fairness import (
    EXPECTED,
    HALF_LIFE,
    LONGEST,
    NEGLIGIBLE,
    Account,
    Ledger,
    Usage,
    length,
    node_time,
    payer,
)
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import FreeSlots
from clusterodm.core.scheduling import plan, turns
from clusterodm.core.tasks import Phase, Task

HOUR = 3600.0


class Cluster:
    """Some slots, and owners whose tasks take what `lengths` says, again and again."""

    def __init__(self, slots: int, lengths: Mapping[str, Sequence[float]], shares: Mapping[str, float]) -> None:
        self.slots = slots
        self.lengths = lengths
        self.shares = shares
        self.ledger = Ledger()
        self.now = 0.0
        #: Node-seconds that each owner got, and the owners in the order of their starts.
        self.got: defaultdict[str, float] = defaultdict(float)
        self.starts: list[str] = []
        self.queue: list[Task] = []
        self.on: dict[str, Task] = {}
        self.began: dict[str, float] = {}
        self.ends: list[tuple[float, str]] = []
        self.numbers = count()
        self.done: Counter[str] = Counter()

    def commit(self, owner: str) -> None:
        uuid, share = f"{next(self.numbers):08d}", self.shares.get(owner, 1.0)
        self.queue.append(Task(uuid=uuid, owner=owner, phase=Phase.QUEUED, committed_at=self.now, share=share))

    def place(self) -> None:
        usage = Usage(self.ledger.remaining(self.now), self.began)
        order = turns([*self.queue, *self.on.values()], self.now, usage=usage)
        for turn in order[: self.slots - len(self.on)]:
            task, owner = turn.task, turn.task.owner
            lengths = self.lengths[owner]
            self.queue.remove(task)
            self.on[task.uuid] = msgspec.structs.replace(task, phase=Phase.RUNNING)
            self.began[task.uuid] = self.now
            self.starts.append(owner)
            heapq.heappush(self.ends, (self.now + lengths[self.done[owner] % len(lengths)], task.uuid))
            self.done[owner] += 1

    def step(self, until: float) -> None:
        """Go on to the next end of a task."""
        self.now, uuid = heapq.heappop(self.ends)
        task, began = self.on.pop(uuid), self.began.pop(uuid)
        self.ledger.charge(task.owner, length(began, self.now), self.now)
        self.got[task.owner] += min(self.now, until) - min(began, until)

    def run(self, until: float, busy: Sequence[str]) -> None:
        """These owners always have work."""
        while self.now < until:
            waiting = Counter(task.owner for task in self.queue)
            for owner in busy:
                for _ in range(self.slots - waiting[owner]):
                    self.commit(owner)
            self.place()
            self.step(until)
        for uuid, task in self.on.items():
            self.got[task.owner] += max(0.0, until - self.began[uuid])


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(
    slots=st.integers(1, 5),
    unit=st.sampled_from([60.0, 180.0, 540.0]),
    hers=lengths,
    his=lengths,
    share=st.sampled_from([1, 2]),
)
def test_owners_who_always_have_work_get_node_time_by_their_shares(
    slots: int, unit: float, hers: list[int], his: list[int], share: int
) -> None:
    """Within 10 %, over a hundred times the longest task (up to a quarter of the half-life) or the expected one."""
    tasks = {"a": [unit * each for each in hers], "b": [unit * each for each in his]}
    longest = max(map(max, tasks.values()))
    assert longest <= HALF_LIFE / 4
    cluster = Cluster(slots, tasks, {"a": float(share), "b": 1.0})
    until = 100 * max(longest, EXPECTED)
    cluster.run(until, "ab")
    assert cluster.got["a"] + cluster.got["b"] == pytest.approx(slots * until)
    assert cluster.got["a"] / (slots * until) == pytest.approx(share / (share + 1), rel=0.1)
    assert cluster.got["b"] / (slots * until) == pytest.approx(1 / (share + 1), rel=0.1)


def test_with_one_slot_an_owner_who_queued_ten_tasks_first_does_not_get_all_ten_before_another() -> None:
    cluster = Cluster(1, {"a": [HOUR], "b": [HOUR]}, {})
    for owner in "aaaaaaaaaabbb":
        cluster.commit(owner)
    for _ in range(7):
        cluster.place()
        cluster.step(1e9)
    assert "".join(cluster.starts) == "abababa"


def test_slots_that_are_free_at_once_are_dealt_in_turn_and_one_owner_alone_gets_them_all() -> None:
    both = Cluster(4, {"a": [HOUR], "b": [HOUR]}, {})
    for owner in "aaaabbbb":
        both.commit(owner)
    both.place()
    assert both.starts == ["a", "b", "a", "b"]
    single_owner = Cluster(4, {"a": [HOUR]}, {})
    for owner in "aaaa":
        single_owner.commit(owner)
    single_owner.place()
    assert single_owner.starts == ["a"] * 4


def test_tasks_that_began_at_the_same_moment_count_at_once() -> None:
    cluster = Cluster(3, {"a": [HOUR], "b": [HOUR]}, {})
    for owner in "aaa":
        cluster.commit(owner)
    cluster.slots = 2
    cluster.place()
    cluster.commit("b")
    cluster.slots = 3
    cluster.place()
    assert cluster.starts == ["a", "a", "b"]


@pytest.mark.parametrize("slots", [1, 4])
def test_a_newcomer_comes_first_but_for_a_half_life_at_most(slots: int) -> None:
    cluster = Cluster(slots, {"old": [HOUR], "new": [HOUR]}, {})
    cluster.run(30 * 24 * HOUR, ["old"])
    cluster.starts.clear()
    came = cluster.now
    while "old" not in cluster.starts[slots:]:
        cluster.run(cluster.now + 1.0, ["new", "old"])
    assert cluster.starts[slots] == "new"
    assert cluster.now - came <= HALF_LIFE + 2 * HOUR


def test_what_was_used_long_ago_is_forgotten() -> None:
    ledger = Ledger()
    ledger.charge("a", 8 * HOUR, 0.0)
    assert ledger.remaining(HALF_LIFE) == {"a": 4 * HOUR}
    ledger.charge("a", HOUR, HALF_LIFE)
    assert ledger.remaining(HALF_LIFE) == {"a": 5 * HOUR}
    assert ledger.remaining(30 * HALF_LIFE)["a"] < NEGLIGIBLE
    assert Ledger([Account("a", 60.0, 100.0)]).remaining(0.0) == {"a": 60.0}  # the clock was set back


def test_a_clock_that_was_set_does_not_shut_an_owner_out() -> None:
    assert length(0.0, 1.8e9) == LONGEST
    assert length(100.0, 0.0) == 0.0


def test_parts_of_a_job_are_used_by_its_owner() -> None:
    jobs = [Task(uuid=f"{n:08d}", owner=f"a#job{n}", phase=Phase.QUEUED, committed_at=1.0) for n in range(3)]
    other = Task(uuid="x", owner="b", phase=Phase.QUEUED, committed_at=5.0)
    order = turns([*jobs, other], 9.0, usage=Usage({"a": 2 * EXPECTED, "b": EXPECTED / 2}))
    assert order[0].task is other
    assert payer("a#job1") == payer("a") == "a"
    assert order[1].used == 2 * EXPECTED


def test_a_plan_gives_slots_to_who_has_used_less() -> None:
    tasks = [Task(uuid=f"{n:08d}", owner="ab"[n // 2], phase=Phase.QUEUED, committed_at=float(n)) for n in range(4)]
    free = FreeSlots([NodeFacts(id=1, name="n", slots=2)])
    used = Usage({"a": HOUR, "b": 0.0})
    decided = plan(tasks, free, 10.0, max_sending=9, usage=used)
    assert [placement.task for placement in decided.placements] == [tasks[2].uuid, tasks[3].uuid]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "no node time"),
        (30.0, "less than a node-minute"),
        (600.0, "10 node-minutes"),
        (11520.0, "3.2 node-hours"),
    ],
)
def test_node_time_in_words(seconds: float, words: str) -> None:
    assert node_time(seconds) == words
