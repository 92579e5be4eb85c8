# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which machines are ordered and which go: tables, and properties over anything that may be seen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.errors import StaleMachine
from clusterodm.core.machines import TRANSITIONS, Machine, State, require_transition
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import Capacity, Needs, refusal
from clusterodm.core.scaling import Budget, Demand, Launch, MachineLoad, Offering, Rules, ScalePlan, plan

SMALL = Offering(provider="do", size="small", location="nyc", max_images=50, price=0.5)
LARGE = Offering(provider="do", size="large", location="nyc", max_images=500, price=2.0)
DO = Rules(name="do", offerings=[SMALL, LARGE])


def machine(number: int = 1, state: State = State.READY, **fields: Any) -> Machine:
    defaults: dict[str, Any] = {"provider": "do", "size": "small", "location": "nyc", "max_images": 50, "price": 0.5}
    return Machine(id=f"m{number}", state=state, **(defaults | fields))


def decide(
    demands: list[Demand],
    machines: list[MachineLoad] | None = None,
    *rules: Rules,
    budget: Budget | None = None,
    blocked: dict[Offering, float] | None = None,
    now: float = 1000.0,
) -> ScalePlan:
    return plan(demands, machines or [], rules or (DO,), budget or Budget(), blocked or {}, now)


def demand(number: int, images: int = 10, larger_than: int = 0) -> Demand:
    return Demand(task=f"t{number}", needs=Needs(images=images, larger_than=larger_than))


def test_a_waiting_task_gets_the_smallest_machine_that_takes_it() -> None:
    scale_plan = decide([demand(1), demand(2, 51)])
    assert [(launch.offering, launch.task) for launch in scale_plan.launches] == [(SMALL, "t1"), (LARGE, "t2")]
    assert scale_plan.launches[0].why == (
        "no free slot; smallest size for 10 images: small in nyc (do) at 0.5 per hour"
    )


def test_one_that_ran_out_of_memory_gets_a_larger_one() -> None:
    assert decide([demand(1, 10, larger_than=50)]).launches[0].offering is LARGE
    assert decide([demand(1, 10, larger_than=500)]).unmet == {"t1": "do has no size large enough"}


def test_a_machine_with_no_more_memory_than_the_node_that_ran_out_is_neither_kept_nor_launched_for_the_task() -> None:
    ran_out = Demand(task="t1", needs=Needs(images=10, more_memory_than=16))  # on a node without a limit of images
    idle = MachineLoad(machine=machine(task="t1", idle_since=1.0), memory=16)
    rule = msgspec.structs.replace(DO, memory={"small": 16})
    larger = decide([ran_out], [idle], rule)
    assert (larger.matched, [launch.offering for launch in larger.launches]) == ({}, [LARGE])
    assert "m1" in larger.drain
    known = msgspec.structs.replace(DO, memory={"small": 16, "large": 16})
    assert decide([ran_out], [idle], known).unmet == {"t1": "do has no size large enough"}
    unknown = MachineLoad(machine=machine(1, State.BOOTING, task="t1"))
    assert decide([ran_out], [unknown]).matched == {"t1": "m1"}, "its memory is known once its node is"


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        (Capacity(50), False),
        (Capacity(51), True),
        (Capacity(50, 16 << 30), False),
        (Capacity(50, (16 << 30) + 4096), False),  # another machine of the same size
        (Capacity(50, 32 << 30), True),
        (Capacity(51, 8 << 30), True),
        (Capacity(9, 32 << 30), False),
    ],
)
def test_a_size_fits_by_the_rule_by_which_its_node_will_take_the_task(size: Capacity, fits: bool) -> None:
    needs = Needs(images=10, larger_than=50, more_memory_than=16 << 30)
    assert needs.fits(size) is fits
    ready = NodeFacts(id=1, name="n", max_images=size.max_images, total_memory=size.memory)
    assert (not refusal(ready, needs, 0.0)) is fits


