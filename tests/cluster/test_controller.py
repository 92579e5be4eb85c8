# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The registry of loops: what an election starts and in which order, and that no loop is left out."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from clusterodm.aio import Leadership
from clusterodm.cluster.controller import Controller, Loops, Periodic, Scope, Service, Step
from tests.clock import DrivenClock, background
from tests.support import Rig


def sweep(name: str, work: Callable[[], object], clock: DrivenClock, scope: Scope = Scope.LEADER) -> Periodic:
    async def call() -> None:
        work()

    return Periodic(name, call, "sweeps", scope=scope, every=10.0, clock=clock)


async def test_an_election_does_the_work_of_all_loops_in_order_of_registration_before_any_of_them_runs() -> None:
    clock, done = DrivenClock(), list[str]()

    async def keys() -> list[str]:
        done.append("keys")
        return ["a", "b"]

    async def reconcile(key: str) -> None:
        done.append(key)

    async def note() -> None:
        done.append("step")

    async def elected() -> None:
        done.append("elected")

    loops = Loops()
    loops.add(
        Step(
            "first",
            note,
            "",
        ),
        Service("service", note, "", scope=Scope.REPLICA, elected=elected),
        Controller("second", reconcile, "", keys=keys, concurrency=1, clock=clock, leadership=Leadership(clock)),
    )
    await loops.elect()
    assert done == ["step", "elected", "keys"]
    async with background(loops.run(Scope.LEADER)):
        await clock.advance(0.0)
    assert done == ["step", "elected", "keys", "a", "b"]


async def test_a_sweep_that_fails_is_logged_and_comes_again() -> None:
    clock, calls = DrivenClock(), list[float]()

    def fail() -> None:
        calls.append(clock.steady())
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with background(sweep("test", fail, clock).run()):
            await clock.advance(35.0)
    assert calls == [10.0, 20.0, 30.0]
    assert [line["event"] for line in logs] == ["sweep failed"] * 3


async def test_loops_run_in_their_scope_alone_and_one_that_fails_takes_the_others_down() -> None:
    clock, calls = DrivenClock(), list[str]()

    async def die() -> None:
        calls.append("service")
        raise ZeroDivisionError

    loops = Loops()
    loops.add(
        sweep("leader", lambda: calls.append("leader"), clock),
        sweep("replica", lambda: calls.append("replica"), clock, Scope.REPLICA),
    )
    async with background(loops.run(Scope.REPLICA)):
        await clock.advance(10.0)
        assert calls == ["replica"]
    loops.add(Service("service", die, "", scope=Scope.REPLICA))
    with pytest.RaisesGroup(ZeroDivisionError):
        await loops.run(Scope.REPLICA)


async def test_the_end_of_a_controller_is_told_once_its_last_call_is_over() -> None:
    clock, done = DrivenClock(), list[str]()

    async def reconcile(key: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append(key)

    controller = Controller("test", reconcile, "", concurrency=1, clock=clock, at_end=lambda: done.append("end"))
    async with background(controller.run()):
        controller.put("a")
        await clock.advance(0.0)
    assert (done, controller.scope) == (["a", "end"], Scope.REPLICA)


def test_two_loops_of_one_name_are_refused() -> None:
    loops, clock = Loops(), DrivenClock()
    loops.add(sweep("a", list, clock))
    with pytest.raises(ValueError, match="two loops are named a"):
        loops.add(sweep("a", list, clock))


async def test_a_running_cluster_has_all_its_controllers_registered_and_memory_comes_first(cluster: Rig) -> None:
    before = {id(each) for each in gc.get_objects() if isinstance(each, Controller)}
    await cluster.start()
    loops = cluster.cluster.loops
    created = {each for each in gc.get_objects() if isinstance(each, Controller) and id(each) not in before}
    assert created == {each for each in loops if isinstance(each, Controller)}
    names = [loop.name for loop in loops]
    assert names[:3] == ["reload", "remains", "import"]
    # what is on its way to a node is settled before running tasks are polled; machines come before what waits for them
    assert names.index("autoscaler") < names.index("dispatcher") < names.index("prefetch") < names.index("tracker")
    assert all(loop.does for loop in loops)
