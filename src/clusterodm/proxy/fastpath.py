# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Polling requests, answered from prepared bytes.

A connection begins with the protocol of this file. As long as complete requests of a few plain forms come in, and
memory has the response, it is written at once. With the first request that is anything else (a body, another path, an
odd header, a task that is not in memory) the connection is handed over to the web server, for good, together with that
request. Both give the same responses.
"""

from __future__ import annotations

import asyncio
import re
from email.utils import formatdate
from typing import Final, cast

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.core.tasks import visible
from clusterodm.http.connections import Connections
from clusterodm.proxy.context import ClientPlane

#: A request without a body, of well-formed lines only. A request that a proxy in front could read differently from the
#: web server does not match.
_REQUEST: Final = re.compile(
    rb"GET (/info|/options|/task/([0-9a-f-]{36})/(?:info|output))(?:\?([A-Za-z0-9_.~=&-]*))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+:[^\r\n\0]*\r\n)+)\r\n"
)
#: Headers that change the response, other than `Connection: keep-alive`.
_OTHER: Final = re.compile(
    rb"^(?:authorization|origin|content-|transfer-|expect|upgrade|te:|trailer|connection:(?![ \t]*keep-alive[ \t]*\r))",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSE: Final = re.compile(rb"^connection:[ \t]*close[ \t]*\r\n", re.IGNORECASE | re.MULTILINE)
#: Bytes of the largest request on the fast path; one that arrives in pieces is left to the web server.
_LONGEST: Final = 8192
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nDate: %b\r\n%b\r\n"
)
_LINE: Final = re.compile(r"-?\d{1,15}")


class FastPath:
    """Answers polling requests from memory."""

    def __init__(self, cluster: ClientPlane, connections: Connections) -> None:
        self._cluster = cluster
        self.connections = connections
        self._date = (0, b"")

    def answer(self, request: bytes) -> tuple[bytes, bool] | None:
        """Return the response to a request, and True if the connection is to be closed after it; None: leave the
        request to the web server."""
        match = _REQUEST.fullmatch(request) if len(request) <= _LONGEST else None
        if match is None or self.connections.logged:
            return None
        path, uuid, query, headers = match.groups()
        close = _CLOSE.search(headers) is not None
        if _OTHER.search(_CLOSE.sub(b"", headers) if close else headers) is not None:
            return None
        start = self._cluster.clock.steady()
        pairs = query.decode().split("&") if query else []
        parameters = dict(pair.partition("=")[::2] for pair in pairs)
        if len(parameters) < len(pairs):
            return None
        grant = self._grant(parameters.pop("token", ""))
        body = self._body(path, uuid, parameters, grant) if grant is not None else None
        if body is None:
            return None
        close = close or self.connections.ending
        self.connections.observe(_ROUTES[path if uuid is None else path[43:]], self._cluster.clock.steady() - start)
        return self._head(len(body), close) + body, close

    def _grant(self, token: str) -> Grant | None:
        return None if token.startswith("job.") else self._cluster.authenticator.cached(token)

    def _body(self, path: bytes, uuid: bytes | None, parameters: dict[str, str], grant: Grant) -> bytes | None:
        cluster = self._cluster
        if uuid is not None:
            return self._task(path, uuid.decode(), parameters, grant)
        if parameters or (grant.limits.any and path == b"/options"):
            return None
        registry = cluster.registry
        return registry.info_json(cluster.tasks.queued) if path == b"/info" else registry.description.options_json

    def _task(self, path: bytes, uuid: str, parameters: dict[str, str], grant: Grant) -> bytes | None:
        """Return the body for a task in memory; None if the database may know it better."""
        tasks = self._cluster.tasks
        entry = None if tasks.others else tasks.get(uuid)
        if entry is None or entry.task.owner != grant.owner or not visible(entry.task):
            return None
        info = path.endswith(b"info")
        if info and not parameters:
            return entry.info()
        line = parameters.pop("with_output" if info else "line", "" if info else "0")
        lines = self._cluster.consoles.tail(uuid, int(line)) if not parameters and _LINE.fullmatch(line) else None
        if lines is None:
            return None
        return entry.info()[:-1] + b',"output":' + lines + b"}" if info else lines

    def _head(self, length: int, close: bool) -> bytes:
        now = int(self._cluster.clock())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return _HEAD % (length, self._date[1], b"Connection: close\r\n" if close else b"")


#: The route labels of the web server.
_ROUTES: Final = {
    b"/info": "/info",
    b"/options": "/options",
    b"info": "/task/{uuid}/info",
    b"output": "/task/{uuid}/output",
}


class FastPathProtocol(asyncio.Protocol):
    """The first protocol of a connection."""

    def __init__(self, fast_path: FastPath, server: web.Server) -> None:
        self._fast_path = fast_path
        self._server = server
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note a new connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._fast_path.connections.waits(self._transport)

    def data_received(self, data: bytes) -> None:
        """Answer a request, or hand the connection over."""
        transport = self._transport
        if transport is None:
            return
        answer = self._fast_path.answer(data)
        if answer is None:
            self._hand_over(transport, data)
            return
        transport.write(answer[0])
        self._fast_path.connections.waits(transport)
        if answer[1]:
            transport.close()

    def _hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        self._transport = None
        self._fast_path.connections.leaves(transport)
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client left."""
        if self._transport is not None:
            self._fast_path.connections.leaves(self._transport)
            self._transport = None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not take its responses."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the client again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
