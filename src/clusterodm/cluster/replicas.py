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
from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm import __version__
from clusterodm.aio import Timer
from clusterodm.cluster.controller import Loop, Loops, Scope, Service
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.core.errors import ClusterError
from clusterodm.store import SILENT, Replica

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


@dataclass(kw_only=True, slots=True, eq=False)
class Replicas:
    """This replica among the others; on a database that is not shared it is alone and leads."""

    state: ClusterState
    #: Polls a task soon, on the leader.
    poll: Callable[[str], None]
    #: Drops what an owner's tokens were granted.
    drop_grants: Callable[[str], Awaitable[None]]
    runtime: Runtime
    me: Replica = field(init=False)
    members: list[Replica] = field(init=False)
    #: The name of the leader; empty while there is none.
    leader: str = field(init=False)
    _beat_at: float = field(init=False)
    #: Until then a replica that is gone cannot be told from one that could not reach the store.
    _doubt_until: float = field(init=False, default=-math.inf)
    #: Ends the term unless a heartbeat extends it.
    _expiry: Timer | None = field(init=False, default=None)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _stale_tasks: set[str] = field(init=False, default_factory=set)
    _stale: set[str] = field(init=False, default_factory=set)
    _work: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _wanted: bool = field(init=False, default=True)
    #: How often this replica was elected, and the term whose election work is done.
    _term: int = field(init=False, default=0)
    _ready: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        self.me = Replica(id=self.state.store.origin, name=name, version=__version__)
        self.members, self.leader = [self.me], name
        self._beat_at = self.runtime.clock.steady()
        if self.state.store.shared:
            self.runtime.leadership.until = -math.inf

    @property
    def leads(self) -> bool:
        """True if this replica is the leader."""
        return self.runtime.leadership.held

    def alive(self, replica: str) -> bool:
        """True if a replica is alive, or may be: after a time in which this one could not reach the store, all get
        time for a heartbeat."""
        listed = replica == self.me.id or any(each.id == replica for each in self.members)
        return listed or self.runtime.clock.steady() < self._doubt_until

    async def begin(self, loops: Loops) -> None:
        """Before the first loop runs: become the leader if there is none, and do the election work."""
        if self.state.store.shared:
            await self._beat()
            await self.state.store.say("replicas", "")  # the others stop relying on their memory alone
        if self.runtime.leadership.held:
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
            if not self.runtime.leadership.held:
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
            while self.runtime.leadership.held and self._term == term:
                self._changed.clear()
                await self._changed.wait()
            _log.warning("stepped down", replica=self.me.name)
            running.cancel()

    async def beat(self) -> None:
        """Send heartbeats until canceled, and hold the lock or wait for it; return at once without other replicas."""
        while self.state.store.shared:
            try:
                await self._beat()
            except Exception as error:  # noqa: BLE001 - one of the three edges: the next heartbeat is another attempt
                _log.warning("heartbeat failed", error=str(error) or type(error).__name__)
            await self.runtime.clock.sleep(_BEAT)

    async def _beat(self) -> None:
        begun_at = self.runtime.clock.steady()
        holder, self.members = await self.state.store.beat(self.me, LOCK, leads=self._wanted)
        if self.state.store.shared and begun_at - self._beat_at > _GAP:
            self._doubt_until = self.runtime.clock.steady() + SILENT
        self._beat_at = max(begun_at, self._beat_at)  # heartbeats may overtake each other
        self.state.tasks.others = len(self.members) > 1
        self.leader = next((each.name for each in self.members if each.id == holder), "")
        if holder != self.me.id:
            self._step_down()
        elif (remaining := self._beat_at + _HOLD - self.runtime.clock.steady()) > 0:
            if not self.runtime.leadership.held:
                self._term += 1
                self._changed.set()
            self.runtime.leadership.until = self._beat_at + _HOLD
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self.runtime.clock.call_later(remaining, self._step_down)

    def _step_down(self) -> None:
        if self.runtime.leadership.until > -math.inf:
            self.runtime.leadership.until = -math.inf
            self._changed.set()

    async def leave(self) -> None:
        """Before the end: release the lock, so that another replica may lead at once."""
        self._wanted = False
        self._step_down()
        if self.state.store.shared:
            try:
                await self.state.store.leave(self.me.id)
            except ClusterError as error:
                _log.warning("cannot announce the end to other replicas", error=str(error))

    async def look(self, uuid: str) -> None:
        """Have the leader poll a task soon: its node reports that something happened."""
        if self.runtime.leadership.held:
            self.poll(uuid)
        else:
            await self.state.store.say("look", uuid)

    async def forget(self, owner: str) -> None:
        """Drop on every replica what the tokens of an owner were granted."""
        await self.drop_grants(owner)
        if self.state.store.shared:
            await self.state.store.say("grant", owner)

    # What other replicas change

    async def listen(self) -> None:
        """Listen for changes until canceled."""
        await self.state.store.listen(self._heard, self.reload)

    def _heard(self, kind: str, key: str) -> None:
        if kind == "look":
            self.poll(key)
            return
        if kind == "task":
            self._stale_tasks.add(key)
        else:
            self._stale.add(f"{kind} {key}".strip())
        self._work.set()

    async def reload(self) -> None:
        """Reload everything."""
        await self.state.tasks.reload()
        await self.state.registry.reload()
        await self.state.machines.reload()

    async def follow(self) -> None:
        """Reload what other replicas changed, until canceled."""
        while self.state.store.shared:
            if not await self.runtime.clock.wait(self._work, _RELOAD):
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
                await self.runtime.clock.sleep(_BEAT)

    async def _reload_stale(self, tasks: set[str], kinds: set[str]) -> None:
        if "all" in kinds:
            await self.reload()
        if tasks:
            await self.state.tasks.refresh(tasks)
        if "nodes" in kinds:
            await self.state.registry.reload()
        if "machines" in kinds:
            await self.state.machines.reload()
        if "value description" in kinds:
            await self.state.registry.description.reload()
        for kind in kinds:
            if kind.startswith("grant "):
                await self.drop_grants(kind.removeprefix("grant "))
        if "replicas" in kinds and self._wanted:
            await self._beat()
