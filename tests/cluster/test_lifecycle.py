# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lifecycle of one machine over a fake cloud, with a clock that only the test turns: no loop runs, and each step is
taken when it is due."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.admin.operations import machines as admin
from clusterodm.aio import BACKOFF
from clusterodm.cluster.machines.absence import SETTLE
from clusterodm.core.errors import ClusterError, StaleMachine
from clusterodm.core.machines import ALIVE, Machine, State
from clusterodm.core.scaling import Offering
from clusterodm.providers import bounded
from clusterodm.server.context import Context
from clusterodm.testing import FakeMachine, World
from clusterodm.testing.world import LOSE, REFUSE, THROTTLE
from tests.clock import DrivenClock
from tests.cluster.units import assembled
from tests.providers.support import Cloud, running_cloud
from tests.support import eventually

INTERVAL = 10.0
BOOT_TIMEOUT = 300.0
PAUSE = 300.0


class Bench:
    """One machine, its cloud and its clock."""

    def __init__(self, context: Context, cloud: Cloud, clock: DrivenClock) -> None:
        assert cloud.world is not None
        self.context, self.world, self.clock = context, cloud.world, clock
        self.machine_id = ""

    @property
    def machine(self) -> Machine:
        machine = self.context.machines.get(self.machine_id)
        assert machine is not None
        return machine

    @property
    def fake(self) -> FakeMachine:
        return self.world.created[0]

    @property
    def gone(self) -> bool:
        return self.context.machines.get(self.machine_id) is None

    @property
    def failed(self) -> bool:
        """True if the machine's offering was skipped for a while."""
        return bool(self.context.lifecycle.backoff.until)

    async def order(self, number: int = 1) -> None:
        provider = self.context.autoscaler.fleet.providers["hetzner"]
        offering: Offering = provider.offerings[0]
        self.machine_id = f"clusterodm-c1-{number}"
        await self.context.machines.add(
            Machine(
                id=self.machine_id,
                provider=offering.provider,
                state=State.ORDERED,
                size=offering.size,
                location=offering.location,
                max_images=offering.max_images,
                price=offering.price,
                token="hush-token",
                ordered_at=self.clock(),
                reason="ordered by a test",
            )
        )

    async def step(self) -> float | None:
        """Take one step as the work queue does; return the seconds until the next."""
        try:
            return await self.context.lifecycle._step(self.machine_id)
        except ClusterError:
            return BACKOFF.longest

    async def turn(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Turn the clock and take each step that is due, until a condition holds."""
        end = self.clock.passed + seconds
        while not self.gone and not until():
            before = self.machine.state
            delay = await self.step()
            if delay is None and not self.gone and self.machine.state is not before:
                continue
            if delay is None or self.clock.passed + delay > end:
                break
            self.clock.freeze(delay)
        if not until():
            self.clock.passed = end

    async def reach(self, state: State) -> None:
        """Take a machine to a state as it gets there by itself."""
        await self.order()
        if state is State.ORDERED:
            return
        await self.turn(0, lambda: self.machine.state is State.BOOTING)
        if state is State.BOOTING:
            return
        await self.turn(0)
        await self.online()
        await self.step()
        assert self.machine.state is State.READY
        if state is State.DRAINING:
            await self.context.machines.advance(self.machine, State.DRAINING, "idle")
        if state is State.DELETING:
            await self.context.lifecycle.delete(self.machine, "by a test")

    async def online(self) -> None:
        """Poll the machine's node until it answers."""
        await eventually(self._answers)

    async def offline(self) -> None:
        """Switch the node off without the cloud's knowing."""
        self.fake.gone.set()
        await eventually(self._is_silent)

    async def deny_once(self) -> None:
        """Have the next look at the machine, when its provider is listed anew, be in vain."""
        self.clock.freeze(INTERVAL)
        denied = hidden(self.world)
        await self.step()
        self.world.machines |= denied

    async def history(self) -> list[tuple[State, str]]:
        return [(event.state, event.text) for event in await self.context.store.machine_events(self.machine_id)]

    async def _answers(self) -> bool:
        node = self.context.machines.node(self.machine)
        assert node is not None
        await self.context.registry._poll(node.record.id)
        return node.online

    async def _is_silent(self) -> bool:
        return not await self._answers()


@asynccontextmanager
async def benched(folder: Path, name: str = "hetzner") -> AsyncIterator[Bench]:
    clock = DrivenClock(time.time())
    async with running_cloud(name) as cloud:
        file = folder / "asr.json"
        file.write_text(json.dumps(cloud.entry | {"bootTimeout": BOOT_TIMEOUT, "createRetries": 1, "idleTimeout": 60}))
        async with assembled(folder, clock, asr=file, machine_poll_interval=INTERVAL) as context:
            bench = Bench(context, cloud, clock)
            yield bench
            for fake in bench.world.created:  # hidden ones, too
                fake.gone.set()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A bench whose provider's calls are not repeated after a real wait."""
    monkeypatch.setattr(bounded, "_TRIES", 1)
    async with benched(tmp_path) as new_bench:
        yield new_bench


def hidden(world: World) -> dict[str, FakeMachine]:
    """Have a cloud deny its machines, until they are put back."""
    machines = dict(world.machines)
    world.machines.clear()
    return machines


# Launch


async def test_a_machine_lives_from_its_order_to_its_end_and_each_state_has_a_reason(bench: Bench) -> None:
    await bench.reach(State.DRAINING)
    await bench.turn(600)
    assert bench.gone
    assert not bench.world.machines
    assert await bench.history() == [
        (State.ORDERED, "ordered by a test"),
        (State.BOOTING, f"created as {bench.fake.id}"),
        (State.READY, "its node came online after 0 s"),
        (State.DRAINING, "idle"),
        (State.DELETING, "idle"),
        (State.GONE, "idle"),
    ]


async def test_a_creation_without_an_answer_is_repeated_and_then_deleted_by_name(bench: Bench) -> None:
    bench.world.misbehave = lambda request: LOSE if request.method == "POST" else ""
    await bench.order()
    await bench.turn(3600)
    assert bench.gone
    assert len(bench.world.created) == 1
    assert not bench.world.machines
    states = await bench.history()
    assert [state for state, _ in states] == [State.ORDERED, State.DELETING, State.GONE]
    assert states[1][1].startswith("creation not confirmed: ")


async def test_a_machine_that_may_be_listed_late_is_looked_for_until_the_cloud_has_settled(bench: Bench) -> None:
    lost = list[FakeMachine]()

    def late(request: web.Request) -> str:
        if bench.world.created and request.method == "GET" and bench.clock.passed < 45:
            lost.extend(hidden(bench.world).values())
        return LOSE if request.method == "POST" and bench.clock.passed < 45 else ""

    bench.world.misbehave = late
    bench.world.dead_on_arrival = True
    await bench.order()
    await bench.context.machines.advance(bench.machine, State.DELETING, "creation not confirmed: for a test")
    bench.world.start(bench.world.create(bench.machine_id, "small", "fsn1", labels={"clusterodm": "c1"}))
    await bench.turn(44)
    assert not bench.gone
    bench.world.machines |= {each.id: each for each in lost}
    await bench.turn(300)
    assert bench.gone
    assert not bench.world.machines


async def test_what_was_never_created_is_given_up_only_after_the_cloud_has_settled(bench: Bench) -> None:
    bench.world.misbehave = lambda request: REFUSE if request.method == "POST" else ""
    await bench.order()
    await bench.turn(3600, lambda: bench.machine.state is State.DELETING)
    begun = bench.clock.passed
    await bench.turn(SETTLE - 1)
    assert not bench.gone
    await bench.turn(SETTLE)
    assert bench.gone
    assert bench.clock.passed - begun < 2 * SETTLE + 1
    assert bench.failed


async def test_deleting_a_machine_while_it_is_created_leaves_nothing(bench: Bench) -> None:
    await bench.order()
    await asyncio.gather(bench.step(), bench.context.lifecycle.delete(bench.machine, "deleted by an operator"))
    await bench.turn(600)
    assert bench.gone
    assert len(bench.world.created) == 1
    assert not bench.world.machines


# Boot


async def test_a_machine_that_never_boots_is_deleted_after_its_time_and_not_before(bench: Bench) -> None:
    bench.world.dead_on_arrival = True
    await bench.reach(State.BOOTING)
    await bench.turn(BOOT_TIMEOUT - 1)
    assert bench.machine.state is State.BOOTING
    assert not bench.failed
    await bench.turn(3 * INTERVAL)
    assert (State.DELETING, "its node was not online within 5 min") in await bench.history()
    assert bench.failed
    await bench.turn(600)
    assert bench.gone
    assert not bench.world.machines


async def test_a_machine_that_never_boots_is_deleted_in_time_after_the_clock_was_set_back(bench: Bench) -> None:
    bench.world.dead_on_arrival = True
    await bench.reach(State.BOOTING)
    bench.clock.start -= 86400
    await bench.turn(BOOT_TIMEOUT - 1)
    assert bench.machine.state is State.BOOTING
    await bench.turn(3 * INTERVAL)
    assert State.DELETING in {state for state, _ in await bench.history()}


async def test_a_booting_machine_that_is_denied_once_goes_on_booting(bench: Bench) -> None:
    bench.world.dead_on_arrival = True
    await bench.reach(State.BOOTING)
    await bench.turn(SETTLE + INTERVAL)
    await bench.deny_once()
    assert bench.machine.state is State.BOOTING
    await bench.turn(3 * INTERVAL)
    assert bench.machine.state is State.BOOTING
    assert not bench.failed


async def test_a_booting_machine_that_disappears_is_given_up(bench: Bench) -> None:
    bench.world.dead_on_arrival = True
    await bench.reach(State.BOOTING)
    await bench.turn(SETTLE + INTERVAL)
    hidden(bench.world)
    await bench.turn(300)
    assert bench.gone
    assert (State.DELETING, "disappeared while booting") in await bench.history()
    assert bench.failed


async def test_a_machine_whose_node_is_online_boots_though_its_provider_denies_it(bench: Bench) -> None:
    await bench.reach(State.BOOTING)
    await bench.turn(SETTLE + INTERVAL, lambda: bool(bench.machine.node_id))
    await bench.online()
    hidden(bench.world)
    bench.clock.freeze(SETTLE + INTERVAL)
    await bench.step()
    assert bench.machine.state is State.READY


# Watch


async def test_a_ready_machine_that_is_denied_once_stays(bench: Bench) -> None:
    await bench.reach(State.READY)
    await bench.offline()
    await bench.deny_once()
    await bench.turn(5 * INTERVAL)
    await bench.deny_once()
    assert bench.machine.state is State.READY, "the two denials were not in a row"


async def test_a_machine_that_is_denied_while_its_node_is_online_stays(bench: Bench) -> None:
    await bench.reach(State.READY)
    hidden(bench.world)
    await bench.turn(20 * INTERVAL)
    assert bench.machine.state is State.READY


async def test_a_machine_that_its_provider_takes_away_ends_though_its_node_is_online(bench: Bench) -> None:
    await bench.reach(State.READY)
    bench.fake.state = "deleting"
    await bench.turn(3 * INTERVAL - 1)
    assert bench.machine.state is State.READY
    await bench.turn(600)
    assert bench.gone
    assert (State.DELETING, "its provider reports it as ending") in await bench.history()


async def test_a_machine_ends_at_the_time_that_its_provider_announced(bench: Bench) -> None:
    await bench.reach(State.READY)
    node = bench.context.machines.node(bench.machine)
    assert node is not None
    await bench.context.registry.change(node, ends_at=bench.clock() + 500)
    bench.world.pause, bench.world.misbehave = 600.0, lambda request: THROTTLE
    await bench.turn(400)
    assert bench.machine.state is State.READY
    await bench.turn(100)
    assert (State.DELETING, "its provider's time limit is reached") in await bench.history(), "also within a pause"


async def test_a_machine_whose_node_stays_offline_is_given_up_after_ten_minutes(bench: Bench) -> None:
    await bench.reach(State.READY)
    await bench.offline()
    await bench.turn(590)
    assert bench.machine.state is State.READY
    await bench.turn(6 * INTERVAL)
    assert (State.DELETING, "its node has been offline for 10 min with no task on it") in await bench.history()


async def test_a_machine_whose_node_was_removed_is_not_waited_for_until_canceled(bench: Bench) -> None:
    await bench.reach(State.READY)
    node = bench.context.machines.node(bench.machine)
    assert node is not None
    await bench.context.registry.remove(node)
    await bench.context.registry.forget_removed()
    await bench.turn(3600)
    assert bench.gone
    assert not bench.world.machines


async def test_a_new_leader_counts_from_its_own_first_look(bench: Bench) -> None:
    await bench.reach(State.READY)
    await bench.offline()
    await bench.deny_once()
    bench.clock.freeze(3600)  # another replica led
    for loop in bench.context.lifecycle.loops():
        await loop.on_elected()
    await bench.deny_once()
    assert bench.machine.state is State.READY
    await bench.turn(INTERVAL)
    assert bench.machine.state is State.READY


# Termination


async def test_a_slow_deletion_is_repeated_until_the_provider_denies_the_machine_twice(bench: Bench) -> None:
    await bench.reach(State.READY)
    fake, begun = bench.fake, bench.clock.passed

    def slow(request: web.Request) -> str:
        if bench.clock.passed < begun + 1800:
            bench.world.machines[fake.id] = fake
            fake.state = "deleting"
        return ""

    bench.world.misbehave = slow
    await bench.context.lifecycle.delete(bench.machine, "deleted by an operator")
    await bench.turn(1800 - INTERVAL)
    assert bench.machine.state is State.DELETING
    deletes = bench.world.calls["DELETE"]
    assert deletes > 100
    await bench.turn(3 * INTERVAL)
    assert bench.gone
    assert (await bench.history())[-1] == (State.GONE, "deleted by an operator")


async def test_a_deletion_that_is_denied_once_goes_on(bench: Bench) -> None:
    await bench.reach(State.READY)
    await bench.context.lifecycle.delete(bench.machine, "deleted by an operator")
    await bench.deny_once()
    assert not bench.gone
    await bench.turn(600)
    assert bench.gone
    assert not bench.world.machines


# A provider that asks for a pause


@pytest.mark.parametrize("state", sorted(ALIVE))
async def test_a_pause_of_the_provider_costs_a_machine_nothing(bench: Bench, state: State) -> None:
    bench.world.dead_on_arrival = state is State.BOOTING
    await bench.reach(state)
    bench.world.pause, bench.world.misbehave = PAUSE, lambda request: THROTTLE
    await bench.step()
    calls = bench.world.calls.total()
    await bench.turn(PAUSE - INTERVAL)
    assert bench.machine.state is (State.DELETING if state is State.DRAINING else state)
    assert not bench.failed
    assert bench.world.calls.total() <= calls + 1, "the provider is left alone"
    bench.world.misbehave = lambda request: ""
    if state is State.BOOTING:
        await bench.turn(2 * INTERVAL)
        await bench.turn(BOOT_TIMEOUT - 2 * INTERVAL)
        assert bench.machine.state is State.BOOTING, "it has all of its time to boot after the pause"
        await bench.turn(3 * INTERVAL)
        assert (State.DELETING, "its node was not online within 5 min") in await bench.history()
    elif state is State.ORDERED:
        await bench.turn(2 * INTERVAL, lambda: bench.machine.state is State.BOOTING)
        assert bench.machine.state is State.BOOTING
    elif state is State.READY:
        await bench.turn(10 * INTERVAL)
        assert bench.machine.state is State.READY
    else:
        await bench.turn(10 * INTERVAL)
        assert bench.gone
        assert not bench.world.machines


# What operators do while a step is under way


async def both(first: Awaitable[object], second: Awaitable[object]) -> None:
    """Run two things at once, the first one first; a step that the other one superseded is none the worse."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [each for each in results if isinstance(each, Exception) and not isinstance(each, StaleMachine)] == []


@pytest.mark.parametrize("operator_first", [True, False])
async def test_a_machine_that_is_kept_while_it_begins_to_drain_takes_tasks_again(
    bench: Bench, operator_first: bool
) -> None:
    await bench.reach(State.DRAINING)
    keep, step = admin.keep(bench.context, bench.machine), bench.step()
    await both(*((keep, step) if operator_first else (step, keep)))
    await bench.turn(10 * INTERVAL)
    assert bench.machine.state is State.READY
    assert bench.context.machines.usable(bench.machine)


@pytest.mark.parametrize("operator_first", [True, False])
async def test_a_machine_that_is_kept_while_the_autoscaler_lets_it_go_stays(bench: Bench, operator_first: bool) -> None:
    await bench.reach(State.READY)
    keep = admin.keep(bench.context, bench.machine)
    drain = bench.context.autoscaler._drain(bench.machine_id, "idle")
    await both(*((keep, drain) if operator_first else (drain, keep)))
    await bench.turn(10 * INTERVAL)
    assert bench.machine.state is State.READY
    assert bench.machine.kept
    assert bench.context.machines.usable(bench.machine)


async def test_a_machine_that_is_released_while_it_is_looked_at_is_released(bench: Bench) -> None:
    await bench.reach(State.READY)
    await admin.keep(bench.context, bench.machine)
    await both(bench.step(), admin.release(bench.context, bench.machine))
    assert not bench.machine.kept
    assert bench.machine.state is State.READY


async def test_a_machine_cannot_be_kept_once_it_is_deleted(bench: Bench) -> None:
    await bench.reach(State.DRAINING)
    await bench.turn(2 * INTERVAL, lambda: bench.machine.state is State.DELETING)
    with pytest.raises(ClusterError, match="being deleted"):
        await admin.keep(bench.context, bench.machine)
    await bench.turn(600)
    assert bench.gone
