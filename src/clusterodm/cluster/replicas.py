# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes that are one cluster: which are alive, which one leads, and what the others changed.

Every replica takes any request, polls nodes and sends files. What must be decided once (placement, tracking, machines,
webhooks, cleanup) is done by the leader, the replica that holds an expiring lock. It steps down by itself, by its
monotonic clock, before the lock can have expired for the others; besides, every step of it is a compare-and-set.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from clusterodm import __version__
from clusterodm.aio import Clock, Leadership, Timer
from clusterodm.cluster.controller import Loop, Loops, Scope, Service
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
#: Seconds without a heartbeat of this replica after which those of others may be late, too.
_GAP: Final = 3.0
#: Seconds after which everything is reloaded, whatever was announced.
_RELOAD: Final = 300.0


class Replicas:
    """This replica among the others; on a database that is not shared it is alone and leads."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        tasks: Tasks,
        registry: Registry,
        machines: Machines,
        *,
        look: Callable[[str], None],
        forget: Callable[[str], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`look(uuid)` polls a task soon, on the leader; `forget(owner)` drops what an owner's tokens were granted."""
        self._store = store
        self._leadership = leadership
        self._tasks = tasks
        self._registry = registry
        self._machines = machines
        self._look = look
        self._forget = forget
        self._clock = clock
        self.me = Replica(id=store.origin, name=f"{socket.gethostname()}:{os.getpid()}", version=__version__)
        self.there: list[Replica] = [self.me]
        #: The name of the leader; empty while there is none.
        self.leader = self.me.name
        self._beat_at = clock.steady()
        #: Until then a replica that is gone cannot be told from one that could not reach the store.
        self._doubt_until = -math.inf
        #: Ends the term unless a heartbeat extends it.
        self._expiry: Timer | None = None
        self._changed = asyncio.Event()
        self._stale_tasks: set[str] = set()
        self._stale: set[str] = set()
        self._work = asyncio.Event()
        self._wanted = True
        #: How often this replica was elected, and the term whose election work is done.
        self._term = 0
        self._ready = -1
        if store.shared:
            leadership.until = -math.inf

    @property
    def leads(self) -> bool:
        """True if this replica is the leader."""
        return self._leadership.held

    def alive(self, replica: str) -> bool:
        """True if a replica is alive, or may be: after a time in which this one could not reach the store, all get
        time for a heartbeat."""
        known = replica == self.me.id or any(each.id == replica for each in self.there)
        return known or self._clock.steady() < self._doubt_until

    async def begin(self, loops: Loops) -> None:
        """Before the first loop runs: become the leader if there is none, and do the election work."""
        if self._store.shared:
            await self._beat()
            await self._store.say("replicas", "")  # the others stop relying on their memory alone
        if self._leadership.held:
            await self._elect(loops)

    async def _elect(self, loops: Loops) -> None:
        term = self._term
        await loops.elect()
        self._ready = term

    def loops(self, others: Loops) -> tuple[Loop, ...]:
        """Return its loops; one of them runs those of the leader among `others`."""
        return (
            Service(
                "heartbeat", self.beat, "says that this replica is alive, and holds the leader's lock or waits for it"
            ),
            Service("listener", self.listen, "hears what other replicas change"),
            Service("follower", self.follow, "reloads what other replicas changed"),
            Service("leader", lambda: self.lead(others), "runs the loops of the leader while this replica leads"),
        )

    async def lead(self, loops: Loops) -> None:
        """Run the loops of the leader in each term, after its election work, until canceled."""
        while True:
            self._changed.clear()
            if not self._leadership.held:
                await self._changed.wait()
            elif self._ready == self._term:
                await self._run_term(loops)
            else:  # also when the term changed during its election work: what was queued without leadership is lost
                _log.info("became leader", replica=self.me.name)
                try:
                    await self._elect(loops)
                except ClusterError as error:  # the next heartbeat is another candidacy
                    _log.warning("election work failed, stepping down", error=str(error))
                    self._step_down()

    async def _run_term(self, loops: Loops) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(loops.run(Scope.LEADER))
            term = self._term
            while self._leadership.held and self._term == term:
                self._changed.clear()
                await self._changed.wait()
            _log.warning("stepped down", replica=self.me.name)
            running.cancel()

    async def beat(self) -> None:
        """Send heartbeats until canceled, and hold the lock or wait for it; return at once without other replicas."""
        while self._store.shared:
            try:
                await self._beat()
            except Exception as error:  # noqa: BLE001 - one of the three edges: the next heartbeat is another attempt
                _log.warning("heartbeat failed", error=str(error) or type(error).__name__)
            await self._clock.sleep(_BEAT)

    async def _beat(self) -> None:
        begun = self._clock.steady()
        holder, self.there = await self._store.beat(self.me, LOCK, leads=self._wanted)
        if self._store.shared and begun - self._beat_at > _GAP:
            self._doubt_until = self._clock.steady() + SILENT
        self._beat_at = max(begun, self._beat_at)  # heartbeats may overtake each other
        self._tasks.others = len(self.there) > 1
        self.leader = next((each.name for each in self.there if each.id == holder), "")
        if holder != self.me.id:
            self._step_down()
        elif (left := self._beat_at + _HOLD - self._clock.steady()) > 0:
            if not self._leadership.held:
                self._term += 1
                self._changed.set()
            self._leadership.until = self._beat_at + _HOLD
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._clock.call_later(left, self._step_down)

    def _step_down(self) -> None:
        if self._leadership.until > -math.inf:
            self._leadership.until = -math.inf
            self._changed.set()

    async def leave(self) -> None:
        """Before the end: release the lock, so that another replica may lead at once."""
        self._wanted = False
        self._step_down()
        if self._store.shared:
            try:
                await self._store.leave(self.me.id)
            except ClusterError as error:
                _log.warning("other replicas were not told of the end", error=str(error))

    async def look(self, uuid: str) -> None:
        """Have the leader poll a task soon: its node reports that something happened."""
        if self._leadership.held:
            self._look(uuid)
        else:
            await self._store.say("look", uuid)

    async def forget(self, owner: str) -> None:
        """Drop on every replica what the tokens of an owner were granted."""
        await self._forget(owner)
        if self._store.shared:
            await self._store.say("grant", owner)

    # What other replicas change

    async def listen(self) -> None:
        """Listen for changes until canceled."""
        await self._store.listen(self._heard, self.reload)

    def _heard(self, kind: str, key: str) -> None:
        if kind == "look":
            self._look(key)
            return
        if kind == "task":
            self._stale_tasks.add(key)
        else:
            self._stale.add(f"{kind} {key}".strip())
        self._work.set()

    async def reload(self) -> None:
        """Reload everything."""
        await self._tasks.reload()
        await self._registry.reload()
        await self._machines.reload()

    async def follow(self) -> None:
        """Reload what other replicas changed, until canceled."""
        while self._store.shared:
            if not await self._clock.wait(self._work, _RELOAD):
                self._stale.add("all")
            self._work.clear()
            tasks, self._stale_tasks = self._stale_tasks, set()
            kinds, self._stale = self._stale, set()
            try:
                await self._reload_stale(tasks, kinds)
            except Exception as error:  # noqa: BLE001 - one of the three edges: what could not be read is still stale
                _log.warning("changes of other replicas cannot be read", error=str(error) or type(error).__name__)
                self._stale_tasks |= tasks
                self._stale |= kinds
                self._work.set()
                await self._clock.sleep(_BEAT)

    async def _reload_stale(self, tasks: set[str], kinds: set[str]) -> None:
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
                await self._forget(kind.removeprefix("grant "))
        if "replicas" in kinds and self._wanted:
            await self._beat()
