# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Submodels of split-merge jobs: who may send them, and how they end with the attempt of their job.

The work to do follows from a job and its submodels as stored, so a restart or a missed event only delays it until the
next sweep.

A queued submodel is shown as running: a job cancels a submodel that it sees queued, and then submits fewer at a time.
If jobs hold all slots and none would become free, it is shown as queued, so that the job processes it on its own node.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from clusterodm.auth import Grant, Job, submodel_owner
from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.control import Control
from clusterodm.core.errors import StaleTask
from clusterodm.core.machines import PENDING_STATES
from clusterodm.core.options import split_cluster
from clusterodm.core.splitmerge import GRACE, Fate, fate, is_under_way, stuck
from clusterodm.core.tasks import ACTIVE, FOLLOWED, ON_NODE, Cleanup, Phase, Task

#: Submodels of a job ended in one round.
_PAGE: Final = 200
_BY: Final = "the end of its split-merge job"
#: Seconds for which submodels wait behind their own jobs before they are shown as queued.
PATIENCE: Final = 30.0
_IN_VAIN: Final = "shown as queued, so that its job takes it back: split-merge jobs hold all slots"


@dataclass(kw_only=True, slots=True, eq=False)
class Submodels:
    """End the submodels of attempts that are over."""

    state: ClusterState
    control: Control
    runtime: Runtime
    _queue: Controller[str] = field(init=False)
    #: Since when (monotonic) submodels wait behind their own jobs; 0: they do not.
    _stuck_since: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "submodels",
            self._end,
            "ends the submodels of split-merge jobs that are over",
            keys=self.state.store.jobs,
            concurrency=10,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.tasks.watch(self._task_changed)

    @property
    def stuck(self) -> bool:
        """True if split-merge jobs hold all slots, so that their submodels cannot run."""
        return bool(self._stuck_since) and self.runtime.clock.steady() - self._stuck_since >= PATIENCE

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    async def sweep(self) -> None:
        """Check every job that has submodels."""
        for job in await self.state.store.jobs():
            self._queue.put(job)

    @property
    def _machines_coming(self) -> bool:
        return any(machine.state in PENDING_STATES for machine in self.state.machines.alive())

    async def give_back(self) -> None:
        """Show submodels that wait behind their own jobs as queued, so that their jobs take them back."""
        uuids = stuck(entry.task for entry in self.state.tasks.active())
        self._stuck_since = (self._stuck_since or self.runtime.clock.steady()) if uuids else 0.0
        if not self.stuck or self._machines_coming:
            return
        for uuid in uuids:
            entry = self.state.tasks.get(uuid)
            if entry is not None and self.runtime.clock.age(entry.task.committed_at) >= PATIENCE:
                with suppress(StaleTask):
                    await self.state.tasks.change(entry, _IN_VAIN, submodel=False, node_code=0)

    async def grant(self, job: Job, *, late: bool) -> Grant | None:
        """Return the grant of a job's token: it may manage its own submodels while its attempt is under way, with
        `late` also some minutes afterwards."""
        entry = self.state.tasks.get(job.task) or (await self.state.tasks.find(job.task) if late else None)
        if entry is None:
            return None
        task, attempt = entry.task, job.attempt or entry.task.attempts
        if not is_under_way(task, attempt) and not (late and await self._ended_recently(task, attempt)):
            return None
        owner = submodel_owner(task.owner, task.uuid)
        return Grant(owner=owner, priority=task.priority, share=task.share, job=task.uuid, job_attempt=attempt)

    async def _ended_recently(self, job: Task, attempt: int) -> bool:
        return (await self._ages(job)).get(attempt, GRACE) < GRACE

    def _task_changed(self, entry: Entry) -> None:
        task = entry.task
        if task.job and task.phase is not Phase.REMOVED:
            job = self.state.tasks.get(task.job)
            if job is None or not is_under_way(job.task, task.job_attempt):
                self._queue.put(task.job)
        if task.attempts and task.phase not in FOLLOWED and split_cluster(task.options):
            self._queue.put(task.uuid)

    async def drop(self, uuid: str) -> None:
        """Remove all submodels of a finished job before it is restarted."""
        while submodels := await self.state.store.submodels(uuid, limit=_PAGE):
            for task in submodels:
                await self._carry_out(task, Fate.REMOVE)

    async def _end(self, uuid: str) -> float | None:
        """End the obsolete submodels of a job; return the seconds until the next ones are due."""
        entry = await self.state.tasks.find(uuid)
        job = entry.task if entry is not None and entry.task.phase is not Phase.REMOVED else None
        live = job.attempts if job is not None and job.phase in ON_NODE else None
        submodels = await self.state.store.submodels(uuid, besides=live, limit=_PAGE)
        ages = await self._ages(job) if job is not None and submodels else {}
        ended, delay = 0, None
        for task in submodels:
            age = ages.get(task.job_attempt, GRACE)
            if (verdict := fate(task, job, age)) is Fate.STAYS:
                delay = min(delay or GRACE, max(1.0, GRACE - age))
            else:
                ended += await self._carry_out(task, verdict)
        if ended and entry is not None and job is not None:
            await self.state.tasks.note(entry, f"ended {ended} of its submodels: the attempt that sent them is over")
        return 0.0 if len(submodels) == _PAGE and ended else delay

    async def _carry_out(self, task: Task, verdict: Fate) -> bool:
        """Cancel or remove a submodel, with its files on its node; return True if it was active."""
        entry = await self.state.tasks.find(task.uuid)
        if entry is None:
            return False
        if verdict is Fate.CANCEL:
            await self.control.cancel(entry, by=_BY, cleanup=Cleanup.REMOVE)
        else:
            await self.control.remove(entry, by=_BY)
        return task.phase in ACTIVE

    async def _ages(self, job: Task) -> dict[int, float]:
        """Return the seconds since each attempt of a job left its node."""
        ended = {each.number: each.ended_at for each in await self.state.store.attempts(job.uuid)}
        return {
            number: self.runtime.clock.age(at or job.finished_at or job.committed_at) for number, at in ended.items()
        }
