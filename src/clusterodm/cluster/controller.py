# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loops, and the registry that all of them are in: what runs where, how often, and what an election starts.

A `Controller` reconciles one object (a task, a node, a machine) at a time, a `Periodic` sweeps over all of them, a
`Service` runs until it is canceled. Each carries its own election work, so that none can be registered by half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

import structlog

from clusterodm.aio import Clock, Leadership, WorkQueue

K = TypeVar("K", bound=Hashable)

Work: TypeAlias = Callable[[], Awaitable[object]]


class Scope(StrEnum):
    """Where a loop runs."""

    REPLICA = "every replica"
    LEADER = "leader"


class Controller(WorkQueue[K]):
    """A work queue of the keys that need attention. On election it starts from `keys()`; `at_end` follows its last
    call. With a leadership it runs on the leader alone."""

    def __init__(
        self,
        name: str,
        reconcile: Callable[[K], Awaitable[float | None]],
        does: str,
        *,
        concurrency: int,
        clock: Clock,
        leadership: Leadership | None = None,
        keys: Callable[[], Awaitable[Iterable[K]]] | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(name, reconcile, concurrency=concurrency, clock=clock, leadership=leadership)
        self.does = does
        self.scope = Scope.LEADER if leadership is not None else Scope.REPLICA
        self.rhythm = "work queue"
        self._keys = keys
        self._at_end = at_end

    async def on_elected(self) -> None:
        """Queue all keys that need attention."""
        for key in await self._keys() if self._keys is not None else ():
            self.put(key)

    async def run(self) -> None:
        """Reconcile until canceled."""
        try:
            await super().run()
        finally:
            if self._at_end is not None:
                self._at_end()


@dataclass(frozen=True)
class _Plain:
    """What a loop without a queue consists of."""

    name: str
    work: Work
    #: For the table of loops in the docs.
    does: str
    _: KW_ONLY
    scope: Scope = Scope.REPLICA
    #: Called on a replica that has become the leader, before the first loop of the leader starts.
    elected: Work | None = None

    async def on_elected(self) -> None:
        """Do its election work."""
        if self.elected is not None:
            await self.elected()


@dataclass(frozen=True, kw_only=True)
class Periodic(_Plain):
    """A sweep; a failure is logged and does not stop the next one."""

    every: float
    clock: Clock

    @property
    def rhythm(self) -> str:
        """How often it runs."""
        return f"every {self.every:g} s"

    async def run(self) -> None:
        """Sweep until canceled."""
        log = structlog.get_logger(self.name)
        while True:
            await self.clock.sleep(self.every)
            try:
                await self.work()
            except Exception:
                log.exception("sweep failed")


@dataclass(frozen=True, kw_only=True)
class Service(_Plain):
    """A loop with a rhythm of its own, or a single run. Its end by an error ends the process."""

    rhythm: str = "continuously"

    async def run(self) -> None:
        """Run until done or canceled."""
        await self.work()


@dataclass(frozen=True, kw_only=True)
class Step(_Plain):
    """Election work that belongs to no loop."""

    scope: Scope = Scope.LEADER
    rhythm: str = "on election"

    async def on_elected(self) -> None:
        """Do it."""
        await self.work()

    async def run(self) -> None:
        """Do nothing between elections."""


Loop: TypeAlias = Controller[Any] | Periodic | Service | Step


class Loops:
    """All loops of a process, in the order of their election work."""

    def __init__(self) -> None:
        self._loops: dict[str, Loop] = {}

    def __iter__(self) -> Iterator[Loop]:
        return iter(self._loops.values())

    def add(self, *loops: Loop) -> None:
        """Register loops; their election work follows that of all loops before them."""
        for loop in loops:
            if loop.name in self._loops:
                raise ValueError(f"two loops are named {loop.name}")
            self._loops[loop.name] = loop

    async def elect(self) -> None:
        """Do all election work, in order."""
        for loop in self:
            await loop.on_elected()

    async def run(self, scope: Scope) -> None:
        """Run all loops of a scope; one that fails cancels the others."""
        async with asyncio.TaskGroup() as group:
            for loop in self:
                if loop.scope is scope:
                    group.create_task(loop.run(), name=loop.name)
