# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What pollers ask, again and again, answered from bytes that are there already.

A connection begins with the protocol of this file. As long as all that comes are whole requests of a few plain forms,
and memory has the answer, that is written at once. At the first one that is anything else (a body, another path, an odd
header, a task that memory does not have) the connection goes over to the web server, for good, with that request as
its first: what is not answered here is answered there, and both say the same.
"""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from typing import Final, cast

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.cluster.context import Context
from clusterodm.core.tasks import visible
from clusterodm.http.connections import Connections

#: A request without a body whose every line is as it should be. What a server in front of us could read in another way
#: than the web server behind us is no such request.
_REQUEST: Final = re.compile(
    rb"GET (/info|/options|/task/([0-9a-f-]{36})/(?:info|output))(?:\?([A-Za-z0-9_.~=&-]*))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+:[^\r\n\0]*\r\n)+)\r\n"
)
#: Headers that make a difference to the answer, other than `Connection: keep-alive`.
_OTHER: Final = re.compile(
    rb"^(?:authorization|origin|content-|transfer-|expect|upgrade|te:|trailer|connection:(?![ \t]*keep-alive[ \t]*\r))",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSE: Final = re.compile(rb"^connection:[ \t]*close[ \t]*\r\n", re.IGNORECASE | re.MULTILINE)
#: Largest request that is looked at here; one that comes in parts is not.
_LONGEST: Final = 8192
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nDate: %b\r\n%b\r\n"
)
_LINE: Final = re.compile(r"-?\d{1,15}")


class FastPath:
    """Knows the answers."""

    def __init__(self, cluster: Context, connections: Connections) -> None:
        self._cluster = cluster
        self.connections = connections
        self._date = (0, b"")

    def answer(self, request: bytes) -> tuple[bytes, bool] | None:
        """The whole answer to a request, and whether the connection is to be closed after it; None: not from here."""
        found = _REQUEST.fullmatch(request) if len(request) <= _LONGEST else None
        if found is None or self.connections.logged:
            return None
        path, uuid, query, headers = found.groups()
        close = _CLOSE.search(headers) is not None
        if _OTHER.search(_CLOSE.sub(b"", headers) if close else headers) is not None:
            return None
        begun = time.monotonic()
        parts = query.decode().split("&") if query else []
        asked = dict(part.partition("=")[::2] for part in parts)
        if len(asked) < len(parts):
            return None
        grant = self._grant(asked.pop("token", ""))
        body = self._body(path, uuid, asked, grant) if grant is not None else None
        if body is None:
            return None
        close = close or self.connections.ending
        self.connections.observe(_ROUTES[path if uuid is None else path[43:]], time.monotonic() - begun)
        return self._head(len(body), close) + body, close

    def _grant(self, token: str) -> Grant | None:
        return None if token.startswith("job.") else self._cluster.authenticator.known(token)

    def _body(self, path: bytes, uuid: bytes | None, asked: dict[str, str], grant: Grant) -> bytes | None:
        cluster = self._cluster
        if uuid is not None:
            return self._task(path, uuid.decode(), asked, grant)
        if asked or (grant.limits.any and path == b"/options"):
            return None
        registry = cluster.registry
        return registry.info_json(cluster.tasks.queued) if path == b"/info" else registry.description.options_json

    def _task(self, path: bytes, uuid: str, asked: dict[str, str], grant: Grant) -> bytes | None:
        """Of a task that is in memory, where that is sure to be the newest."""
        tasks = self._cluster.tasks
        entry = None if tasks.others else tasks.get(uuid)
        if entry is None or entry.task.owner != grant.owner or not visible(entry.task):
            return None
        info = path.endswith(b"info")
        if info and not asked:
            return entry.info()
        line = asked.pop("with_output" if info else "line", "" if info else "0")
        lines = self._cluster.consoles.tail(uuid, int(line)) if not asked and _LINE.fullmatch(line) else None
        if lines is None:
            return None
        return entry.info()[:-1] + b',"output":' + lines + b"}" if info else lines

    def _head(self, length: int, close: bool) -> bytes:
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return _HEAD % (length, self._date[1], b"Connection: close\r\n" if close else b"")


#: How the web server calls the routes.
_ROUTES: Final = {
    b"/info": "/info",
    b"/options": "/options",
    b"info": "/task/{uuid}/info",
    b"output": "/task/{uuid}/output",
}


class FastPathProtocol(asyncio.Protocol):
    """The first protocol of a connection."""

    def __init__(self, hot: FastPath, server: web.Server) -> None:
        self._hot = hot
        self._server = server
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._hot.connections.waits(self._transport)

    def data_received(self, data: bytes) -> None:
        """A request, or something else."""
        transport = self._transport
        if transport is None:
            return
        answer = self._hot.answer(data)
        if answer is None:
            self._hand_over(transport, data)
            return
        transport.write(answer[0])
        self._hot.connections.waits(transport)
        if answer[1]:
            transport.close()

    def _hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        self._transport = None
        self._hot.connections.leaves(transport)
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        if self._transport is not None:
            self._hot.connections.leaves(self._transport)
            self._transport = None

    def pause_writing(self) -> None:
        """A client that asks and does not take the answers is not asked on."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes them."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