@pytest.mark.parametrize("state", [State.ORDERED, State.BOOTING, State.READY])
def test_a_machine_that_is_coming_or_idle_is_enough(state: State) -> None:
    scale_plan = decide([demand(1), demand(2)], [MachineLoad(machine=machine(1, state, task="t2"))])
    assert scale_plan.matched == {"t1": "m1"}, "whoever is first in the queue"
    assert [launch.task for launch in scale_plan.launches] == ["t2"]


@pytest.mark.parametrize("state", [State.DRAINING, State.DELETING, State.GONE])
def test_a_machine_that_goes_is_not(state: State) -> None:
    assert decide([demand(1)], [MachineLoad(machine=machine(1, state))]).launches


def test_a_machine_whose_node_is_silent_or_locked_is_none_for_a_task_and_may_go() -> None:
    silent = MachineLoad(machine=machine(1, idle_since=1.0), usable=False)
    scale_plan = decide([demand(1)], [silent])
    assert [launch.task for launch in scale_plan.launches] == ["t1"]
    assert list(scale_plan.drain) == ["m1"]


def test_several_tasks_share_a_machine_only_where_it_has_slots() -> None:
    load = MachineLoad(machine=machine(1, slots=2), busy=1)
    assert [launch.task for launch in decide([demand(1), demand(2)], [load]).launches] == ["t2"]


@pytest.mark.parametrize(
    ("rules", "budget", "why"),
    [
        ({"max_machines": 1}, {}, "do has reached its limit of machines (1)"),
        ({"min_images": 20}, {}, "do takes tasks of at least 20 images"),
        ({}, {"hourly": 0.9}, "the hourly cost limit is 0.9, current machines cost 0.5"),
        ({}, {"monthly": 10.0, "spent": 10.0}, "the monthly cost limit is 10, 10.00 spent"),
    ],
)
def test_a_limit_holds_a_task_with_the_reason(rules: dict[str, Any], budget: dict[str, Any], why: str) -> None:
    busy = MachineLoad(machine=machine(1), busy=1)
    scale_plan = decide([demand(1)], [busy], msgspec.structs.replace(DO, **rules), budget=Budget(**budget))
    assert scale_plan.unmet == {"t1": why}
    assert scale_plan.launches == []


def test_a_rung_that_was_out_of_stock_is_passed_over_for_a_while() -> None:
    blocked = {SMALL: 1600.0}
    assert decide([demand(1)], blocked=blocked).launches[0].offering is LARGE
    assert decide([demand(1)], blocked=blocked, now=1600.0).launches[0].offering is SMALL
    held = decide([demand(1)], blocked=blocked | {LARGE: 1060.0}).unmet["t1"]
    assert held == "do had no small available, next try in 10 min; do had no large available, next try in 60 s"


def test_the_next_provider_takes_what_the_first_may_not() -> None:
    other = Offering(provider="hz", size="cx", location="fsn", spot=True, max_images=50)
    scale_plan = decide(
        [demand(1), demand(2)], [], msgspec.structs.replace(DO, max_machines=1), Rules(name="hz", offerings=[other])
    )
    assert [launch.offering for launch in scale_plan.launches] == [SMALL, other]
    assert scale_plan.launches[1].why.endswith("cx in fsn (hz, spot)")


def test_an_idle_machine_goes_after_its_time_unless_kept_or_wanted() -> None:
    idle = machine(1, idle_since=700.0)
    assert decide([], [MachineLoad(machine=idle)]).drain == {"m1": "idle for 5 min"}
    assert decide([], [MachineLoad(machine=idle)], now=999.0).drain == {}
    assert decide([], [MachineLoad(machine=msgspec.structs.replace(idle, kept=True))]).drain == {}
    assert decide([], [MachineLoad(machine=idle, busy=1)]).drain == {}
    assert decide([demand(1)], [MachineLoad(machine=idle)]).drain == {}


