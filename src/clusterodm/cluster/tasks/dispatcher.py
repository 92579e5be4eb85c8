# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the queue to a node: `placement` decides, `sending` delivers, `attempts` judges what failed.

The leader places. The replica that claims an attempt first sends its files; the more it sends already, the later it
claims. The leader resumes what a dead replica was sending."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm.cluster.controller import Controller, Loop, Periodic, Service
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.attempts import Attempts, Failed
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.core.durations import elapsed
from clusterodm.core.errors import StaleTask
from clusterodm.core.scheduling import Plan
from clusterodm.core.tasks import Attempt, Phase
from clusterodm.nodeodm import Transfer

_log = structlog.get_logger("dispatcher")

#: Seconds between two looks at the queue when nothing happens: back-offs and set-aside times expire by themselves.
_SWEEP: Final = 1.0
#: The rest between two decisions, in multiples of the time that one takes and at least in seconds: changes in that time
#: are decided on together.
_REST: Final = 2.0
_LEAST_REST: Final = 0.01
#: Seconds by which a claim is put off for each transfer under way here, so that other replicas come first.
_HESITATE: Final = 0.02


@dataclass(kw_only=True, slots=True, eq=False)
class Dispatcher:
    """Run the loop that places and sends waiting tasks."""

    state: ClusterState
    replicas: Replicas
    placer: Placer
    sender: Sender
    attempts: Attempts
    waits: Waits
    max_sending: int
    runtime: Runtime
    #: Tasks that are being worked on here.
    _working: set[str] = field(init=False, default_factory=set)
    _sends: Controller[str] = field(init=False)
    _wake: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _elected: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._sends = Controller(
            "sends",
            self._dispatch,
            "claims placed tasks, sends their files, commits",
            concurrency=self.max_sending + self.sender.prefetcher.most,
            clock=self.runtime.clock,
            at_end=self.sender.transfers.close,
        )
        self.state.tasks.watch(self._task_changed)
        self.state.registry.watch(self._wake.set)

    @property
    def sending(self) -> dict[str, Transfer]:
        """Transfers under way here, by task."""
        return self.sender.under_way

    def _task_changed(self, entry: Entry) -> None:
        task, attempt = entry.task, entry.attempt
        if task.phase in (Phase.FINISHED, Phase.REMOVED):
            self.placer.close(task.uuid, entry)
            self._sends.cancel(task.uuid)
        if attempt is not None:
            self.placer.hold_slot(task, attempt)
            if task.phase is Phase.DISPATCHING and not attempt.sender:
                self._sends.put(task.uuid, _HESITATE * len(self.sending))
            elif task.phase is Phase.QUEUED and attempt.sender != self.replicas.me.id:
                self.attempts.evidence.learn(entry)
        self._wake.set()

    async def _on_elected(self) -> None:
        """Resume what dead replicas were sending, and look at the queue."""
        self._elected.set()
        self._wake.set()
        for entry in list(self.state.tasks.active()):
            if entry.attempt is not None and entry.task.phase in (Phase.DISPATCHING, Phase.RUNNING):
                self.placer.hold_slot(entry.task, entry.attempt)
                if entry.task.phase is Phase.DISPATCHING and self._orphaned(entry.attempt):
                    self._sends.put(entry.task.uuid)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        does = "places waiting tasks, and says why others wait"
        place = Service("dispatcher", self._run, does, elected=self._on_elected)
        does = "takes over what a dead replica was sending"
        orphans = Periodic("orphans", self._find_orphans, does, every=_SWEEP, clock=self.runtime.clock)
        return (place, self._sends, orphans)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._elected.clear()
            began = self.runtime.clock.steady()
            self._place()
            if self.runtime.leadership.held:
                await self.waits.write()
            # decide less often on a queue that takes long to decide on, so that all else goes on
            await self.runtime.clock.sleep(min(_SWEEP, max(_LEAST_REST, _REST * (self.runtime.clock.steady() - began))))
            await self.runtime.clock.wait(self._wake if self.runtime.leadership.held else self._elected, _SWEEP)

    def look_soon(self) -> None:
        """Look at the queue again: something that placement depends on has changed."""
        self._wake.set()

    def _place(self) -> None:
        """Decide on the queue, and explain the waits; only the leader carries it out."""
        plan = self.placer.plan(self.max_sending * len(self.replicas.members), self._takes_no_turn)
        self.waits.outlook.wanting, self.waits.outlook.soon = plan.wanting, plan.soon
        self._explain(plan)
        for placement in plan.placements if self.runtime.leadership.held else ():
            if self.placer.choose(placement):
                self._sends.put(placement.task)

    def _explain(self, plan: Plan) -> None:
        for uuid, why in plan.waiting.items():
            if entry := self.state.tasks.get(uuid):
                remark = self.waits.outlook.remarks.get(uuid, "")
                entry.wait = f"{why}; {remark}" if remark else why
        texts = {uuid: entry.wait for uuid in plan.stuck if (entry := self.state.tasks.get(uuid))}
        machines_known = self.runtime.leadership.held or not self.state.registry.machines()
        self.waits.record(plan.stuck, texts, machines_known=machines_known)

    def _takes_no_turn(self, entry: Entry) -> bool:
        """Return True for a task that is under way in name only: no replica is sending it."""
        attempt = entry.attempt
        if attempt is None or entry.task.phase is not Phase.DISPATCHING:
            return False
        mine = attempt.sender == self.replicas.me.id
        return self._orphaned(attempt) or (mine and entry.task.uuid not in self._working)

    def _orphaned(self, attempt: Attempt) -> bool:
        """Return True if the replica that sends an attempt is dead."""
        return bool(attempt.sender) and not self.replicas.alive(attempt.sender)

    async def _find_orphans(self) -> None:
        """Work on what a dead replica was sending, and on what no replica has claimed."""
        for entry in self.state.tasks.active():
            if entry.attempt is not None and entry.task.phase is Phase.DISPATCHING:
                lost = self.runtime.leadership.held and self._orphaned(entry.attempt)
                if lost or not entry.attempt.sender:
                    self._sends.put(entry.task.uuid)

    async def _dispatch(self, uuid: str) -> None:
        entry = self.state.tasks.get(uuid)
        self._working.add(uuid)
        try:
            if entry is not None and (failed := await self._step(entry)):
                await self.attempts.failed(entry, *failed)
        except StaleTask as stale:
            _log.info("dispatch superseded", task=uuid, why=str(stale))
        finally:
            self.placer.close(uuid, entry)
            self._working.discard(uuid)
            self._wake.set()

    async def _step(self, entry: Entry) -> Failed | None:
        """Take a task as far as possible; return how its attempt failed."""
        if entry.task.phase is Phase.DISPATCHING:
            return await self._go_on(entry)
        node = self.placer.chosen(entry.task.uuid)
        if entry.task.phase is not Phase.QUEUED or node is None:
            return None
        if not entry.task.charged and not entry.task.not_before:
            self.runtime.metrics.waits.observe(elapsed(entry.task.committed_at, self.runtime.clock()))
        only_replica = len(self.replicas.members) == 1
        return await self.sender.begin(entry, node, self.replicas.me.id if only_replica else "")

    async def _go_on(self, entry: Entry) -> Failed | None:
        """Claim an attempt that no replica sends; resume one whose sender has died."""
        (_, attempt), me = entry.require_on_node(), self.replicas.me.id
        if not attempt.sender:
            return await self.sender.claim(entry, attempt, me)
        if attempt.sender == me or (self.runtime.leadership.held and self._orphaned(attempt)):
            return await self.sender.resume(entry, attempt)
        return None
