# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bytes that go from a file or a socket to a client without passing through this process: sendfile and splice.

Only for plain connections, on systems that have the calls, and for so many bodies at a time: each takes a thread, which
waits for a client that may be slow. `lane` says whether there is room; who gets none goes the ordinary way.
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

#: Bodies at a time.
_LANES: Final = 32
#: Bytes of a pipe; the kernel lets an ordinary user have so many in all that each lane gets one of this size.
_PIPE: Final = 1 << 20
#: Bytes that are worth a lane.
WORTH: Final = 256 << 10
#: Seconds without a byte after which whoever is waited for counts as gone. (A client is cut by the kernel before.)
_IDLE: Final = 300.0
_AT_ONCE: Final = 8 << 20

_threads = ThreadPoolExecutor(_LANES, thread_name_prefix="zero-copy")
_free = threading.BoundedSemaphore(_LANES)


class Splicer:
    """A free way to one client."""

    def __init__(self, transport: asyncio.Transport, client: socket.socket) -> None:
        self.transport = transport
        self._client = client

    async def send_file(self, path: os.PathLike[str], start: int, count: int) -> int:
        """Send so many bytes of a file; how many were sent, which is less when the file ends. Raises ConnectionError
        when the client is gone."""
        return await self._run(lambda: _send_file(path, start, count, self._client.fileno()), self._client)

    async def splice(self, source: socket.socket, count: int) -> int:
        """Pass so many bytes on that come in on a socket; how many there were, which is less when it ends before.
        Raises ConnectionError when the client is gone."""
        return await self._run(lambda: _splice(source.fileno(), self._client.fileno(), count), self._client, source)

    async def _run(self, work: Callable[[], int], *sockets: socket.socket) -> int:
        """In a thread; when this is canceled, the thread is woken by the end of its sockets and waited for."""
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
def lane(transport: asyncio.Transport | None, count: int) -> Iterator[Splicer | None]:
    """A way to the client of `transport` for `count` bytes while the block runs; None when it has to be the ordinary
    one. What was written to the transport must be flushed (`flushed`) before the lane is used."""
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
    """The socket of a plain transport, as one of our own; None when it has none, or speaks TLS."""
    if transport is None or transport.is_closing() or not hasattr(os, "splice"):
        return None
    if transport.get_extra_info("sslcontext") is not None:
        return None
    made = transport.get_extra_info("socket")
    return socket.socket(fileno=os.dup(made.fileno())) if made is not None else None


async def flushed(transport: asyncio.Transport) -> None:
    """Wait until the kernel has all that was written to `transport`. Raises ConnectionError."""
    pause = 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        await asyncio.sleep(pause)
        pause = min(0.1, pause + 0.001)


def _wait(fd: int, event: int) -> None:
    """Raises TimeoutError."""
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(_IDLE * 1000):
        raise TimeoutError("nothing moved")


def _client(move: Callable[[], int], fd: int) -> int:
    """Have the client take something. Raises ConnectionError."""
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
            came = _from_source(source, begin, count - moved)
            if not came:
                break
            left = came
            while left:
                left -= _client(lambda left=left: os.splice(end, client, left, flags=_FLAGS), client)  # type: ignore[misc]
            moved += came
    return moved


_FLAGS: Final = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


def _from_source(source: int, pipe: int, count: int) -> int:
    """Bytes that came; 0: it ended, in good order or not."""
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
        with suppress(PermissionError):  # others have large pipes already; a small one works, too
            fcntl.fcntl(begin, fcntl.F_SETPIPE_SZ, _PIPE)
        yield end, begin
    finally:
        os.close(end)
        os.close(begin)
