# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hosts with clocks, and their processes: everything that a process starts belongs to it, and dies with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from clusterodm.testing.simulation.errors import RealWorldError

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
        self._gone()

    def _done(self, main: asyncio.Task[Any]) -> None:
        """Note its own end; its connections are gone with it."""
        error = None if main.cancelled() else main.exception()
        if isinstance(error, BaseExceptionGroup):
            error = (error.subgroup(RealWorldError) or error).exceptions[0]
        if isinstance(error, RealWorldError):
            self.host.network.loop.fail(error)
        if not self.dead:
            self.dead = True
            self.host.network.loop.drop(self)
            self.host.network.unlisten(self)
            for endpoint in list(self.endpoints):
                endpoint.vanish(notify=True)
            self._gone()

    def _gone(self) -> None:
        self.host.processes.remove(self)
        self.ended.set()
