# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The process dies at each named point of a task's way; the task goes on by itself, runs once and is told once."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientError, web

from tests.processes import Program, program
from tests.support import Api, Rig, eventually, images

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"

#: Where the process dies on the way from the announcement to the webhook: method and which call of it.
ON_THE_WAY = [
    "store.add_task:1",
    "spool.publish:1",
    "spool.publish:2",
    *(f"store.advance:{number}" for number in range(1, 6)),
    "client.init:1",
    "transfer.run:1",
    "store.change_attempt:1",
    "client.commit:1",
    "client.task:1",
    "client.task:2",
    "consoles.append:1",
    "spool.drop:1",
    "notifier._call:1",
    "store.change_task:1",
]
#: Where the owner was told and we could not note it.
AMBIGUOUS = {("notifier._call:1", "after"), ("store.change_task:1", "before")}
#: Where the call is on its way at the same time: it may have been taken and not noted, or not yet made.
RACING = {("spool.drop:1", "after")}
#: Where it dies after the owner ordered a cancel or a remove of a running task.
AT_AN_ORDER = ["store.advance:1", "client.VERB:1", "store.change_attempt:1"]


class Driver:
    """A client that goes on after each loss of the connection, and an operator who starts the program again."""

    def __init__(self, running: Program) -> None:
        self.program = running
        self.deaths = 0

    async def do(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something until it is answered."""
        while True:
            try:
                return await work()
            except (ClientError, OSError):
                if self.program.died():
                    self.deaths += 1
                    self.program.launcher = []
                    await self.program.start()

    async def code(self) -> int:
        """The task's status code, 0 when it is unknown."""
        info = await self.do(lambda: self.program.api.get(f"/task/{UUID}/info"))
        return int(info["status"]["code"]) if "status" in info else 0


async def _hook(rig: Rig, calls: list[Any]) -> str:
    async def take(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    rig.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/hook"


async def _driver(rig: Rig, point: str) -> Driver:
    settings = {"node": f"127.0.0.1:{rig.ports[0]}"}
    running = await rig.stack.enter_async_context(program(rig.folder, **settings))
    running.launcher = ["-m", "tests.faults.crashing", point]
    await running.start()
    return Driver(running)


async def _upload(api: Api, name: str) -> Any:
    return await api.post(f"/task/new/upload/{UUID}", images({name: b"x"}))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", ON_THE_WAY)
async def test_death_on_the_way(cluster: Rig, point: str, when: str) -> None:
    method, count = point.split(":")
    calls: list[Any] = []
    hook = await _hook(cluster, calls)
    node = await cluster.add_node(seconds=0.3)
    driver = await _driver(cluster, f"{method}:{when}:{count}")
    api = driver.program.api
    assert await driver.do(lambda: api.init(uuid=UUID, name="kept", webhook=hook)) == UUID
    for name in ("a.jpg", "b.jpg"):
        assert await driver.do(functools.partial(_upload, api, name)) == {"success": True}
    assert await driver.do(lambda: api.commit(UUID)) == {"uuid": UUID}
    codes = {await driver.code()}

    async def over() -> bool:
        codes.add(await driver.code())
        return 40 in codes and bool(calls) and (driver.deaths > 0 or driver.program.died())

    await eventually(over, seconds=40)
    await driver.code()
    if (point, when) in AMBIGUOUS:
        await eventually(lambda: len(calls) == 2)
    assert driver.deaths == 1
    assert codes <= {10, 20, 40}
    info = await api.get(f"/task/{UUID}/info")
    assert (info["name"], info["imagesCount"]) == ("kept", 2)
    completed = [task for task in node.tasks.values() if task.code == 40]
    assert [(task.images_count, task.runs) for task in completed] == [(2, 1)]
    # between the owner's answer and our note of it nobody can tell whether the call was made: it is repeated then
    assert len(calls) in ({1, 2} if (point, when) in RACING else {2} if (point, when) in AMBIGUOUS else {1})
    assert all(call == info | {"images": []} for call in calls)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", AT_AN_ORDER)
@pytest.mark.parametrize(("verb", "shown", "code"), [("cancel", 50, 50), ("remove", 0, None)])
async def test_death_at_an_order(cluster: Rig, verb: str, shown: int, code: int | None, point: str, when: str) -> None:
    node = await cluster.add_node(seconds=60)
    driver = await _driver(cluster, "store.close:after:9")
    api = driver.program.api
    await api.create(2, uuid=UUID)
    await eventually(lambda: node.tasks.get(UUID) and node.tasks[UUID].code == 20)
    await eventually(lambda: api.get(f"/task/{UUID}/output"))
    await driver.program.end()
    method, count = point.replace("VERB", verb).split(":")
    driver.program.launcher = ["-m", "tests.faults.crashing", f"{method}:{when}:{count}"]
    await driver.program.start()
    answer = await driver.do(lambda: api.post(f"/task/{verb}", {"uuid": UUID}))
    assert answer in ({"success": True}, {"success": False, "error": f"{UUID} not found"})

    async def done() -> bool:
        await driver.code()
        task = node.tasks.get(UUID)
        return driver.deaths > 0 and (task.code if task else None) == code

    await eventually(done, seconds=40)
    assert await driver.code() == shown
    assert node.commits == [UUID]


async def test_every_point_is_one_of_the_program() -> None:
    from tests.faults.crashing import POINTS, owners

    for point in {*POINTS, *(point.split(":")[0] for point in ON_THE_WAY)}:
        owner, method = point.split(".")
        assert asyncio.iscoroutinefunction(getattr(owners()[owner], method))
    assert {point.split(":")[0] for point in ON_THE_WAY} == set(POINTS)
