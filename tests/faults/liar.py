# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A stand-in in front of a node that lies about chosen tasks, some times, and then says the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

#: More times than anybody asks.
ALWAYS = 1_000_000


@dataclass(frozen=True)
class Lie:
    """What is answered in the node's place to requests about a task whose path has `part` in it."""

    part: str
    say: Callable[[web.Request], web.StreamResponse]
    times: int = ALWAYS
    #: The node does what was asked for, and only its answer is replaced.
    done: bool = False
    #: Seconds that the answer is late.
    late: float = 0.0


@dataclass
class ActiveLie:
    """A lie about one task, and how often it was told; several stand-ins may share it."""

    lie: Lie
    count: int = 0


@dataclass
class Liar:
    """Stands in front of the node on `port`."""

    port: int
    #: Lies by the uuid of the task.
    lies: dict[str, ActiveLie] = field(default_factory=dict)
    session: aiohttp.ClientSession = field(default_factory=lambda: aiohttp.ClientSession(auto_decompress=False))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Lie or pass on."""
        active = self._active_lie(request)
        if active is None:
            return await self.honest(request)
        active.count += 1
        if active.lie.done:
            await self.honest(request)
        await asyncio.sleep(active.lie.late)
        return active.lie.say(request)

    def _active_lie(self, request: web.Request) -> ActiveLie | None:
        about = f"{request.path} {request.headers.get('set-uuid', '')}"
        for uuid, active in self.lies.items():
            if uuid in about and active.lie.part in request.path and active.count < active.lie.times:
                return active
        return None

    async def honest(self, request: web.Request) -> web.StreamResponse:
        """What the node says."""
        dropped_headers = ("host", "content-length", "transfer-encoding")
        headers = {key: value for key, value in request.headers.items() if key.lower() not in dropped_headers}
        url = f"http://127.0.0.1:{self.port}{request.path_qs}"
        try:
            async with self.session.request(
                request.method, url, data=await request.read(), headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
                return web.Response(body=body, status=answer.status, content_type=answer.content_type)
        except (aiohttp.ClientError, OSError):
            return cut(request)


@asynccontextmanager
async def running_liar(port: int) -> AsyncIterator[tuple[Liar, int]]:
    """A stand-in for the node on `port` while the block runs, and its own port."""
    liar = Liar(port)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", liar.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield liar, runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await liar.session.close()


def cut(request: web.Request) -> web.Response:
    """Hang up without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def half(request: web.Request) -> web.StreamResponse:
    """Less than was promised."""
    answer = web.Response(body=b'{"uuid": "', headers={"Content-Length": "500", "Content-Type": "application/json"})
    answer.force_close()
    return answer


def status(code: int) -> Callable[[web.Request], web.StreamResponse]:
    """Another status, as a proxy in between makes it."""
    return lambda request: web.Response(status=code, text="<html>bad gateway")


def error(text: str) -> Callable[[web.Request], web.StreamResponse]:
    """An error in the API's own form."""
    return lambda request: web.json_response({"error": text})


def _unknown(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": f"{request.path.split('/')[2]} not found"})


def _failed(text: str) -> Callable[[web.Request], web.StreamResponse]:
    def say(request: web.Request) -> web.StreamResponse:
        end = {"code": 30, "errorMessage": text}
        return web.json_response({"uuid": request.path.split("/")[2], "status": end, "dateCreated": 1})

    return say


_OTHER = {"uuid": "00000000-0000-4000-8000-000000000000", "status": {"code": 30}, "dateCreated": 1}
INFO, INIT, UPLOAD, COMMIT, DOWNLOAD = "/info", "/task/new/init", "/task/new/upload", "/task/new/commit", "/download/"

#: All the ways in which a node can be wrong about one task.
LIES: dict[str, Lie] = {
    "answers 502 for a while": Lie(INFO, status(502), 5),
    "answers a page of a proxy": Lie(INFO, lambda request: web.Response(text="<html>", content_type="text/html"), 5),
    "answers JSON that means nothing": Lie(INFO, lambda request: web.json_response(["what"]), 5),
    "answers half": Lie(INFO, half, 5),
    "answers with another task": Lie(INFO, lambda request: web.json_response(_OTHER), 5),
    "hangs up": Lie(INFO, cut, 5),
    "answers late": Lie(INFO, cut, 2, late=1.0),
    "says once that it does not know the task": Lie(INFO, _unknown, 1),
    "forgets the task": Lie(INFO, _unknown),
    "ran out of memory": Lie(INFO, _failed("Not enough memory (exit code 137)")),
    "cannot run the engine": Lie(INFO, _failed("Unsupported CPU (exit code 132)")),
    "refuses the announcement": Lie(INIT, error("Disk is full")),
    "answers the announcement with 500": Lie(INIT, status(500)),
    "refuses an upload": Lie(UPLOAD, error("ENOSPC: no space left on device, write")),
    "loses an upload": Lie(UPLOAD, cut, 1),
    "loses the answer to an upload": Lie(UPLOAD, cut, 1, done=True),
    "answers an upload with 413": Lie(UPLOAD, status(413)),
    "refuses the commit": Lie(COMMIT, error("Not enough disk space")),
    "loses the commit": Lie(COMMIT, cut, 1),
    "loses the answer to the commit": Lie(COMMIT, cut, 1, done=True),
    "has no results at first": Lie(DOWNLOAD, error("Asset not ready"), 2),
    "never has results": Lie(DOWNLOAD, error("Invalid asset")),
    "cuts its results short": Lie(DOWNLOAD, half, 2),
}
