# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the queue to a node: `placement` decides, `sending` delivers, `attempts` judges what failed.

The leader places. The replica that claims an attempt first sends its files; the more it sends already, the later it
claims. The leader resumes what a dead replica was sending."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from clusterodm.aio import Clock, Leadership
from clusterodm.cluster.controller import Controller, Loop, Periodic, Service
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.outlook import Outlook
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.attempts import Attempts, Failed
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.core.durations import elapsed
from clusterodm.core.errors import StaleTask
from clusterodm.core.scheduling import Plan
from clusterodm.core.tasks import Attempt, Phase
from clusterodm.observe import Metrics

_log = structlog.get_logger("dispatcher")

#: Seconds between two looks at the queue when nothing happens: back-offs and set-aside times expire by themselves.
_SWEEP: Final = 1.0
#: The rest between two decisions, in multiples of the time that one takes and at least in seconds: changes in that time
#: are decided on together.
_REST: Final = 2.0
_LEAST_REST: Final = 0.01
#: Seconds by which a claim is put off for each transfer under way here, so that other replicas come first.
_HESITATE: Final = 0.02


class Dispatcher:
    """Run the loop that places and sends waiting tasks."""

    def __init__(
        self,
        tasks: Tasks,
        registry: Registry,
        replicas: Replicas,
        placer: Placer,
        sender: Sender,
        attempts: Attempts,
        metrics: Metrics,
        waits: Waits,
        outlook: Outlook,
        *,
        leadership: Leadership,
        max_sending: int,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._replicas = replicas
        self._placer = placer
        self._sender = sender
        self._attempts = attempts
        self._metrics = metrics
        self._leadership = leadership
        self._max_sending = max_sending
        self._clock = clock
        #: Tasks that only wait for a slot, next first, and those that will in a moment.
        self.wanting: list[str] = []
        self.soon: list[str] = []
        self.waits = waits
        self._outlook = outlook
        #: Transfers under way here, by task.
        self.sending = sender.under_way
        #: Tasks that are being worked on here.
        self._working: set[str] = set()
        self._sends = Controller(
            "sends",
            self._dispatch,
            "claims placed tasks, sends their files, commits",
            concurrency=max_sending + sender.prefetcher.most,
            clock=clock,
            at_end=sender.transfers.close,
        )
        self._wake = asyncio.Event()
        self._elected = asyncio.Event()
        tasks.watch(self._task_changed)
        registry.watch(self._wake.set)

    def _task_changed(self, entry: Entry) -> None:
        task, attempt = entry.task, entry.attempt
        if task.phase in (Phase.FINISHED, Phase.REMOVED):
            self._placer.close(task.uuid, entry)
            self._sends.cancel(task.uuid)
        if attempt is not None:
            self._placer.hold_slot(task, attempt)
            if task.phase is Phase.DISPATCHING and not attempt.sender:
                self._sends.put(task.uuid, _HESITATE * len(self.sending))
            elif task.phase is Phase.QUEUED and attempt.sender != self._replicas.me.id:
                self._attempts.evidence.learn(entry)
        self._wake.set()

    async def _on_elected(self) -> None:
        """Resume what dead replicas were sending, and look at the queue."""
        self._elected.set()
        self._wake.set()
        for entry in list(self._tasks.active()):
            if entry.attempt is not None and entry.task.phase in (Phase.DISPATCHING, Phase.RUNNING):
                self._placer.hold_slot(entry.task, entry.attempt)
                if entry.task.phase is Phase.DISPATCHING and self._orphaned(entry.attempt):
                    self._sends.put(entry.task.uuid)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        does = "places waiting tasks, and says why others wait"
        place = Service("dispatcher", self._run, does, elected=self._on_elected)
        does = "takes over what a dead replica was sending"
        orphans = Periodic("orphans", self._find_orphans, does, every=_SWEEP, clock=self._clock)
        return (place, self._sends, orphans)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._elected.clear()
            began = self._clock.steady()
            self._place()
            if self._leadership.held:
                await self.waits.write()
            # decide less often on a queue that takes long to decide on, so that all else goes on
            await self._clock.sleep(min(_SWEEP, max(_LEAST_REST, _REST * (self._clock.steady() - began))))
            await self._clock.wait(self._wake if self._leadership.held else self._elected, _SWEEP)

    def look_soon(self) -> None:
        """Look at the queue again: something that placement depends on has changed."""
        self._wake.set()

    def _place(self) -> None:
        """Decide on the queue, and explain the waits; only the leader carries it out."""
        plan = self._placer.plan(self._max_sending * len(self._replicas.there), self._takes_no_turn)
        self.wanting, self.soon = plan.wanting, plan.soon
        self._explain(plan)
        for placement in plan.placements if self._leadership.held else ():
            if self._placer.choose(placement):
                self._sends.put(placement.task)

    def _explain(self, plan: Plan) -> None:
        for uuid, why in plan.waiting.items():
            if entry := self._tasks.get(uuid):
                remark = self._outlook.remarks.get(uuid, "")
                entry.wait = f"{why}; {remark}" if remark else why
        texts = {uuid: entry.wait for uuid in plan.stuck if (entry := self._tasks.get(uuid))}
        known = self._leadership.held or not self._registry.machines()
        self.waits.record(plan.stuck, texts, machines_known=known)

    def _takes_no_turn(self, entry: Entry) -> bool:
        """Return True for a task that is under way in name only: no replica is sending it."""
        attempt = entry.attempt
        if attempt is None or entry.task.phase is not Phase.DISPATCHING:
            return False
        mine = attempt.sender == self._replicas.me.id
        return self._orphaned(attempt) or (mine and entry.task.uuid not in self._working)

    def _orphaned(self, attempt: Attempt) -> bool:
        """Return True if the replica that sends an attempt is dead."""
        return bool(attempt.sender) and not self._replicas.alive(attempt.sender)

    async def _find_orphans(self) -> None:
        """Work on what a dead replica was sending, and on what no replica has claimed."""
        for entry in self._tasks.active():
            if entry.attempt is not None and entry.task.phase is Phase.DISPATCHING:
                lost = self._leadership.held and self._orphaned(entry.attempt)
                if lost or not entry.attempt.sender:
                    self._sends.put(entry.task.uuid)

    async def _dispatch(self, uuid: str) -> None:
        entry = self._tasks.get(uuid)
        self._working.add(uuid)
        try:
            if entry is not None:
                await self._end(entry, await self._step(entry))
        except StaleTask as stale:
            _log.info("dispatch superseded", task=uuid, why=str(stale))
        finally:
            self._placer.close(uuid, entry)
            self._working.discard(uuid)
            self._wake.set()

    async def _step(self, entry: Entry) -> Failed | None:
        """Take a task as far as possible; return how its attempt failed."""
        if entry.task.phase is Phase.DISPATCHING:
            return await self._go_on(entry)
        node = self._placer.chosen(entry.task.uuid)
        if entry.task.phase is not Phase.QUEUED or node is None:
            return None
        if not entry.task.charged and not entry.task.not_before:
            self._metrics.waits.observe(elapsed(entry.task.committed_at, self._clock()))
        only_replica = len(self._replicas.there) == 1
        return await self._sender.begin(entry, node, self._replicas.me.id if only_replica else "")

    async def _go_on(self, entry: Entry) -> Failed | None:
        """Claim an attempt that no replica sends; resume one whose sender has died."""
        (_, attempt), me = entry.require_on_node(), self._replicas.me.id
        if not attempt.sender:
            return await self._sender.claim(entry, attempt, me)
        if attempt.sender == me or (self._leadership.held and self._orphaned(attempt)):
            return await self._sender.resume(entry, attempt)
        return None

    async def _end(self, entry: Entry, failed: Failed | None) -> None:
        if failed is not None:
            await self._attempts.failed(entry, *failed)
