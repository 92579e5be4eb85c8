# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes that are one cluster: who is there, who leads, and what the others changed.

Every replica takes any request, asks nodes how they are and sends files. What must be decided once (placing, tracking,
machines, webhooks, cleaning up) is done by the leader, the replica that holds a lock with an expiry. It steps down by
itself, by a monotonic clock, before the lock can have expired for the others; besides, its every step is a
compare-and-set.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from clusterodm import __version__
from clusterodm.aio import Leadership
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import ClusterError
from clusterodm.store import SILENT, Replica, Store

_log = structlog.get_logger("replicas")

LOCK: Final = "lead"
#: Seconds between two heartbeats, and after the last one that was stored until the leader steps down: fewer than those
#: after which others take over (store.replicas.SILENT).
_BEAT: Final = 1.0
_HOLD: Final = 4.0
#: Seconds without a sign of life of our own after which those of others may be late, too.
_GAP: Final = 3.0
#: Seconds after which everything is read again, whatever was heard.
_RELOAD: Final = 300.0

Loops = Mapping[str, Callable[[], Coroutine[Any, Any, object]]]


class Replicas:
    """This replica among the others; the only one, and leading, on a database that is not shared."""

    def __init__(
        self, store: Store, leadership: Leadership, tasks: Tasks, registry: Registry, machines: Machines
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._tasks = tasks
        self._registry = registry
        self._machines = machines
        self.me = Replica(id=store.origin, name=f"{socket.gethostname()}:{os.getpid()}", version=__version__)
        self.there: list[Replica] = [self.me]
        #: The name of the one that leads; empty while nobody does.
        self.leader = self.me.name
        self._kept_at = time.monotonic()
        #: Until when we cannot tell who is gone from who could not say anything.
        self._doubt_until = 0.0
        self._changed = asyncio.Event()
        self._stale_tasks: set[str] = set()
        self._stale: set[str] = set()
        self._work = asyncio.Event()
        self._wanted = True
        #: Called with a task that is to be looked at soon, where the leadership is held.
        self.looked: Callable[[str], None] = lambda uuid: None
        #: Called with an owner whose tokens are to be asked about anew.
        self.forgotten: Callable[[str], Awaitable[None]] = _nobody
        #: How often the leadership became ours.
        self._term = 0
        leadership.held = not store.shared

    @property
    def leads(self) -> bool:
        """Whether the leadership is ours."""
        return self._leadership.held

    def alive(self, replica: str) -> bool:
        """Whether a replica is there. After a time in which nobody could give signs of life, all get time for one."""
        known = replica == self.me.id or any(each.id == replica for each in self.there)
        return known or time.monotonic() < self._doubt_until

    async def begin(self, take_up: Callable[[], Awaitable[None]]) -> None:
        """Before the first loop runs: take the leadership if nobody has it, and take up what was left."""
        if self._store.shared:
            await self._beat()
            await self._store.say("replicas", "")  # from now on others do not take their memory for the newest
        if self._leadership.held:
            await take_up()

    async def run(self, take_up: Callable[[], Awaitable[None]], loops: Loops) -> None:
        """For ever: run these loops whenever the leadership is ours. After `begin`."""
        begun = self._leadership.held
        while True:
            self._changed.clear()
            if not self._leadership.held:
                await self._changed.wait()
                continue
            if not begun:
                _log.info("leads from now on", replica=self.me.name)
                try:
                    await take_up()
                except ClusterError as error:  # the next sign of life takes the leadership again
                    _log.warning("cannot lead now", error=str(error))
                    self._lose()
                    continue
            begun = False
            await self._until_lost(loops)

    async def _until_lost(self, loops: Loops) -> None:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop(), name=name) for name, loop in loops.items()]
            term = self._term
            while self._leadership.held and self._term == term:
                self._changed.clear()
                await self._changed.wait()
            _log.warning("leads no longer", replica=self.me.name)
            for task in running:
                task.cancel()

    async def beat(self) -> None:
        """For ever: give signs of life, hold the lock or wait for it; nothing to do where there are no others."""
        while self._store.shared:
            left = max(0.0, self._kept_at + _HOLD - time.monotonic())
            watch = asyncio.get_running_loop().call_later(left, self._lose)
            try:
                await self._beat()
            except Exception as error:  # noqa: BLE001 - one of the three edges: the next beat is another try
                _log.warning("no sign of life could be given", error=str(error) or type(error).__name__)
            watch.cancel()
            if time.monotonic() - self._kept_at > _HOLD:
                self._lose()
            await asyncio.sleep(_BEAT)

    async def _beat(self) -> None:
        begun = time.monotonic()
        holder, self.there = await self._store.beat(self.me, LOCK, leads=self._wanted)
        if self._store.shared and begun - self._kept_at > _GAP:
            self._doubt_until = time.monotonic() + SILENT
        self._kept_at = begun
        self._tasks.others = len(self.there) > 1
        self.leader = next((each.name for each in self.there if each.id == holder), "")
        holds = holder == self.me.id
        if holds and not self._leadership.held and time.monotonic() - begun < _HOLD:
            self._leadership.held = True
            self._term += 1
            self._changed.set()
        elif not holds:
            self._lose()

    def _lose(self) -> None:
        if self._leadership.held:
            self._leadership.held = False
            self._changed.set()

    async def leave(self) -> None:
        """The end: others may lead at once."""
        self._wanted = False
        self._lose()
        if self._store.shared:
            try:
                await self._store.leave(self.me.id)
            except ClusterError as error:
                _log.warning("others could not be told that we end", error=str(error))

    async def look(self, uuid: str) -> None:
        """Have whoever leads ask for a task soon: its node says that something happened."""
        if self._leadership.held:
            self.looked(uuid)
        else:
            await self._store.say("look", uuid)

    async def forget(self, owner: str) -> None:
        """Have every replica ask anew what a token of an owner may do."""
        await self.forgotten(owner)
        if self._store.shared:
            await self._store.say("grant", owner)

    # What others changed

    async def listen(self) -> None:
        """For ever: hear what others change."""
        await self._store.listen(self._heard, self.reload)

    def _heard(self, kind: str, key: str) -> None:
        if kind == "look":
            self.looked(key)
            return
        if kind == "task":
            self._stale_tasks.add(key)
        else:
            self._stale.add(f"{kind} {key}".strip())
        self._work.set()

    async def reload(self) -> None:
        """Read everything again."""
        await self._tasks.reload()
        await self._registry.reload()
        await self._machines.reload()

    async def follow(self) -> None:
        """For ever: read again what others changed."""
        while self._store.shared:
            try:
                async with asyncio.timeout(_RELOAD):
                    await self._work.wait()
            except TimeoutError:
                self._stale.add("all")
            self._work.clear()
            tasks, self._stale_tasks = self._stale_tasks, set()
            kinds, self._stale = self._stale, set()
            try:
                await self._read_again(tasks, kinds)
            except Exception as error:  # noqa: BLE001 - one of the three edges: what was not read is read again
                _log.warning("changes of others cannot be read now", error=str(error) or type(error).__name__)
                self._stale_tasks |= tasks
                self._stale |= kinds
                self._work.set()
                await asyncio.sleep(_BEAT)

    async def _read_again(self, tasks: set[str], kinds: set[str]) -> None:
        if "all" in kinds:
            await self.reload()
        if tasks:
            await self._tasks.refresh(tasks)
        if "nodes" in kinds:
            await self._registry.reload()
        if "machines" in kinds:
            await self._machines.reload()
        if "value description" in kinds:
            await self._registry.description.reload()
        for kind in kinds:
            if kind.startswith("grant "):
                await self.forgotten(kind.removeprefix("grant "))
        if "replicas" in kinds and self._wanted:
            await self._beat()


async def _nobody(owner: str) -> None:
    """No authenticator is there to be told."""
