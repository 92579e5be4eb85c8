# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A download from a node that is resumed after an interruption.

Most nodes do not support ranges: then the file is requested again, and the part received before is skipped.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

import aiohttp
from aiohttp import ClientResponse

from clusterodm.aio import chance, next_piece
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeError, NodeUnreachable
from clusterodm.core.nodes import NodeAddress
from clusterodm.http.reasons import describe
from clusterodm.http.zero_copy import WORTH, duplicate
from clusterodm.nodeodm.client import NodeClient

#: Attempts to resume, and the delays before them.
_TRIES: Final = 3
_BACKOFF: Final = Backoff(first=0.5, factor=3.0, longest=4.5)
#: Headers that must be the same in a second response: otherwise the file has changed.
_SAME: Final = ("ETag", "Last-Modified")


class Download:
    """An open download: `status` and `headers` of the node's first response, then blocks from `read`."""

    def __init__(
        self, client: NodeClient, node: NodeAddress, uuid: str, asset: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self._node = node
        self._uuid = uuid
        self._asset = asset
        self._request_headers = dict(headers or {})
        self._stack = AsyncExitStack()
        self._response: ClientResponse | None = None
        self._received = 0
        self._spliced = 0
        self.status = 0
        self.headers: Mapping[str, str] = {}

    async def __aenter__(self) -> Download:
        """Request the file. Raise a NodeError."""
        self._response = await self._open(self._request_headers)
        self.status, self.headers = self._response.status, self._response.headers
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def read(self) -> bytes:
        """Return the next block as received; empty at the end. Raise NodeUnreachable if it cannot be resumed."""
        while True:
            try:
                block = await self._next()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                await self._resume(describe(error))
                continue
            self._received += len(block)
            return block

    def take(self) -> tuple[bytes, socket.socket, int] | None:
        """Hand over the rest of the body: the bytes received so far, the socket, and the number of bytes still to come;
        None if zero copy is not possible. The caller then reports what it has received (`took`) and must not `read`."""
        response = self._response
        assert response is not None, "entered"  # noqa: S101 - a context manager
        connection, content = response.connection, response.content
        protocol = connection.protocol if connection is not None else None
        framed = {"Transfer-Encoding", "Content-Encoding"} & response.headers.keys()
        if protocol is None or response.content_length is None or framed or content.exception() is not None:
            return None
        large = response.content_length - content.total_bytes > WORTH
        source = duplicate(protocol.transport) if large else None
        if source is None:
            return None
        received = b""
        while piece := content.read_nowait():  # reading makes the parser continue with what it has buffered
            received += piece
        protocol.pause_reading()
        self._received += len(received)
        self._spliced = response.content_length - content.total_bytes
        return received, source, self._spliced

    async def took(self, count: int) -> bool:
        """Record that `count` bytes were received from the socket; return True if that was all. Otherwise resume. Raise
        NodeUnreachable if that fails."""
        self._received += count
        if count == self._spliced:
            return True
        await self._resume("the connection ended")
        return False

    async def _open(self, headers: Mapping[str, str]) -> ClientResponse:
        download = self._client.download(self._node, self._uuid, self._asset, headers)
        return await self._stack.enter_async_context(download)

    async def _next(self) -> bytes:
        assert self._response is not None, "entered"  # noqa: S101 - a context manager
        return await next_piece(self._response.content)

    async def _resume(self, why: str) -> None:
        for count in range(1, _TRIES + 1):
            await self._stack.aclose()
            await asyncio.sleep(_BACKOFF.wait(count, chance()))
            try:
                await self._reopen()
            except NodeError as error:
                why = str(error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = describe(error)
            else:
                return
        raise NodeUnreachable(f"the download was interrupted and could not be resumed ({why})")

    async def _reopen(self) -> None:
        """Open the file again at the next byte. Raise NodeError and what reading raises."""
        ranged = self.headers.get("Accept-Ranges") == "bytes" and self.status == 200
        if ranged:
            self._response = await self._open(self._request_headers | {"Range": f"bytes={self._received}-"})
        else:
            self._response = await self._open(self._request_headers)
        if any(self._response.headers.get(name) != self.headers.get(name) for name in _SAME):
            raise NodeUnreachable("the file has changed on the node")
        if self._response.status == 206 and self.status == 200:
            expected = f"bytes {self._received}-"
            if not self._response.headers.get("Content-Range", "").startswith(expected):
                raise NodeUnreachable("the node sent another range of the file")
            return
        if self._response.headers.get("Content-Length") != self.headers.get("Content-Length"):
            raise NodeUnreachable("the file has changed on the node")
        await self._skip(self._received)

    async def _skip(self, count: int) -> None:
        assert self._response is not None, "entered"  # noqa: S101 - a context manager
        while count:
            skipped = await self._response.content.read(min(count, 1 << 20))
            if not skipped:
                raise NodeUnreachable("the file has become shorter")
            count -= len(skipped)
