# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocking sockets, polls and conditions for code that runs in executors, in virtual time."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import select
import struct
from collections.abc import Callable
from typing import Any, Final

from clusterodm.testing.simulation.loop import Parking, VirtualLoop
from clusterodm.testing.simulation.network import Endpoint

#: Descriptors of simulated sockets: none of the kernel's is that large.
_FIRST_DESCRIPTOR: Final = 1 << 24
_numbers = itertools.count(_FIRST_DESCRIPTOR)


def running() -> VirtualLoop:
    """Return the loop of the simulation."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "simulated"  # noqa: S101 - patched in only while it runs
    return loop


class BlockingSocket(asyncio.Protocol):
    """A connected socket."""

    def __init__(self, loop: VirtualLoop, endpoint: Endpoint, timeout: float | None) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._timeout = timeout
        self._received = bytearray()
        self._eof = False
        self._error: Exception | None = None
        self._waiters: list[Parking] = []
        self._fd = next(_numbers)
        #: The socket itself, and files made of it.
        self._users = 1
        loop.network.descriptors[self._fd] = self  # type: ignore[union-attr]
        endpoint.room = self._changed
        endpoint.attach(self)

    # The protocol

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed()

    def eof_received(self) -> bool:
        self._eof = True
        self._changed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._error = exc
        self._changed()

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()

    # The socket

    def fileno(self) -> int:
        """Return a descriptor, -1 once closed."""
        return self._fd if self._users else -1

    def setsockopt(self, *option: Any) -> None:
        """Do nothing."""

    def settimeout(self, seconds: float | None) -> None:
        """Bound each operation."""
        self._timeout = seconds

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """Send everything."""
        view = memoryview(data)
        while view:
            view = view[self.put(view) :]

    def put(self, data: memoryview) -> int:
        """Send what the kernel has room for, waiting for some; return how much."""
        self._until(lambda: self._room() > 0)
        count = min(len(data), self._room())
        self._endpoint.write(bytes(data[:count]))
        return count

    def put_at_once(self, data: bytes) -> int:
        """Send what the kernel has room for; return how much. Raise BlockingIOError if it has none."""
        self._raise()
        if not (room := self._room()):
            raise BlockingIOError
        self._endpoint.write(data[:room])
        return min(room, len(data))

    def recv_into(self, buffer: Any) -> int:
        """Receive some bytes; 0 at the end."""
        self._until(lambda: bool(self._received) or self._eof)
        if not self._received and self._error is not None:
            raise self._error
        count = min(len(buffer), len(self._received))
        buffer[:count] = self._received[:count]
        del self._received[:count]
        return count

    def makefile(self, mode: str = "rb", *args: Any, **how: Any) -> io.BufferedReader:
        """Return a file to read from."""
        self._users += 1
        return io.BufferedReader(_Reader(self))

    def shutdown(self, how: int) -> None:
        """End both directions and wake whoever waits."""
        self._endpoint.abort()
        self.connection_lost(None)

    def close(self) -> None:
        """Close, once all files made of it are closed as well."""
        self._users -= 1
        if self._users == 0:
            self._loop.network.descriptors.pop(self._fd, None)  # type: ignore[union-attr]
            self._endpoint.close()

    def ready(self, events: int) -> int:
        """Return those of the events of a poll that are due."""
        due = 0
        if self._received or self._eof:
            due |= select.POLLIN
        if self._eof:
            due |= select.POLLHUP
        if self._room():
            due |= select.POLLOUT
        return due & (events | select.POLLHUP)

    def unacknowledged(self) -> int:
        """Return the bytes that the peer's kernel has not acknowledged."""
        stream = self._endpoint._out
        return stream.waiting + stream.unacknowledged

    def wait(self, seconds: float | None) -> bool:
        """Block until something changes."""
        parking = Parking(self._loop)
        self._waiters.append(parking)
        return parking.wait(seconds)

    def _room(self) -> int:
        return 0 if self._endpoint.is_closing() else self._endpoint._out.room()

    def _raise(self) -> None:
        if self._endpoint.is_closing():
            raise self._error or BrokenPipeError(32, "Broken pipe")

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = None if self._timeout is None else self._loop.time() + self._timeout
        while not condition():
            if not self._eof or self._endpoint.is_closing():
                self._raise()
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            self.wait(left)


class _Reader(io.RawIOBase):
    def __init__(self, source: BlockingSocket) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class Poll:
    """`select.poll` over one simulated socket."""

    def __init__(self) -> None:
        self._socket: BlockingSocket
        self._events = 0

    def register(self, source: BlockingSocket, events: int) -> None:
        """Set what to wait for."""
        self._socket, self._events = source, events

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        """Wait for events."""
        loop = running()
        deadline = None if milliseconds is None else loop.time() + milliseconds / 1000
        while not (due := self._socket.ready(self._events)):
            left = None if deadline is None else deadline - loop.time()
            if (left is not None and left <= 0) or not self._socket.wait(left):
                due = self._socket.ready(self._events)
                return [(self._socket.fileno(), due)] if due else []
        return [(self._socket.fileno(), due)]


class Condition:
    """`threading.Condition` for code that is never interrupted between two waits."""

    def __init__(self) -> None:
        self._waiting: list[Parking] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        return None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification."""
        parking = Parking(running())
        self._waiting.append(parking)
        try:
            return parking.wait(timeout)
        finally:
            if parking in self._waiting:
                self._waiting.remove(parking)

    def notify(self, n: int = 1) -> None:
        """Wake some."""
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for parking in woken:
            parking.wake()

    def notify_all(self) -> None:
        """Wake all."""
        self.notify(len(self._waiting))


def create_connection(address: tuple[str, int], timeout: Any = None, *_: Any, **how: Any) -> BlockingSocket:
    """Connect as `socket.create_connection`."""
    loop = running()
    seconds = timeout if isinstance(timeout, int | float) else None
    return loop.block_on(_connected(loop, address, seconds))  # type: ignore[no-any-return]


async def _connected(loop: VirtualLoop, address: tuple[str, int], seconds: float | None) -> BlockingSocket:
    assert loop.network is not None, "simulated"  # noqa: S101 - see Simulation
    try:
        async with asyncio.timeout(seconds):
            endpoint = await loop.network.dial(*address)
    except TimeoutError:
        raise TimeoutError("timed out") from None
    return BlockingSocket(loop, endpoint, seconds)


def sleep(seconds: float) -> None:
    """Block as `time.sleep`."""
    Parking(running()).wait(seconds)


def sendfile(real: Callable[..., int], out: int, source: int, offset: int, count: int) -> int:
    """Send part of a file as `os.sendfile`; between files it is `real`."""
    if out < _FIRST_DESCRIPTOR:
        return real(out, source, offset, count)
    network = running().network
    assert network is not None, "simulated"  # noqa: S101 - see Simulation
    target: BlockingSocket = network.descriptors[out]
    content = os.pread(source, min(count, max(1, target._room())), offset)
    return target.put_at_once(content) if content else 0


def ioctl(source: Any, request: int, argument: bytes = b"", mutate: bool = True) -> bytes:
    """Answer TIOCOUTQ."""
    return struct.pack("i", source.unacknowledged())
