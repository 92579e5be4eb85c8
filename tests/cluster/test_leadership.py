# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Replicas on one PostgreSQL and a driven clock: who leads when heartbeats fail, hang or come late."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from sqlalchemy import ColumnElement, literal

from clusterodm.aio import Leadership
from clusterodm.cluster.controller import Loops, Scope, Service, Step
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.description import Description
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.sizes import Sizes
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import StaleTask, StoreDown
from clusterodm.core.nodes import NodeInfo
from clusterodm.core.tasks import Phase, Task
from clusterodm.nodeodm import NodeClient
from clusterodm.observe import Metrics
from clusterodm.store import SILENT, Replica, Store
from tests.clock import DrivenClock, background, settle
from tests.postgres import Server
from tests.support import eventually

UUID = "aaaaaaaa-1111-4111-8111-aaaaaaaaaaaa"


class DrivenStore(Store):
    """A store whose database tells the time of a driven clock, and whose heartbeats can fail or hang."""

    time: DrivenClock
    down = False
    #: Whether announcements get lost on the way, and how many did.
    deaf = False
    missed = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        #: Heartbeats that are under way, those that hang left out.
        self.beating = 0

    def _now(self) -> ColumnElement[float]:
        return literal(self.time())

    async def beat(self, replica: Replica, lock: str, *, leads: bool) -> tuple[str, list[Replica]]:
        """Send a heartbeat."""
        if self.down:
            raise StoreDown("later")
        await self.open_gate.wait()
        self.beating += 1
        try:
            return await super().beat(replica, lock, leads=leads)
        finally:
            self.beating -= 1

    async def listen(self, changed: Callable[[str, str], None], everything: Callable[[], Awaitable[object]]) -> None:
        """Listen for announcements."""

        def hear(kind: str, key: str) -> None:
            if self.deaf:
                self.missed += 1
            else:
                changed(kind, key)

        await super().listen(hear, everything)


class Member:
    """One replica: its loops are those of the leader that the test watches."""

    def __init__(self, store: DrivenStore, session: aiohttp.ClientSession) -> None:
        self.store = store
        self.clock = DrivenClock()
        self.stopped = False
        self.leadership = Leadership(self.clock)
        self.tasks = Tasks(store, self.clock)
        shipped = Description(NodeInfo(engine="odm"), [])
        registry = Registry(
            store, self.tasks, NodeClient(session), shipped, interval=10.0, machines=list, clock=self.clock
        )
        self.looked: list[str] = []
        machines = Machines(store, self.tasks, registry, self.clock)
        self.replicas = Replicas(
            state=ClusterState(store=store, tasks=self.tasks, registry=registry, machines=machines, sizes=Sizes()),
            poll=self.looked.append,
            drop_grants=self._forget,
            runtime=Runtime(clock=self.clock, leadership=self.leadership, metrics=Metrics()),
        )
        self.forgotten: list[str] = []
        self.elections = 0
        self.election_error: StoreDown | None = None
        self.election_gate = asyncio.Event()
        self.election_gate.set()
        #: Whether the loops of the leader run.
        self.works = False
        self.loops = Loops()
        self.loops.add(
            Step(
                "election",
                self._elected,
                "",
            ),
            Service("work", self._work, "", scope=Scope.LEADER),
        )
        self.loops.add(*self.replicas.loops(self.loops))

    async def _forget(self, owner: str) -> None:
        self.forgotten.append(owner)

    async def _elected(self) -> None:
        self.elections += 1
        await self.election_gate.wait()
        if self.election_error is not None:
            raise self.election_error

    async def _work(self) -> None:
        self.works = True
        try:
            await asyncio.Event().wait()
        finally:
            self.works = False