def test_a_machine_stays_for_a_task_that_will_want_it_in_a_moment_but_none_is_ordered() -> None:
    soon = Demand(task="t1", needs=Needs(images=10), soon=True)
    idle = MachineLoad(machine=machine(1, idle_since=1.0))
    assert decide([soon], [idle]) == ScalePlan(matched={"t1": "m1"})
    assert decide([soon]) == ScalePlan()


def test_a_task_that_will_take_more_memory_than_a_size_has_gets_the_next_one() -> None:
    rules = msgspec.structs.replace(DO, memory={"small": 8 << 30})
    needy = Demand(task="t1", needs=Needs(images=10, memory=9 << 30))
    launch = decide([needy], [], rules).launches[0]
    assert launch.offering is LARGE, "nobody knows what it has"
    assert "for 10 images and 9.7 GB, as similar tasks used" in launch.why
    rule = msgspec.structs.replace(DO, memory={"small": 8 << 30, "large": 8 << 30})
    assert decide([needy], [], rule).launches[0].offering is LARGE, "as good as it gets"
    assert decide([needy], [MachineLoad(machine=machine(1), memory=8 << 30)], rules).matched == {}
    assert decide([needy], [MachineLoad(machine=machine(1), memory=9 << 30)], rules).matched == {"t1": "m1"}


def test_while_files_come_in_one_machine_is_ordered_where_that_is_wanted() -> None:
    early = Demand(task="t1", needs=Needs(images=10), early=True)
    assert decide([early]).unmet == {"t1": "do has no prewarm"}
    ahead = msgspec.structs.replace(DO, prewarm=True)
    assert decide([early], [], ahead).launches[0].why.startswith("upload in progress; smallest size for 10 images")
    mine = MachineLoad(machine=machine(1, State.BOOTING, task="t1"))
    assert decide([early], [mine], ahead).matched == {"t1": "m1"}
    grown = Demand(task="t1", needs=Needs(images=60), early=True)
    assert decide([grown], [mine], ahead) == ScalePlan(), "no second one before it is known how many there will be"


def test_where_hours_are_paid_a_machine_goes_towards_the_end_of_one() -> None:
    rules = msgspec.structs.replace(DO, paid_hours=True)
    idle = MachineLoad(machine=machine(1, ordered_at=0.0, idle_since=100.0))
    assert decide([], [idle], rules, now=3000.0).drain == {}
    assert decide([], [idle], rules, now=3500.0).drain == {"m1": "idle for 57 min, paid hour about to end"}
    assert decide([], [idle], rules, now=3700.0).drain == {}


def test_some_machines_are_kept_ready() -> None:
    rules = msgspec.structs.replace(DO, ready=2)
    scale_plan = decide([], [MachineLoad(machine=machine(1, idle_since=1.0))], rules)
    assert scale_plan.launches == [
        Launch(offering=SMALL, task="", why="minReady is 2: small in nyc (do) at 0.5 per hour")
    ]
    assert scale_plan.drain == {}
    three = [MachineLoad(machine=machine(number, idle_since=float(number))) for number in (1, 2, 3)]
    assert list(decide([], three, rules).drain) == ["m1"]
    full = msgspec.structs.replace(rules, max_machines=1)
    assert decide([], [MachineLoad(machine=machine(1))], full).launches == []
    assert decide([], [], rules, blocked={SMALL: 9e9, LARGE: 9e9}).launches == []


def test_a_machine_of_a_provider_that_is_no_longer_configured_counts_only_as_cost() -> None:
    stranger = MachineLoad(machine=machine(1, provider="old", idle_since=1.0), busy=1)
    assert decide([demand(1)], [stranger], budget=Budget(hourly=0.6)).launches == []


def test_every_state_leads_to_gone_and_nothing_back_from_deleting() -> None:
    for state in State:
        reached, todo = {state}, [state]
        while todo:
            todo += TRANSITIONS[todo.pop()] - reached
            reached |= set(todo)
        assert State.GONE in reached
    assert TRANSITIONS[State.DELETING] == {State.GONE}
    require_transition(State.ORDERED, State.BOOTING)
    with pytest.raises(StaleMachine, match="from deleting to ready"):
        require_transition(State.DELETING, State.READY)
    assert "hush" not in repr(machine(token="hush-token"))


