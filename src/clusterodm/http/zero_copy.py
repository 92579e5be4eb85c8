# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bytes that go from a file or a socket to a client within the kernel: sendfile and splice.

Only for plain connections, on systems that have the calls, and for a limited number of bodies at a time: each takes a
thread, which waits for a client that may be slow. `lane` yields None where the bytes have to go through the web server.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from aiohttp import web

from clusterodm.http.kit import KIT

#: Bodies at a time.
_LANES: Final = 32
#: Bytes of a pipe; each lane gets one of this size within what the kernel allows an unprivileged user in all.
_PIPE: Final = 1 << 20
#: Bytes that are worth a lane.
WORTH: Final = 256 << 10
#: Seconds without a byte after which either side counts as gone. (The kernel cuts a client before.)
_IDLE: Final = 300.0
_AT_ONCE: Final = 8 << 20

_threads = ThreadPoolExecutor(_LANES, thread_name_prefix="zero-copy")
_free = threading.BoundedSemaphore(_LANES)


class Splicer:
    """A lane to one client."""

    def __init__(self, transport: asyncio.Transport, client: socket.socket) -> None:
        self.transport = transport
        self._client = client

    async def send_file(self, path: os.PathLike[str], start: int, count: int) -> int:
        """Send `count` bytes of a file; return how many were sent: fewer when the file ends. Raises ConnectionError
        when the client is gone."""
        return await self._run(lambda: _send_file(path, start, count, self._client.fileno()), self._client)

    async def splice(self, source: socket.socket, count: int) -> int:
        """Pass on `count` bytes from a socket; return how many came: fewer when the socket ends. Raises ConnectionError
        when the client is gone."""
        return await self._run(lambda: _splice(source.fileno(), self._client.fileno(), count), self._client, source)

    async def _run(self, work: Callable[[], int], *sockets: socket.socket) -> int:
        """Run in a thread. On cancellation, shut the sockets down to wake the thread, and wait for it."""
        running = asyncio.get_running_loop().run_in_executor(_threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            for each in sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            await asyncio.wait([running])
            running.exception()
            raise


@contextmanager
def lane(request: web.Request, count: int) -> Iterator[Splicer | None]:
    """Hold a lane to the client of a request for `count` bytes while the block runs; yield None if the bytes have to go
    through the web server. Flush the transport (`flushed`) before the lane is used."""
    transport = request.transport if request.app[KIT].fast_paths else None
    client = duplicate(transport) if count >= WORTH else None
    if client is None or transport is None:
        yield None
        return
    with client:
        if not _free.acquire(blocking=False):
            yield None
            return
        try:
            yield Splicer(transport, client)
        finally:
            _free.release()


def duplicate(transport: asyncio.Transport | None) -> socket.socket | None:
    """Return a duplicate of the socket of a plain transport; None if it has none, or speaks TLS."""
    if transport is None or transport.is_closing() or not hasattr(os, "splice"):
        return None
    if transport.get_extra_info("sslcontext") is not None:
        return None
    original = transport.get_extra_info("socket")
    return socket.socket(fileno=os.dup(original.fileno())) if original is not None else None


async def flushed(transport: asyncio.Transport) -> None:
    """Wait until everything written to `transport` is in the kernel. Raises ConnectionError."""
    pause = 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        await asyncio.sleep(pause)
        pause = min(0.1, pause + 0.001)


def _wait(fd: int, event: int) -> None:
    """Wait for an event. Raises TimeoutError."""
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(_IDLE * 1000):
        raise TimeoutError("nothing moved")


def _client(move: Callable[[], int], fd: int) -> int:
    """Call `move` once the client is ready for bytes. Raises ConnectionError."""
    while True:
        try:
            return move()
        except BlockingIOError:
            try:
                _wait(fd, select.POLLOUT)
            except TimeoutError as error:
                raise ConnectionResetError(str(error)) from None
        except OSError as error:
            raise ConnectionResetError(error.strerror) from None


def _send_file(path: os.PathLike[str], start: int, count: int, client: int) -> int:
    sent = 0
    with open(path, "rb") as file:
        while sent < count:
            step = min(count - sent, _AT_ONCE)
            moved = _client(lambda at=start + sent, step=step: os.sendfile(client, file.fileno(), at, step), client)  # type: ignore[misc]
            if not moved:
                break
            sent += moved
    return sent


def _splice(source: int, client: int, count: int) -> int:
    moved = 0
    with _pipe() as (end, begin):
        while moved < count:
            received = _from_source(source, begin, count - moved)
            if not received:
                break
            rest = received
            while rest:
                rest -= _client(lambda rest=rest: os.splice(end, client, rest, flags=_FLAGS), client)  # type: ignore[misc]
            moved += received
    return moved


_FLAGS: Final = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


def _from_source(source: int, pipe: int, count: int) -> int:
    """Return the number of bytes that came; 0: the source ended, in good order or not."""
    while True:
        try:
            return os.splice(source, pipe, min(count, _PIPE), flags=_FLAGS)
        except BlockingIOError:
            try:
                _wait(source, select.POLLIN)
            except TimeoutError:
                return 0
        except OSError:
            return 0


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    end, begin = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with suppress(PermissionError):  # the limit of large pipes is reached; a small one works, too
            fcntl.fcntl(begin, fcntl.F_SETPIPE_SZ, _PIPE)
        yield end, begin
    finally:
        os.close(end)
        os.close(begin)