class World:
    """Replicas on one database, and the time of all."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.stack = stack
        self.database = DrivenClock()
        self.members: list[Member] = []

    async def add(self) -> Member:
        """One more replica."""
        store = await DrivenStore.open(self.url)
        self.stack.push_async_callback(store.close)
        store.time = self.database
        member = Member(store, await self.stack.enter_async_context(aiohttp.ClientSession()))
        self.members.append(member)
        await member.replicas.begin(member.loops)
        await self.stack.enter_async_context(background(member.loops.run(Scope.REPLICA)))
        await self.quiet()
        return member

    async def quiet(self) -> None:
        """Wait until no heartbeat is under way."""
        await settle()
        await eventually(lambda: not any(member.store.beating for member in self.members))
        await settle()

    async def pass_(self, seconds: float) -> None:
        """Let time pass in steps of a quarter of a second; at each of them one replica works at most."""
        for _ in range(round(seconds * 4)):
            self.database.passed += 0.25
            for member in self.members:
                if member.stopped:
                    member.clock.freeze(0.25)
                else:
                    await member.clock.advance(0.25)
            await self.quiet()
            assert sum(member.leadership.held for member in self.members) <= 1
            assert sum(member.works for member in self.members if not member.stopped) <= 1

    def leaders(self) -> list[Member]:
        """Those that lead, and whose loops run."""
        return [member for member in self.members if member.leadership.held and member.works]


@pytest.fixture
async def world(postgres: Server) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(postgres.new_database(), stack)


async def test_the_first_replica_is_elected_and_the_next_one_as_soon_as_it_leaves(world: World) -> None:
    first, second, third = [await world.add() for _ in range(3)]
    await world.pass_(2)
    assert world.leaders() == [first]
    assert [len(member.replicas.members) for member in world.members] == [3, 3, 3]
    assert second.replicas.leader == first.replicas.me.name
    await first.replicas.leave()
    await settle()
    assert not first.works
    await world.pass_(1.5)
    [leader] = world.leaders()
    assert leader in (second, third)
    assert [first.elections, second.elections + third.elections] == [1, 1]


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_leader_without_heartbeats_steps_down_before_another_can_take_over(world: World, hangs: bool) -> None:
    first, second = await world.add(), await world.add()
    await world.pass_(2)
    began = world.database.passed
    if hangs:
        first.store.open_gate.clear()
    else:
        first.store.down = True
    while first.works:
        await world.pass_(0.25)
    assert 3.0 <= world.database.passed - began <= 4.25
    assert not first.leadership.held
    while not second.works:
        await world.pass_(0.25)
    assert SILENT - 1 <= world.database.passed - began <= SILENT + 1.5
    first.store.down = False
    first.store.open_gate.set()
    await world.pass_(2)
    assert world.leaders() == [second]
    assert first.replicas.leader == second.replicas.me.name


async def test_a_leader_that_was_stopped_does_not_lead_when_it_wakes_and_its_late_step_is_refused(world: World) -> None:
    first, second = await world.add(), await world.add()
    await first.tasks.add(Task(uuid=UUID, owner="", phase=Phase.RECEIVING, created_at=1.0), "announced")
    await world.pass_(1)
    first.stopped = True
    await world.pass_(SILENT + 1.5)
    assert (first.works, second.works) == (True, True)  # its loops could not be told
    assert not first.leadership.held  # but whatever of it runs first knows
    await second.tasks.refresh([UUID])
    entry = second.tasks.get(UUID)
    assert entry is not None
    await second.tasks.advance(entry, Phase.QUEUED, "committed")
    late = first.tasks.get(UUID)
    assert late is not None
    assert late.task.phase is Phase.RECEIVING
    with pytest.raises(StaleTask):
        await first.tasks.advance(late, Phase.REMOVED, "abandoned")
    assert late.task == entry.task
    first.stopped = False
    await world.pass_(1)
    assert world.leaders() == [second]
    assert not first.works


async def test_a_leader_that_was_stopped_for_a_moment_does_its_election_work_again(world: World) -> None:
    first = await world.add()
    await world.pass_(1)
    first.stopped = True
    await world.pass_(5)  # longer than it may lead without a heartbeat; the lock is still its own
    first.stopped = False
    await world.pass_(1.5)
    assert world.leaders() == [first]
    assert first.elections == 2


async def test_election_work_is_done_again_when_the_term_ended_in_the_middle_of_it(world: World) -> None:
    first = await world.add()
    await world.pass_(1)
    await first.replicas.leave()
    first.replicas._wanted = True
    first.election_gate.clear()
    await world.pass_(1.5)
    assert (first.elections, first.works) == (2, False)
    first.store.down = True
    await world.pass_(5)
    assert not first.leadership.held
    first.store.down = False
    await world.pass_(2)
    assert (first.elections, first.leadership.held) == (2, True)
    first.election_gate.set()
    await world.pass_(0.25)
    assert (first.elections, world.leaders()) == (3, [first])


async def test_a_leader_whose_election_work_fails_steps_down_and_is_elected_by_its_next_heartbeat(world: World) -> None:
    first, second = await world.add(), await world.add()
    second.election_error = StoreDown("later")
    await first.replicas.leave()
    await world.pass_(1.5)
    assert second.elections >= 1
    assert world.leaders() == []
    second.election_error = None
    await world.pass_(2)
    assert world.leaders() == [second]


async def test_a_replica_that_could_not_reach_the_store_takes_nobody_for_dead_until_all_had_time_to_beat(
    world: World,
) -> None:
    first, second, third = [await world.add() for _ in range(3)]
    await world.pass_(2)
    names = [member.replicas.me.id for member in world.members]
    for member in world.members:
        member.store.down = True
    await world.pass_(20)
    third.stopped = True
    for member in world.members:
        member.store.down = False
    await world.pass_(1.25)
    assert first.replicas.alive(names[1])
    assert first.replicas.alive(names[2])
    await world.pass_(SILENT + 1)
    assert [first.replicas.alive(name) for name in names] == [True, True, False]
    assert [second.replicas.alive(name) for name in names] == [True, True, False]


async def test_what_was_never_announced_is_read_within_five_minutes(world: World) -> None:
    first, second = await world.add(), await world.add()
    await eventually(lambda: _hears(first, second))
    second.store.deaf = True
    second.store.open_gate.clear()  # of the time that passes only its follower takes note
    await second.clock.advance(1.0)
    await first.tasks.add(Task(uuid=UUID, owner="", phase=Phase.RECEIVING, created_at=1.0), "announced")
    await second.clock.advance(298.0)
    await first.store.say("look", "later")
    await eventually(lambda: second.store.missed >= 2)
    assert second.tasks.get(UUID) is None
    await second.clock.advance(2.0)
    await eventually(lambda: second.tasks.get(UUID))


async def test_a_look_reaches_the_leader_and_a_revoked_grant_all(world: World) -> None:
    first, second = await world.add(), await world.add()
    await first.replicas.look("a")
    assert first.looked == ["a"]
    await eventually(lambda: _hears(second, first))
    await eventually(lambda: _hears(first, second))
    await first.replicas.forget("bob")
    assert first.forgotten == ["bob"]
    await eventually(lambda: second.forgotten == ["bob"])


async def _hears(speaker: Member, listener: Member) -> bool:
    await speaker.store.say("look", "probe")
    return "probe" in listener.looked


async def test_a_database_of_its_own_makes_a_process_the_leader_for_good(tmp_path: Any) -> None:
    store = await DrivenStore.open(f"sqlite+aiosqlite:///{tmp_path / 'clusterodm.db'}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        member = Member(store, await stack.enter_async_context(aiohttp.ClientSession()))
        await member.replicas.begin(member.loops)
        await stack.enter_async_context(background(member.loops.run(Scope.REPLICA)))
        await member.clock.advance(86400.0)
        assert (member.leadership.until, member.works, member.elections) == (math.inf, True, 1)
        await member.replicas.leave()
        await settle()
        assert not member.works
