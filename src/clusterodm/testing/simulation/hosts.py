# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hosts with clocks, and their processes: everything that a process starts belongs to it, and dies with it."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.history import History

if TYPE_CHECKING:
    from clusterodm.testing.simulation.network import Endpoint, Network

#: The process whose code runs; None: the world itself.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Host:
    """A machine: an address, a wall clock of its own, and power."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.up = True
        #: The wall clock: seconds gained for each real one, and seconds ahead.
        self.drift = 0.0
        self.ahead = 0.0
        self.processes: list[Process] = []

    def wall(self, now: float) -> float:
        """Return the seconds by which the wall clock has moved since the beginning."""
        return now * (1.0 + self.drift) + self.ahead

    def lose_power(self) -> None:
        """Stop everything at once; peers are not notified."""
        self.up = False
        for process in list(self.processes):
            process.kill(notify=False)

    def boot(self) -> None:
        """Power on."""
        self.up = True


class Process:
    """A running program. Its callbacks, connections and listening ports are dropped when it is killed, without any
    clean-up of its own."""

    _numbers = itertools.count(100)

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.pid = next(self._numbers)
        self.dead = False
        self.endpoints: dict[Endpoint, None] = {}
        self.main: asyncio.Task[Any] | None = None
        self.ended = asyncio.Event()
        host.processes.append(self)

    def run(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start the program."""
        context = copy_context()
        context.run(PROCESS.set, self)
        self.main = asyncio.get_running_loop().create_task(main, name=self.name, context=context)
        self.main.add_done_callback(self._done, context=copy_context())
        return self.main

    def kill(self, *, notify: bool = True) -> None:
        """Stop at once, as by `kill -9`. The kernel resets its connections if peers are to be notified (`notify`)."""
        if self.dead:
            return
        self.dead = True
        self.host.network.loop.drop(self)
        self.host.network.unlisten(self)
        for endpoint in list(self.endpoints):
            endpoint.vanish(notify=notify)
        self.host.processes.remove(self)
        self.ended.set()

    def pause(self) -> None:
        """Stop it, as by SIGSTOP: its host still accepts what arrives."""
        if not self.dead:
            self.host.network.loop.pause(self)

    def resume(self) -> None:
        """Let it go on, as by SIGCONT."""
        self.host.network.loop.resume(self)

    def _done(self, main: asyncio.Task[Any]) -> None:
        """Note its own end; its connections are gone with it."""
        error = None if main.cancelled() else main.exception()
        if isinstance(error, BaseExceptionGroup):
            error = (error.subgroup(RealWorldError) or error).exceptions[0]
        if isinstance(error, RealWorldError):
            self.host.network.loop.fail(error)
        self.kill()


class Program(ABC):
    """A program on a host of its own that can be started again."""

    def __init__(self, host: Host, history: History) -> None:
        self.host = host
        self.name = host.name
        self._history = history
        self._process: Process | None = None
        self._stop = asyncio.Event()

    @property
    def alive(self) -> bool:
        """True while its process runs."""
        return self._process is not None and not self._process.dead

    def start(self) -> None:
        """Start its process on what its disk holds."""
        if self.alive:
            return
        self.host.boot()
        self._stop = asyncio.Event()
        self._process = Process(self.host, self.name)
        self._process.run(self._main(self._stop))
        self._history.add(self.name, f"{self.kind} starts")

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the history calls it."""

    @abstractmethod
    async def _main(self, stop: asyncio.Event) -> None:
        """Run it until `stop` is set."""