seen = st.builds(
    lambda number, state, images, busy, slots, idle, kept, provider, task: MachineLoad(
        machine=machine(
            number, state, max_images=images, slots=slots, idle_since=idle, kept=kept, provider=provider, task=task
        ),
        busy=busy,
    ),
    st.integers(1, 10**6),
    st.sampled_from(list(State)),
    st.sampled_from([50, 500]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.floats(0, 1000),
    st.booleans(),
    st.sampled_from(["do", "hz", "old"]),
    st.sampled_from(["", "t1", "t2"]),
)
demands = st.builds(demand, st.integers(1, 10**6), st.integers(1, 600), st.sampled_from([0, 50]))
ladders = st.sampled_from([[SMALL, LARGE], [LARGE]])
providers = st.builds(
    lambda name, offerings, limit, least, ready, paid: Rules(
        name=name,
        offerings=[msgspec.structs.replace(offering, provider=name) for offering in offerings],
        max_machines=limit,
        min_images=least,
        ready=ready,
        paid_hours=paid,
    ),
    st.sampled_from(["do", "hz"]),
    ladders,
    st.integers(-1, 5),
    st.sampled_from([0, 20]),
    st.integers(0, 3),
    st.booleans(),
)


@given(
    st.lists(
        demands,
        max_size=12,
        unique_by=lambda w: w.task,
    ),
    st.lists(seen, max_size=10, unique_by=lambda s: s.machine.id),
    st.lists(providers, max_size=2, unique_by=lambda r: r.name),
    st.none() | st.floats(0, 20),
)
def test_no_plan_breaks_a_limit_doubles_a_machine_or_lets_a_busy_one_go(
    demands: list[Demand], machines: list[MachineLoad], rules: list[Rules], hourly: float | None
) -> None:
    scale_plan = plan(demands, machines, rules, Budget(hourly=hourly), {}, 1000.0)
    alive = [s for s in machines if s.machine.state is not State.GONE]
    by_id = {s.machine.id: s for s in machines}
    launched_for = [launch.task for launch in scale_plan.launches if launch.task]
    assert len(set(launched_for)) == len(launched_for), "never two machines for one task"
    assert not set(launched_for) & set(scale_plan.matched)
    assert set(launched_for) | set(scale_plan.matched) | set(scale_plan.unmet) == {w.task for w in demands}
    assert all(scale_plan.unmet.values()) or not rules, "who gets none knows why"
    for rule in rules:
        count = sum(s.machine.provider == rule.name for s in alive)
        ordered = sum(launch.offering.provider == rule.name for launch in scale_plan.launches)
        assert rule.max_machines < 0 or not ordered or count + ordered <= rule.max_machines
    cost = sum(s.machine.price for s in alive) + sum(launch.offering.price for launch in scale_plan.launches)
    assert hourly is None or not scale_plan.launches or cost <= hourly + 1e-6
    for name in scale_plan.drain:
        drained = by_id[name]
        assert drained.busy == 0
        assert drained.machine.state is State.READY
        assert not drained.machine.kept
        assert name not in scale_plan.matched.values()
    for task, name in scale_plan.matched.items():
        size = Capacity(by_id[name].machine.max_images, by_id[name].memory)
        assert next(w for w in demands if w.task == task).needs.fits(size)


def test_a_provider_that_asks_for_a_pause_gets_no_order_and_the_next_one_does() -> None:
    text = "do asks for a pause until 14:05:00 UTC (rate limit)"
    paused = msgspec.structs.replace(DO, paused=text, ready=1)
    other = Rules(name="hz", offerings=[msgspec.structs.replace(SMALL, provider="hz")])
    assert decide([demand(1)], [], paused) == ScalePlan(unmet={"t1": text})
    assert [launch.offering.provider for launch in decide([demand(1)], [], paused, other).launches] == ["hz"]
