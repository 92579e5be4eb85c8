# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""An end of a connection, as asyncio's protocols see it: a transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from clusterodm.testing.simulation.hosts import Process

if TYPE_CHECKING:
    from clusterodm.testing.simulation.network import Network
    from clusterodm.testing.simulation.stream import Stream

_HIGH: Final = 64 << 10


class Endpoint(asyncio.Transport):
    """One end, which belongs to a process."""

    def __init__(
        self,
        network: Network,
        process: Process | None,
        address: tuple[str, int],
        peer: tuple[str, int],
        *,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.address = address
        self.peer = peer
        #: True once the kernel knows nothing of this end.
        self.gone = False
        #: Called when the kernel may have room again, for code without flow control by a protocol.
        self.room: Callable[[], None] | None = None
        self._loop = network.loop
        self._network = network
        self._process = process
        self._context = context or copy_context()
        self._protocol: Any = None
        self._out: Stream
        self._in: Stream
        self._arrived: deque[bytes] = deque()
        self._eof = False
        self._paused = False
        self._closing = False
        self._lost = False
        self._high, self._low = _HIGH, _HIGH // 4
        self._write_paused = False
        if process is not None:
            process.endpoints[self] = None

    def connect(self, out: Stream, into: Stream) -> None:
        """Join the two ends."""
        self._out, self._in = out, into

    def attach(self, protocol: Any) -> None:
        """Begin with a protocol."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._lost:
            self._soon(protocol.connection_lost, ConnectionResetError("Connection reset by peer"))
        self._read_soon()

    def accept(self, factory: Callable[[], Any]) -> None:
        """Begin with a new protocol, if this end still exists."""
        if not self.gone:
            self.attach(factory())

    # Called by the streams, in the world's context

    def received(self, content: bytes) -> None:
        """Take bytes that arrived."""
        self._arrived.append(content)
        if self._protocol is not None and not self._paused and (self._process is None or not self._process.dead):
            self._context.run(self._read)

    def ended(self) -> None:
        """Note that the peer has closed its direction."""
        self._eof = True
        self._read_soon()

    def drained(self, waiting: int) -> None:
        """Note how many bytes still wait for the kernel."""
        if self.room is not None:
            self._soon(self.room)
        if self._write_paused and waiting <= self._low:
            self._write_paused = False
            self._soon(self._protocol.resume_writing)
        if self._closing and not waiting:
            self._finish(None)

    def lost(self, error: Exception | None, *, notify: bool) -> None:
        """Note that the connection is gone; the peer learns it if `notify` is set."""
        if notify:
            self._out.reset()
        else:
            self._out.drop()
        self._finish(error)

    def vanish(self, *, notify: bool) -> None:
        """Drop this end, as the kernel does when its process dies (or, without `notify`, when its power fails)."""
        self.gone = True
        self._lost = True
        self._loop.dead.append(self)
        self._forget()
        if notify:
            self._out.reset()
        else:
            self._out.drop()

    def probe(self) -> bool:
        """Send a keepalive; return True if the peer's host answers."""
        if self._network.is_cut(self.address[0], self.peer[0]) or self._network.is_cut(self.peer[0], self.address[0]):
            return False
        if self._out.unreceived():
            self.lost(ConnectionResetError("Connection reset by peer"), notify=False)
        return True

    # Reading

    def _read_soon(self) -> None:
        if self._protocol is not None and not self._paused and (self._arrived or self._eof):
            self._soon(self._read)

    def _read(self) -> None:
        while self._arrived and not self._paused and not self._lost:
            content = self._arrived.popleft()
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                content = self._fill(self._protocol, content)
            else:
                self._in.consumed(len(content))
                self._protocol.data_received(content)
                content = b""
            if content:
                self._arrived.appendleft(content)
        if self._eof and not self._arrived and not self._paused and not self._lost:
            self._eof = False
            if not self._protocol.eof_received():
                self.close()

    def _fill(self, protocol: asyncio.BufferedProtocol, content: bytes) -> bytes:
        """Put bytes into the protocol's buffer; return the rest."""
        buffer: Any = protocol.get_buffer(len(content))
        count = min(len(buffer), len(content))
        buffer[:count] = content[:count]
        self._in.consumed(count)
        protocol.buffer_updated(count)
        return content[count:]

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self._context)

    # The transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the addresses; there is no socket."""
        return {"peername": self.peer, "sockname": self.address}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        """Change the protocol."""
        self._protocol = protocol
        self._read_soon()

    def get_protocol(self) -> Any:
        """Return the protocol."""
        return self._protocol

    def is_closing(self) -> bool:
        """Return True once it is closed or lost."""
        return self._closing or self._lost

    def is_reading(self) -> bool:
        """Return True unless reading is paused."""
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on."""
        self._paused = False
        self._read_soon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the bytes from which on the protocol is asked to pause."""
        self._high = _HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the kernel."""
        return self._out.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if self._lost or self._closing:
            return
        self._out.send(bytes(data))
        if self._out.waiting > self._high and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send pieces together."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def write_eof(self) -> None:
        """Close the direction to the peer."""
        self._out.end()

    def close(self) -> None:
        """Close once everything was sent."""
        if not self.is_closing():
            self._closing = True
            self._out.end()
            if not self._out.waiting:
                self._finish(None)

    def abort(self) -> None:
        """Close at once."""
        if not self._lost:
            self._out.reset()
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self.gone = True
        self._arrived.clear()
        self._forget()
        if self._protocol is not None:
            self._soon(self._protocol.connection_lost, error)

    def _forget(self) -> None:
        if self._process is not None:
            self._process.endpoints.pop(self, None)
