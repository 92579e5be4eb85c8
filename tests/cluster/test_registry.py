# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The registry on a driven clock: when nodes are polled, and what each poll changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.cluster.controller import Controller
from clusterodm.cluster.state.description import Description
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import StoreDown
from clusterodm.core.nodes import NodeInfo, make_address
from clusterodm.core.tasks import Phase, Task
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store
from tests.clock import DrivenClock, background, settle
from tests.support import eventually

UUID = "aaaaaaaa-1111-4111-8111-aaaaaaaaaaaa"


class FailingStore(Store):
    """A store that does not answer when values are kept, while `down`."""

    down = False

    async def keep_value(self, name: str, value: Any) -> None:
        """Keep a value."""
        if self.down:
            raise StoreDown("later")
        await super().keep_value(name, value)


@dataclass
class Polled:
    """A node that answers polls: with a queue of so many tasks, or with 500 while it is down, once the gate is open."""

    queue: int = 0
    down: bool = False
    polls: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def info(self, request: web.Request) -> web.Response:
        """`/info`."""
        self.polls += 1
        await self.gate.wait()
        body = {"version": "2.2.4", "engine": "odm", "maxParallelTasks": 2, "taskQueueCount": self.queue}
        return web.Response(status=500) if self.down else web.json_response(body)

    async def options(self, request: web.Request) -> web.Response:
        """`/options`."""
        return web.json_response([{"name": "dsm", "type": "bool", "value": "false", "domain": "bool", "help": ""}])


class World:
    """A registry with one node."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}"
        self.clock = DrivenClock()
        self.polled = Polled()
        self.polled.gate.set()
        self.notifications = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Registry]:
        """Poll while the block runs."""
        async with AsyncExitStack() as stack:
            self.store = await FailingStore.open(self.url)
            stack.push_async_callback(self.store.close)
            self.tasks = Tasks(self.store, self.clock)
            self.registry = await self.another(stack)
            app = web.Application()
            app.add_routes([web.get("/info", self.polled.info), web.get("/options", self.polled.options)])
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            [loop] = self.registry.loops()
            assert isinstance(loop, Controller)
            self.controller: Controller[int] = loop
            await stack.enter_async_context(background(loop.run()))
            self.node = await self.registry.add(make_address("127.0.0.1", int(runner.addresses[0][1])))
            self.registry.watch(self._notified)
            await self.quiet()
            yield self.registry

    async def another(self, stack: AsyncExitStack) -> Registry:
        """A registry on the same store."""
        session = await stack.enter_async_context(aiohttp.ClientSession())
        shipped = Description(NodeInfo(engine="odm"), [])
        return Registry(
            self.store, self.tasks, NodeClient(session), shipped, interval=10.0, machines=list, clock=self.clock
        )

    def _notified(self) -> None:
        self.notifications += 1

    async def quiet(self) -> None:
        """Wait until no poll is under way."""
        await settle()
        await eventually(lambda: not self.controller._running)

    async def pass_(self, seconds: float) -> int:
        """Let time pass, second by second; how many polls there were in it."""
        before = self.polled.polls
        for _ in range(int(seconds)):
            await self.clock.advance(1.0)
            await self.quiet()
        return self.polled.polls - before


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def add_task(world: World) -> None:
    assert await world.tasks.add(Task(uuid=UUID, owner="", phase=Phase.RECEIVING, created_at=1.0), "announced")


async def test_nodes_of_an_idle_cluster_are_polled_less_often_until_a_task_comes(world: World) -> None:
    async with world.running():
        assert world.polled.polls == 1
        assert await world.pass_(29) == 0
        assert await world.pass_(1) == 1
        await world.pass_(4)
        await add_task(world)
        assert await world.pass_(5) == 0
        assert await world.pass_(1) == 1  # ten seconds after the last poll
        assert await world.pass_(20) == 2


async def test_a_node_is_offline_after_two_failed_polls_and_online_after_one_good_one(world: World) -> None:
    async with world.running():
        await add_task(world)
        assert world.node.online
        world.polled.down = True
        await world.pass_(10)
        assert world.node.online
        assert "500" in world.node.error
        notified = world.notifications
        await world.pass_(10)
        assert not world.node.online
        assert world.notifications == notified + 1
        await world.pass_(10)
        assert world.notifications == notified + 1
        world.polled.down = False
        await world.pass_(10)
        assert (world.node.online, world.node.error) == (True, "")
        assert world.notifications == notified + 2


async def test_a_late_answer_to_a_poll_from_before_the_commit_frees_no_slot(world: World) -> None:
    async with world.running() as registry:
        world.polled.gate.clear()
        registry.look(world.node)
        await eventually(lambda: world.polled.polls == 2)
        registry.reserve(world.node, UUID)
        await world.clock.advance(1.0)
        registry.committed(world.node, UUID)
        await world.clock.advance(1.0)
        heard: list[int] = []
        registry.watch(lambda: heard.append(free(world.node)))
        world.polled.queue = 1
        world.polled.gate.set()
        await eventually(lambda: world.polled.polls == 3)  # the commit has it polled again
        await world.quiet()
        assert heard[0] == 0  # counted by the node, and still reserved
        assert (world.node.reserved, free(world.node)) == ({}, 1)


def free(node: Node) -> int:
    return node.facts().free


async def test_a_node_with_fewer_tasks_than_are_known_has_them_looked_at(world: World) -> None:
    ended: list[str] = []
    async with world.running() as registry:
        registry.ended.add(ended.append)
        world.polled.queue = 1
        registry.committed(world.node, UUID)
        await world.clock.advance(1.0)
        await world.quiet()
        assert ended == []
        world.polled.queue = 0
        registry.look(world.node)
        await world.quiet()
        assert ended == [UUID]
        registry.release(world.node.record.id, UUID)
        await world.quiet()
        assert ended == [UUID]


async def test_a_node_is_online_although_the_store_cannot_keep_its_description(world: World) -> None:
    FailingStore.down = True
    try:
        async with world.running() as registry:
            assert world.node.online
            assert world.notifications >= 1
            FailingStore.down = False
            await world.pass_(40)
            assert [option["name"] for option in registry.options] == ["dsm"]
            assert await world.store.value("description")
    finally:
        FailingStore.down = False


async def test_nodes_that_another_process_added_changed_and_deleted_are_taken_over_by_a_reload(world: World) -> None:
    async with world.running() as registry, AsyncExitStack() as stack:
        other = await world.another(stack)
        await other.load()
        [registered] = other.nodes()
        assert registered.record == world.node.record
        await registry.change(world.node, locked=True)
        second = await registry.add(make_address("127.0.0.1", 1))
        await other.reload()
        assert [node.closed for node in other.nodes()] == ["locked", ""]
        assert other.get(registered.record.id) is registered  # what its polls have shown stays
        await registry.forget(second)
        await registry.remove(world.node)
        await other.reload()
        assert other.nodes() == []
        assert other.all() == [registered]
        await registry.forget_removed()
        await other.reload()
        assert other.all() == []
