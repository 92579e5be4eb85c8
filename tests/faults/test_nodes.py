"""Nodes that lie, stutter, refuse and forget: the task goes on, runs to its end once, and no poller sees an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.core.nodes import make_address
from tests.support import Rig, eventually, images

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
Lie = Callable[["Liar", web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class Liar:
    """Stands in front of a node and may answer in its place; `times` lies, then the truth."""

    port: int
    lie: Lie
    times: int
    told: int = 0
    session: aiohttp.ClientSession = field(default_factory=lambda: aiohttp.ClientSession(auto_decompress=False))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Lie or pass on."""
        if self.told < self.times and (answer := await self.lie(self, request)) is not None:
            self.told += 1
            return answer
        return await self.honest(request)

    async def honest(self, request: web.Request) -> web.Response:
        """What the node says."""
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in ("host", "content-length")
        }
        url = f"http://127.0.0.1:{self.port}{request.path_qs}"
        async with self.session.request(request.method, url, data=await request.read(), headers=headers) as answer:
            body = await answer.read()
            return web.Response(body=body, status=answer.status, content_type=answer.content_type)


def cut(request: web.Request) -> web.Response:
    """Hang up without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def on(part: str, say: Callable[[web.Request], web.StreamResponse]) -> Lie:
    """Lie to requests whose path has `part` in it."""

    async def lie(liar: Liar, request: web.Request) -> web.StreamResponse | None:
        return say(request) if part in request.path else None

    return lie


def on_task(say: Callable[[web.Request], web.StreamResponse]) -> Lie:
    """Lie to the tracker."""
    return on(f"/task/{UUID}/info", say)


def after(part: str) -> Lie:
    """Do what was asked for and lose the answer."""

    async def lie(liar: Liar, request: web.Request) -> web.StreamResponse | None:
        if part not in request.path:
            return None
        await liar.honest(request)
        return cut(request)

    return lie


def half(request: web.Request) -> web.StreamResponse:
    """Less than was promised."""
    answer = web.Response(body=b'{"uuid": "', headers={"Content-Length": "500", "Content-Type": "application/json"})
    answer.force_close()
    return answer


def error(text: str) -> Callable[[web.Request], web.StreamResponse]:
    """An error in the API's own form."""
    return lambda request: web.json_response({"error": text})


OTHER = {"uuid": "00000000-0000-4000-8000-000000000000", "status": {"code": 30}, "dateCreated": 1}
LIES: dict[str, tuple[Lie, int]] = {
    "answers 502 for a while": (on_task(lambda request: web.Response(status=502, text="<html>bad gateway")), 5),
    "answers a page of a proxy": (on_task(lambda request: web.Response(text="<html>", content_type="text/html")), 5),
    "answers JSON that means nothing": (on_task(lambda request: web.json_response(["what"])), 5),
    "answers half": (on_task(half), 5),
    "answers with another task": (on_task(lambda request: web.json_response(OTHER)), 5),
    "hangs up": (on_task(cut), 5),
    "says once that it does not know the task": (on_task(error(f"{UUID} not found")), 1),
    "forgets the task": (on_task(error(f"{UUID} not found")), 1000),
    "refuses the announcement": (on("/task/new/init", error("Disk is full")), 1000),
    "answers the announcement with 500": (on("/task/new/init", lambda request: web.Response(status=500)), 1000),
    "refuses an upload": (on("/task/new/upload", error("ENOSPC: no space left on device, write")), 1000),
    "loses an upload": (on("/task/new/upload", cut), 1),
    "loses the answer to an upload": (after("/task/new/upload"), 1),
    "answers an upload with 413": (on("/task/new/upload", lambda request: web.Response(status=413)), 1000),
    "refuses the commit": (on("/task/new/commit", error("Not enough disk space")), 1000),
    "loses the commit": (on("/task/new/commit", cut), 1),
    "loses the answer to the commit": (after("/task/new/commit"), 1),
    "has no results at first": (on("/download/", error("Asset not ready")), 2),
    "never has results": (on("/download/", error("Invalid asset")), 1000),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_task_survives_a_node_that(cluster: Rig, name: str) -> None:
    lie, times = LIES[name]
    await cluster.add_node(seconds=0.3, max_images=10)
    liar = Liar(cluster.ports.pop(), lie, times)
    cluster.stack.push_async_callback(liar.session.close)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", liar.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await cluster.add_node(seconds=0.3, max_images=20)
    api = await cluster.start(node_lost_after=5.0)
    await cluster.cluster.context.registry.add(make_address("127.0.0.1", runner.addresses[0][1]))
    await cluster.ready()
    seen: list[dict[str, Any]] = []

    async def poll() -> None:
        while True:
            seen.append(await api.get(f"/task/{UUID}/info"))
            await asyncio.sleep(0.02)

    await api.init(uuid=UUID)
    await api.post(f"/task/new/upload/{UUID}", images({"a.jpg": b"a", "b.jpg": b"b"}))
    await api.commit(UUID)
    polling = asyncio.create_task(poll())  # noqa: TID251 - canceled below
    try:
        await eventually(lambda: any(info.get("status", {}).get("code") == 40 for info in seen), seconds=30)
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
    assert liar.told > 0
    assert [info for info in seen if "error" in info or info["status"]["code"] not in (10, 20, 40)] == []
    await eventually(lambda: len(_completed(cluster)) == 1)
    assert _completed(cluster) == [(2, 1)]
    assert (await api.raw("GET", f"/task/{UUID}/download/all.zip"))[2][:2] == b"PK"


def _completed(cluster: Rig) -> list[tuple[int, int]]:
    """Images and runs of what runs or ran to its end and was not removed again."""
    tasks = [task for node in cluster.nodes for task in node.tasks.values()]
    return [(task.images_count, task.runs) for task in tasks if task.code in (10, 20, 40)]
