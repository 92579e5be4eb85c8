# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections of clients: how many requests are in flight, and which connections are idle.

The web server's own graceful shutdown stops reading at once, which would cut every upload in the middle; and it has no
limit for a request whose headers come a byte at a time.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Histogram

from clusterodm.aio import Clock
from clusterodm.http.forwarded import Proxies
from clusterodm.observe import Metrics, access_logger

_log = access_logger()


class Connections:
    """Tracks the requests in flight and the idle connections."""

    def __init__(self, metrics: Metrics, proxies: Proxies, clock: Clock, *, logged: bool = False) -> None:
        self._metrics = metrics
        self.proxies = proxies
        self.clock = clock
        #: True if every request is logged.
        self.logged = logged
        self._timers: dict[str, Histogram] = {}
        #: True once the process shuts down: requests are still served, but their connections closed.
        self.ending = False
        #: Requests between their first header and the end of the response.
        self.in_flight = 0
        self._none = asyncio.Event()
        #: Connections on the fast path, and when (by the monotonic clock) they sent a request last.
        self._waiting: dict[asyncio.Transport, float] = {}
        self._busy: set[web.RequestHandler] = set()
        self._idle_since: dict[web.RequestHandler, float] = {}

    def begun(self, connection: web.RequestHandler) -> None:
        """Count a request whose headers are complete."""
        self.in_flight += 1
        self._busy.add(connection)
        self._idle_since.pop(connection, None)

    def ended(self, connection: web.RequestHandler) -> None:
        """Count a request that was answered, or whose client left."""
        self._busy.discard(connection)
        self.in_flight -= 1
        if not self.in_flight:
            self._none.set()

    def waits(self, connection: asyncio.Transport) -> None:
        """Note a new connection on the fast path, or a request that was answered there."""
        self._waiting[connection] = self.clock.steady()

    def leaves(self, connection: asyncio.Transport) -> None:
        """Note that a connection was closed, or handed over to the web server."""
        self._waiting.pop(connection, None)

    def close_waiting(self) -> None:
        """Close all connections on the fast path: none has a request in flight."""
        for connection in list(self._waiting):
            connection.close()

    def cut(self, server: web.Server) -> None:
        """Abort all connections, also those with requests in flight."""
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def observe(self, route: str, seconds: float) -> None:
        """Record the duration of a request."""
        timer = self._timers.get(route)
        if timer is None:  # looking up a label costs more than recording
            timer = self._timers[route] = self._metrics.requests.labels(route)
        timer.observe(seconds)

    async def drained(self, seconds: float) -> bool:
        """Wait until no request is in flight, for `seconds` at most; return True if none is."""
        try:
            async with asyncio.timeout(seconds):
                while self.in_flight:
                    self._none.clear()
                    await self._none.wait()
        except TimeoutError:
            return False
        return True

    async def close_silent(self, server: web.Server, seconds: float) -> None:
        """Abort connections without a complete request for `seconds`, until canceled."""
        while True:
            await asyncio.sleep(seconds / 4)
            now = self.clock.steady()
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
    """Count a request while it is in flight, and time it."""
    connections, connection = request.app[CONNECTIONS], request.protocol
    connections.begun(connection)
    started_at = connections.clock.steady()
    status = 0
    try:
        response = await handler(request)
        status = response.status
        if connections.ending and not response.prepared:
            response.force_close()
        return response
    finally:
        connections.ended(connection)
        seconds = connections.clock.steady() - started_at
        connections.observe(_route(request), seconds)
        if connections.logged:
            access(request, status, seconds, remote=connections.proxies.client(request))


async def health(request: web.Request) -> web.Response:
    """GET /healthz, for a balancer: 200 as long as it should send requests here; without a token, and without
    details."""
    ending = request.app[CONNECTIONS].ending
    return web.Response(status=503 if ending else 200, text="ending\n" if ending else "ok\n")


def access(request: web.Request, status: int, seconds: float, *, remote: str | None) -> None:
    """Write a line of the access log; without the query, which may hold a token. Status 0: the client left."""
    _log.info(
        "request",
        method=request.method,
        path=request.path,
        status=status,
        seconds=round(seconds, 4),
        remote=remote,
    )


def _route(request: web.Request) -> str:
    """Return the route of a request, without the parts that differ from request to request."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else NO_ROUTE
