# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A network of hosts: connections are streams in both directions with latency, loss, flow control and resets; hosts can
be partitioned, also in one direction only."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.hosts import PROCESS, Host, Process
from clusterodm.testing.simulation.stream import Stream
from clusterodm.testing.simulation.transport import Endpoint

if TYPE_CHECKING:
    from clusterodm.testing.simulation.loop import VirtualLoop

__all__ = ["Endpoint", "Link", "Network"]

#: Seconds after which a connection attempt without an answer fails, and until it is repeated.
_CONNECT_PATIENCE: Final = 127.0
_SYN: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_FIRST_PORT: Final = 32768
_PORTS: Final = 28000


@dataclass
class Link:
    """How packets travel; all may change at any time."""

    #: Seconds one way: at least, and on average in addition.
    latency: float = 0.0005
    jitter: float = 0.001
    #: Chances that a packet is lost once (and sent again later), and that it arrives in two parts.
    loss: float = 0.0
    split: float = 0.05
    #: Chance that a packet ends its connection by a reset.
    reset: float = 0.0


@dataclass
class Listener:
    """A listening port."""

    process: Process | None
    factory: Callable[[], asyncio.BaseProtocol]
    address: tuple[str, int]
    context: Context = field(default_factory=copy_context)


class ListeningSocket:
    """An address to be listened on."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        """Return the address."""
        return self._address

    def close(self) -> None:
        """Do nothing: the server is closed."""


class Server:
    """What `create_server` returns."""

    def __init__(self, network: Network, listener: Listener) -> None:
        self._network = network
        self._listener = listener
        self.sockets = (ListeningSocket(listener.address),)

    def close(self) -> None:
        """Stop listening; connections stay."""
        self._network.stop_listening(self._listener)

    async def wait_closed(self) -> None:
        """Return at once."""

    async def start_serving(self) -> None:
        """Do nothing: it serves already."""

    def is_serving(self) -> bool:
        """Return True if the port is open."""
        return self._network.listener(*self._listener.address) is self._listener


class Network:
    """All hosts, listening ports and connections."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        #: How packets travel between hosts that have no link of their own.
        self.link = Link()
        self.links: dict[tuple[str, str], Link] = {}
        self.hosts: dict[str, Host] = {}
        self.names: dict[str, str] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        #: Pairs of addresses between which nothing arrives, in this direction; counted, as faults overlap.
        self._cut: dict[tuple[str, str], int] = {}
        self._next_port = 0
        #: Connections by number of their descriptor, for code that knows only that.
        self.descriptors: dict[int, Any] = {}
        loop.network = self

    # Hosts and links

    def host(self, name: str, address: str) -> Host:
        """Add a host."""
        if address in self.hosts:
            raise ValueError(f"{address} is taken")
        host = self.hosts[address] = Host(self, name, address)
        self.names[name] = address
        return host

    def resolve(self, name: str) -> str:
        """Return the address of a name. Raise OSError, as a resolver does, for an unknown one."""
        if name in self.hosts:
            return name
        if name in ("localhost", "127.0.0.1"):
            return self.here()
        if name not in self.names:
            raise OSError(errno.ENOENT, f"Name or service not known: {name}")
        return self.names[name]

    def here(self) -> str:
        """Return the address of the host whose code runs."""
        process = PROCESS.get()
        if process is None:
            raise RealWorldError("only processes have a network")
        return process.host.address

    def between(self, source: str, target: str) -> Link:
        """Return the link from one host to another."""
        return self.links.get((source, target), self.link) if self.links else self.link

    def cut(self, source: str, target: str) -> None:
        """Let nothing arrive at `target` from `source` any more."""
        self._cut[source, target] = self._cut.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """Undo one `cut`."""
        self._cut[source, target] -= 1

    def is_cut(self, source: str, target: str) -> bool:
        """Return True if nothing arrives at `target` from `source`."""
        host = self.hosts.get(target)
        return (host is not None and not host.up) or (bool(self._cut) and self._cut.get((source, target), 0) > 0)

    def delay(self, source: str, target: str) -> float:
        """Return the seconds that a packet takes."""
        link = self.between(source, target)
        return link.latency + (self.chance.expovariate(1.0 / link.jitter) if link.jitter else 0.0)

    # Ports

    def listening(self, address: str, port: int) -> ListeningSocket:
        """Return an address to hand to a program that opens its own ports."""
        return ListeningSocket((address, port))

    def listen(self, factory: Any, sock: Any, host: Any, port: Any) -> Server:
        """Open a port. Raise OSError if it is taken."""
        wanted = sock.getsockname() if sock is not None else (host, port)
        address = self.here() if wanted[0] in ("", None, "0.0.0.0", "127.0.0.1") else str(wanted[0])  # noqa: S104
        place = (address, int(wanted[1]) or self._free_port())
        if place in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener = self._listeners[place] = Listener(PROCESS.get(), factory, place)
        return Server(self, listener)

    def stop_listening(self, listener: Listener) -> None:
        """Close a port."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def unlisten(self, process: Process) -> None:
        """Close all ports of a process."""
        for listener in [each for each in self._listeners.values() if each.process is process]:
            self.stop_listening(listener)

    def listener(self, address: str, port: int) -> Listener | None:
        """Return what listens on a port."""
        return self._listeners.get((address, port))

    def _free_port(self) -> int:
        self._next_port += 1
        return _FIRST_PORT + self._next_port % _PORTS

    # Connections

    async def dial(self, host: str, port: int) -> Endpoint:
        """Connect the calling process; return its endpoint. Raise OSError as a kernel does."""
        process = PROCESS.get()
        source, target = self.here(), self.resolve(host)
        await self._reach(source, target)
        listener = self.listener(target, port)
        if listener is None:
            await asyncio.sleep(self.delay(target, source))
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ({host!r}, {port})")
        mine = Endpoint(self, process, (source, self._free_port()), (target, port))
        theirs = Endpoint(self, listener.process, mine.peer, mine.address, context=listener.context)
        there, back = Stream(self, mine, theirs), Stream(self, theirs, mine)
        mine.connect(there, back)
        theirs.connect(back, there)
        self.loop.call_soon(theirs.accept, listener.factory, context=listener.context)
        try:
            await asyncio.sleep(self.delay(target, source))
        except asyncio.CancelledError:
            mine.vanish(notify=True)
            raise
        return mine

    async def _reach(self, source: str, target: str) -> None:
        """Wait until a first packet has arrived and was answered, sending it again and again."""
        if target not in self.hosts:
            await asyncio.sleep(_CONNECT_PATIENCE)
        for pause in _SYN:
            await asyncio.sleep(self.delay(source, target))
            if not self.is_cut(source, target) and not self.is_cut(target, source):
                return
            await asyncio.sleep(pause)
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
