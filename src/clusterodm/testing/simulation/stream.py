# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One direction of a connection: bytes arrive in order, once, late, and no faster than the receiver reads."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from clusterodm.testing.simulation.network import Network
    from clusterodm.testing.simulation.transport import Endpoint

#: Bytes that the sender's kernel takes beyond what the receiver's has room for.
WINDOW: Final = 128 << 10
#: Bytes of one packet (of the simulation: many of a real network).
_PACKET: Final = 64 << 10
#: Seconds until a lost packet is sent again, at first and at most, and after which the sender gives up.
_RESEND: Final = 0.2
_LONGEST_RESEND: Final = 60.0
_PATIENCE: Final = 900.0
#: Marks behind the last byte of a stream.
_FIN: Final = "fin"
_RST: Final = "rst"

#: The world's own context: packets belong to no process.
_NOBODY: Final = Context()


class _Packet:
    __slots__ = ("content", "mark", "sent_at")

    def __init__(self, content: bytes, sent_at: float, mark: str = "") -> None:
        self.content = content
        self.sent_at = sent_at
        self.mark = mark


class Stream:
    """Bytes from one endpoint to the other."""

    def __init__(self, network: Network, source: Endpoint, target: Endpoint) -> None:
        self._network = network
        self._loop = network.loop
        self._source = source
        self._target = target
        self._unsent: deque[bytes] = deque()
        #: Bytes that the sending program has written and its kernel has not taken, and those that its kernel has.
        self.waiting = 0
        self.taken = 0
        #: Bytes of those that the receiver's kernel has not acknowledged.
        self.unacknowledged = 0
        self._pipe: deque[_Packet] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._resends = 0
        self._stuck_since = 0.0
        self._ended = False
        self._broken = False

    def send(self, content: bytes) -> None:
        """Send bytes after those sent before."""
        if self._ended or self._broken or not content:
            return
        self._unsent.append(content)
        self.waiting += len(content)
        self._pump()

    def room(self) -> int:
        """Return the bytes that the sender's kernel takes now."""
        return max(0, WINDOW - self.taken - self.waiting)

    def unreceived(self) -> bool:
        """Return True if the receiving kernel knows nothing of this connection any more."""
        return self._target.gone

    def end(self) -> None:
        """Close this direction after the last byte."""
        if not self._ended and not self._broken:
            self._ended = True
            if not self._unsent:
                self._put(_Packet(b"", self._loop.time(), _FIN))

    def reset(self) -> None:
        """Tell the receiver that the connection is gone; bytes that have not arrived are lost."""
        if not self._broken:
            self.drop()
            self._broken = True
            self._put(_Packet(b"", self._loop.time(), _RST))

    def drop(self) -> None:
        """Forget all bytes under way; the receiver is not notified."""
        self._broken = True
        self._unsent.clear()
        self._pipe.clear()
        self.waiting = self.taken = self.unacknowledged = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def consumed(self, count: int) -> None:
        """Note that the receiving program has read so many bytes."""
        self.taken = max(0, self.taken - count)
        if not self._broken:
            self._pump()

    def _pump(self) -> None:
        """Hand over to the kernel what it has room for."""
        while self._unsent and self.taken < WINDOW:
            content = self._unsent.popleft()
            most = min(_PACKET, WINDOW - self.taken)
            if len(content) > most:
                self._unsent.appendleft(content[most:])
                content = content[:most]
            self.waiting -= len(content)
            self.taken += len(content)
            self.unacknowledged += len(content)
            last = self._pipe[-1] if len(self._pipe) > 1 else None
            if last is not None and not last.mark and last.sent_at == self._loop.time():
                last.content += content
            else:
                self._put(_Packet(content, self._loop.time()))
        if self._ended and not self._unsent and not (self._pipe and self._pipe[-1].mark):
            self._put(_Packet(b"", self._loop.time(), _FIN))
        self._source.drained(self.waiting)

    def _put(self, packet: _Packet) -> None:
        self._pipe.append(packet)
        if self._timer is None:
            self._start(self._delay())

    def _delay(self) -> float:
        source, target = self._source.address[0], self._target.address[0]
        chance, link = self._network.chance, self._network.between(source, target)
        delay = self._network.delay(source, target)
        if link.loss and chance.random() < link.loss:
            delay += _RESEND * 2 ** chance.randrange(4)
        return delay

    def _start(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._arrive, context=_NOBODY)

    def _arrive(self) -> None:
        """Deliver the first packet, unless it is lost on its way."""
        self._timer = None
        network, source, target = self._network, self._source.address[0], self._target.address[0]
        if network.is_cut(source, target):
            self._resend()
            return
        self._resends = 0
        link, chance = network.between(source, target), network.chance
        packet = self._pipe[0]
        if link.reset and not packet.mark and chance.random() < link.reset:
            self._source.lost(ConnectionResetError("Connection reset by peer"), notify=True)
            return
        if link.split and len(packet.content) > 1 and chance.random() < link.split:
            cut = chance.randrange(1, len(packet.content))
            content, packet.content = packet.content[:cut], packet.content[cut:]
        else:
            self._pipe.popleft()
            content = packet.content
        if self._pipe:
            late = self._loop.time() - self._pipe[0].sent_at
            self._start(max(0.0, self._delay() - late))
        self._hand_over(packet.mark, content)

    def _hand_over(self, mark: str, content: bytes) -> None:
        self.unacknowledged -= len(content)
        if mark == _RST:
            self._target.lost(ConnectionResetError("Connection reset by peer"), notify=False)
        elif self._target.gone:
            self._source.lost(ConnectionResetError("Connection reset by peer"), notify=False)
        elif mark == _FIN:
            self._target.ended()
        else:
            self._target.received(content)

    def _resend(self) -> None:
        """Send the first packet again later, until the sender's kernel gives up."""
        now = self._loop.time()
        self._stuck_since = now if not self._resends else self._stuck_since
        self._resends += 1
        if now - self._stuck_since > _PATIENCE:
            self._source.lost(TimeoutError("Connection timed out"), notify=False)
            return
        self._start(min(_LONGEST_RESEND, _RESEND * 2.0**self._resends))
