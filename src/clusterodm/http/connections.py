# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections of clients: how many requests are being answered, and which connections only sit there.

The server's own graceful shutdown stops reading at once, which would cut every upload in the middle; and it waits for
ever for a request whose headers come a byte at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Histogram

from clusterodm.http.forwarded import Proxies
from clusterodm.observe import Metrics, access_logger

_log = access_logger()


class Connections:
    """Knows of each connection whether a request is being answered on it."""

    def __init__(self, metrics: Metrics, proxies: Proxies, *, logged: bool = False) -> None:
        self._metrics = metrics
        self.proxies = proxies
        #: Whether every request is logged.
        self.logged = logged
        self._timers: dict[str, Histogram] = {}
        #: We are about to end: who still comes is served, but should look elsewhere.
        self.ending = False
        #: Requests from the first header to the end of the answer.
        self.in_flight = 0
        self._none = asyncio.Event()
        #: Connections that ask nothing but what is answered at once, and when (by the loop's clock) they did so last.
        self._waiting: dict[asyncio.Transport, float] = {}
        self._busy: set[web.RequestHandler] = set()
        self._idle_since: dict[web.RequestHandler, float] = {}

    def begun(self, connection: web.RequestHandler) -> None:
        """The headers of a request are whole."""
        self.in_flight += 1
        self._busy.add(connection)
        self._idle_since.pop(connection, None)

    def ended(self, connection: web.RequestHandler) -> None:
        """A request was answered, or its client left."""
        self._busy.discard(connection)
        self.in_flight -= 1
        if not self.in_flight:
            self._none.set()

    def waits(self, connection: asyncio.Transport) -> None:
        """A new connection, or one whose request was answered at once."""
        self._waiting[connection] = asyncio.get_running_loop().time()

    def leaves(self, connection: asyncio.Transport) -> None:
        """It is closed, or goes over to the web server."""
        self._waiting.pop(connection, None)

    def close_waiting(self) -> None:
        """The end: none of them is being answered."""
        for connection in list(self._waiting):
            connection.close()

    def cut(self, server: web.Server) -> None:
        """The end at once: whoever is being answered is cut off."""
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def observe(self, route: str, seconds: float) -> None:
        """Take note of how long an answer took."""
        timer = self._timers.get(route)
        if timer is None:  # looking up a label costs more than taking note
            timer = self._timers[route] = self._metrics.requests.labels(route)
        timer.observe(seconds)

    async def drained(self, seconds: float) -> bool:
        """Wait until no request is being answered, at most so long; whether there is none."""
        try:
            async with asyncio.timeout(seconds):
                while self.in_flight:
                    self._none.clear()
                    await self._none.wait()
        except TimeoutError:
            return False
        return True

    async def close_silent(self, server: web.Server, seconds: float) -> None:
        """For ever: close connections on which no whole request came for so long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds / 4)
            now = loop.time()
            idle = {each: self._idle_since.get(each, now) for each in server.connections if each not in self._busy}
            for connection, since in idle.items():
                if now - since > seconds and connection.transport is not None:
                    connection.transport.abort()
            self._idle_since = idle
            for transport in [each for each, since in self._waiting.items() if now - since > seconds]:
                transport.abort()


#: The route label of requests for unknown paths.
NO_ROUTE: Final = "none"
CONNECTIONS: Final = web.AppKey("connections", Connections)


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a request while it is answered."""
    connections, connection = request.app[CONNECTIONS], request.protocol
    connections.begun(connection)
    begun = time.monotonic()
    status = 0
    try:
        response = await handler(request)
        status = response.status
        if connections.ending and not response.prepared:
            response.force_close()
        return response
    finally:
        connections.ended(connection)
        seconds = time.monotonic() - begun
        connections.observe(_route(request), seconds)
        if connections.logged:
            access(request, status, seconds, remote=connections.proxies.client(request))


async def health(request: web.Request) -> web.Response:
    """GET /healthz, for a balancer: 200 as long as it should send requests here; no token, nothing told."""
    ending = request.app[CONNECTIONS].ending
    return web.Response(status=503 if ending else 200, text="ending\n" if ending else "ok\n")


def access(request: web.Request, status: int, seconds: float, *, remote: str | None) -> None:
    """A line of the access log; without the query, which may hold a token. Status 0: the client left."""
    _log.info(
        "request",
        method=request.method,
        path=request.path,
        status=status,
        seconds=round(seconds, 4),
        remote=remote,
    )


def _route(request: web.Request) -> str:
    """Which route it was, without what is different in each request."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else NO_ROUTE
