# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A download from a node that goes on where it was cut.

Most nodes know no ranges: then the file is asked for again and what we have of it is skipped.
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

#: Tries to go on, and what is between them; after the last one the download is given up.
_TRIES: Final = 3
_BACKOFF: Final = Backoff(first=0.5, factor=3.0, longest=4.5)
#: What must be the same in a second answer, or else it is another file.
_SAME: Final = ("ETag", "Last-Modified")


class Download:
    """An open download: `status` and `headers` of the node's first answer, then blocks from `read`."""

    def __init__(
        self, client: NodeClient, node: NodeAddress, uuid: str, asset: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self._node = node
        self._uuid = uuid
        self._asset = asset
        self._asked = dict(headers or {})
        self._stack = AsyncExitStack()
        self._answer: ClientResponse | None = None
        self._received = 0
        self._taken = 0
        self.status = 0
        self.headers: Mapping[str, str] = {}

    async def __aenter__(self) -> Download:
        """Ask for the file. Raises a NodeError."""
        self._answer = await self._open(self._asked)
        self.status, self.headers = self._answer.status, self._answer.headers
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def read(self) -> bytes:
        """The next block, as large as it came; empty at the end. Raises NodeUnreachable when it cannot go on."""
        while True:
            try:
                block = await self._next()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                await self._go_on(describe(error))
                continue
            self._received += len(block)
            return block

    def take(self) -> tuple[bytes, socket.socket, int] | None:
        """The rest of the body as what came of it and the socket on which more comes, with the number of bytes to come;
        None when that cannot be. From then on `read` gives nothing: whoever took it says how much came (`took`)."""
        answer = self._answer
        assert answer is not None, "entered"  # noqa: S101 - a context manager
        connection, content = answer.connection, answer.content
        protocol = connection.protocol if connection is not None else None
        framed = {"Transfer-Encoding", "Content-Encoding"} & answer.headers.keys()
        if protocol is None or answer.content_length is None or framed or content.exception() is not None:
            return None
        large = answer.content_length - content.total_bytes > WORTH
        source = duplicate(protocol.transport) if large else None
        if source is None:
            return None
        came = b""
        while piece := content.read_nowait():  # what is read makes room for what was received and not parsed yet
            came += piece
        protocol.pause_reading()
        self._received += len(came)
        self._taken = answer.content_length - content.total_bytes
        return came, source, self._taken

    async def took(self, count: int) -> bool:
        """So much came of what was taken; whether that was all. If not, the node is asked for the rest. Raises
        NodeUnreachable when that cannot be had."""
        self._received += count
        if count == self._taken:
            return True
        await self._go_on("the connection ended")
        return False

    async def _open(self, headers: Mapping[str, str]) -> ClientResponse:
        asked = self._client.download(self._node, self._uuid, self._asset, headers)
        return await self._stack.enter_async_context(asked)

    async def _next(self) -> bytes:
        assert self._answer is not None, "entered"  # noqa: S101 - a context manager
        return await next_piece(self._answer.content)

    async def _go_on(self, why: str) -> None:
        for count in range(1, _TRIES + 1):
            await self._stack.aclose()
            await asyncio.sleep(_BACKOFF.wait(count, chance()))
            try:
                await self._again()
            except NodeError as error:
                why = str(error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = describe(error)
            else:
                return
        raise NodeUnreachable(f"the download was cut and could not go on ({why})")

    async def _again(self) -> None:
        """Open anew at the byte that is next. Raises NodeError and what reading raises."""
        ranged = self.headers.get("Accept-Ranges") == "bytes" and self.status == 200
        if ranged:
            self._answer = await self._open(self._asked | {"Range": f"bytes={self._received}-"})
        else:
            self._answer = await self._open(self._asked)
        if any(self._answer.headers.get(name) != self.headers.get(name) for name in _SAME):
            raise NodeUnreachable("the file has changed on the node")
        if self._answer.status == 206 and self.status == 200:
            expected = f"bytes {self._received}-"
            if not self._answer.headers.get("Content-Range", "").startswith(expected):
                raise NodeUnreachable("the node answered with another part of the file")
            return
        if self._answer.headers.get("Content-Length") != self.headers.get("Content-Length"):
            raise NodeUnreachable("the file has changed on the node")
        await self._skip(self._received)

    async def _skip(self, count: int) -> None:
        assert self._answer is not None, "entered"  # noqa: S101 - a context manager
        while count:
            skipped = await self._answer.content.read(min(count, 1 << 20))
            if not skipped:
                raise NodeUnreachable("the file is shorter than it was")
            count -= len(skipped)
