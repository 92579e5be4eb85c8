# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies as blocks: through the web server's parser in general, straight from the socket when they are large.

The web server copies each byte twice in memory before a handler sees it. For a large body of known length on a plain
connection, the rest of the body is received by a protocol of this module, into blocks that are written to disk without
a copy. The connection closes after the response, because the server's parser has not seen that body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol, TypeAlias

import aiohttp
from aiohttp import web

from clusterodm.aio import Clock, next_piece
from clusterodm.core.errors import ClientGone
from clusterodm.http.kit import KIT

#: Bytes of a block: a hop to a thread and back costs as much as copying some ten KB, and a block that is written soon
#: after it was received is still in the CPU's cache. Measured.
BLOCK: Final = 512 << 10
#: Bytes still to come from which on a body is received directly.
_LARGE: Final = 1 << 20
#: Blocks of one body: one is filled while the other is written.
_BLOCKS: Final = 2
#: Set on requests whose body went around the server's parser.
TAKEN_OVER: Final = web.RequestKey("taken_over", bool)

Block: TypeAlias = bytes | memoryview


class Body(Protocol):
    """A body that is being received. A block is valid until the next one is asked for."""

    def __aiter__(self) -> Body:
        """Iterate over the blocks."""

    async def __anext__(self) -> Block:
        """Return the next block. Every error of the connection is the client's: raise ClientGone."""


def open_body(request: web.Request, idle: float) -> AbstractContextManager[Body]:
    """Open the body of a request. `idle`: seconds without a byte after which the client counts as gone."""
    kit, transport, length = request.app[KIT], request.transport, request.content_length
    plain = transport is not None and transport.get_extra_info("sslcontext") is None
    if kit.fast_paths and transport is not None and plain and length is not None:
        missing = length - request.content.total_bytes
        if missing >= _LARGE and request.content.exception() is None:
            return _DirectBody(request, transport, length, idle, kit.clock)
    return _ParsedBody(request, idle, kit.clock)


class _IdleTimer:
    """Calls `fail` once the client was waited for too long. One timer per body, so that a block costs none."""

    def __init__(self, idle: float, clock: Clock) -> None:
        self._idle = idle
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(idle, self._check)

    def waiting(self) -> None:
        """Start, or restart, waiting for the client."""
        self._since = self._clock.steady()

    def served(self) -> None:
        """Stop waiting for the client: the cluster is busy with what was received."""
        self._since = None

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()

    def fail(self, error: ClientGone) -> None:
        """Let the reader of the body fail with `error`; to be overridden."""
        raise NotImplementedError

    def _check(self) -> None:
        waited = self._clock.steady() - self._since if self._since is not None else 0.0
        if waited >= self._idle:
            self.fail(ClientGone(f"Nothing was received for {self._idle:g} seconds"))
        else:
            self._timer = self._loop.call_later(self._idle - waited, self._check)


class _ParsedBody(_IdleTimer):
    """A body out of the server's parser: any framing, any transport."""

    def __init__(self, request: web.Request, idle: float, clock: Clock) -> None:
        super().__init__(idle, clock)
        self._content = request.content

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fail(self, error: ClientGone) -> None:
        self._content.set_exception(error)

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        self.waiting()
        try:
            chunk = await next_piece(self._content)
        except (aiohttp.ClientPayloadError, aiohttp.http_exceptions.HttpProcessingError, ConnectionError) as error:
            raise ClientGone(f"The upload was cut off ({type(error).__name__})") from None
        self.served()
        if not chunk:
            raise StopAsyncIteration
        return chunk


class _DirectBody(_IdleTimer, asyncio.BufferedProtocol):
    """The rest of a large body, received into a few blocks in turn. While all are full the socket is not read."""

    def __init__(
        self, request: web.Request, transport: asyncio.Transport, length: int, idle: float, clock: Clock
    ) -> None:
        super().__init__(idle, clock)
        self._request = request
        self._transport = transport
        self._server: asyncio.Protocol = request.protocol
        self._length = length
        self._missing = 0
        self._first = b""
        self._free: list[bytearray] = []
        self._allocated = 0
        self._full: deque[memoryview] = deque()
        self._lent: memoryview | None = None
        self._block: bytearray | None = None
        self._filled = 0
        self._error: ClientGone | None = None
        self._wake = asyncio.Event()

    def __enter__(self) -> Body:
        """Take the connection over; the bytes that the server has received already come first."""
        content = self._request.content
        self._missing = self._length - content.total_bytes
        self._first = content.read_nowait()
        self._transport.pause_reading()
        self._request[TAKEN_OVER] = True
        self._transport.set_protocol(self)
        self._receive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._transport.pause_reading()
        self._transport.set_protocol(self._server)
        self._request.content.feed_eof()

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> Block:
        if first := self._first:
            self._first = b""
            return first
        self._give_back()
        while not self._full:
            if not self._missing:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        self._lent = self._full.popleft()
        return self._lent

    def fail(self, error: ClientGone) -> None:
        self._error = error
        self._wake.set()

    def _give_back(self) -> None:
        """Free the block that was lent to the reader."""
        if self._lent is not None:
            assert isinstance(self._lent.obj, bytearray), "allocated here"  # noqa: S101 - see _receive
            self._free.append(self._lent.obj)
            self._lent = None
            if self._block is None:
                self._receive()

    def _receive(self) -> None:
        """Fill the next free block, as long as bytes are missing."""
        if not self._missing:
            return
        if not self._free and self._allocated < _BLOCKS:
            self._allocated += 1
            self._free.append(bytearray(BLOCK))
        if self._free:
            self._block, self._filled = self._free.pop(), 0
            self.waiting()
            self._transport.resume_reading()

    # Called by the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes, no longer than the rest of the body."""
        assert self._block is not None, "read only while there is one"  # noqa: S101 - see buffer_updated
        return memoryview(self._block)[self._filled : self._filled + self._missing]

    def buffer_updated(self, count: int) -> None:
        """Count received bytes."""
        self._filled += count
        self._missing -= count
        self.waiting()
        if self._block is not None and (self._filled == BLOCK or not self._missing):
            self._full.append(memoryview(self._block)[: self._filled])
            self._block = None
            self._wake.set()
            self._receive()
            if self._block is None:
                self.served()
                self._transport.pause_reading()

    def eof_received(self) -> bool | None:
        """Note that the client closed its side in the middle."""
        self.fail(ClientGone("The upload was cut off (end of stream)"))
        return self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is lost."""
        self.fail(ClientGone(f"The upload was cut off ({type(exc).__name__ if exc else 'connection closed'})"))
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass flow control on to the server."""
        self._server.pause_writing()

    def resume_writing(self) -> None:
        """Pass flow control on to the server."""
        self._server.resume_writing()
