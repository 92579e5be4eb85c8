# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A load balancer as an actor, which does what deploy/proxies/haproxy.cfg has HAProxy do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp import web

from clusterodm.testing.simulation import Host, Process

_TRIES: Final = 4
#: Seconds between two checks of a replica, and until one counts as failed; checks that take it out, and back in.
_INTERVAL: Final = 2.0
_FALL: Final = 3
_RISE: Final = 2
#: Bytes of a request that can be repeated once it was sent.
_BUFFER: Final = 16 << 10
_HOP: Final = ("connection", "transfer-encoding", "keep-alive", "host", "content-length")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=600.0, sock_connect=2.0)


class _Replica:
    def __init__(self, url: str) -> None:
        self.url = url
        self.up = True
        self.streak = 0
        self.requests = 0


class Balancer:
    """Hands each request to the replica with the fewest."""

    def __init__(self, host: Host, port: int, urls: list[str]) -> None:
        self._host = host
        self._port = port
        self._replicas = [_Replica(url) for url in urls]
        self._turn = 0
        self._session: aiohttp.ClientSession

    def start(self) -> None:
        """Start its process."""
        Process(self._host, "balancer").run(self._main())

    async def _main(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=_TIMEOUT) as self._session:
            await web.TCPSite(runner, "0.0.0.0", self._port).start()
            async with asyncio.TaskGroup() as group:
                for replica in self._replicas:
                    group.create_task(self._check(replica))

    async def _check(self, replica: _Replica) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            good = False
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                limit = aiohttp.ClientTimeout(total=_INTERVAL)
                async with self._session.get(f"{replica.url}/healthz", timeout=limit) as response:
                    good = response.status == 200
            replica.streak = 0 if good is replica.up else replica.streak + 1
            if replica.streak >= (_FALL if replica.up else _RISE):
                replica.up, replica.streak = good, 0

    def _choose(self, tried: list[_Replica]) -> _Replica | None:
        up = [each for each in self._replicas if each.up]
        fresh = [each for each in up if each not in tried] or up
        self._turn += 1
        order = fresh[self._turn % len(fresh) :] + fresh[: self._turn % len(fresh)] if fresh else []
        return min(order, key=lambda each: each.requests, default=None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except ConnectionError:  # the client is gone
            return self._give_up(request)
        repeatable = len(body) <= _BUFFER and request.path != "/task/new"
        tried: list[_Replica] = []
        while len(tried) < _TRIES and (replica := self._choose(tried)) is not None:
            tried.append(replica)
            replica.requests += 1
            last = len(tried) == _TRIES or not repeatable
            try:
                if (response := await self._forward(request, body, replica, last=last)) is not None:
                    return response
            except aiohttp.ClientConnectorError:
                continue
            except (aiohttp.ClientError, TimeoutError, OSError):
                if not repeatable or request.task is None:
                    break
            finally:
                replica.requests -= 1
        return self._give_up(request)

    def _give_up(self, request: web.Request) -> web.StreamResponse:
        """Close the connection: to a client it is the same as the answer of a balancer without replicas."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    async def _forward(
        self, request: web.Request, body: bytes, replica: _Replica, *, last: bool
    ) -> web.StreamResponse | None:
        """Return the response of a replica; None if another one is to be asked."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers["X-Forwarded-For"] = str(request.remote)
        url = f"{replica.url}{request.raw_path}"
        async with self._session.request(
            request.method, url, data=body or None, headers=headers, allow_redirects=False
        ) as answer:
            if answer.status == 503 and not last:
                return None
            shown = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=shown)
            response.content_length = answer.content_length
            await response.prepare(request)
            try:
                async for block in answer.content.iter_any():
                    await response.write(block)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError, OSError):  # a part of it was sent
                return self._give_up(request)
            return response
