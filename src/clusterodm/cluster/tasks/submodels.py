# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The submodels of split-merge jobs: who may send them, and their end with the attempt of their job.

Nothing is noted for later: what is to be done follows from a job and its submodels as the store has them, so a restart
or a missed event only delays it until the next sweep.

A submodel that waits is shown as running, because a job takes back what it sees waiting, and from then on sends fewer
at a time, for good. Only where waiting is in vain, because jobs hold all slots, it is shown as it is: the job takes it
back and works on it where the job itself runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from clusterodm.aio import Clock, Leadership, WorkQueue
from clusterodm.auth import Grant, Job, submodel_owner
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.control import Control
from clusterodm.core.errors import StaleTask
from clusterodm.core.options import split_cluster
from clusterodm.core.splitmerge import GRACE, Fate, fate, is_under_way, stuck
from clusterodm.core.tasks import ACTIVE, ON_NODE, Cleanup, Phase, Task
from clusterodm.store import Store

#: Submodels of a job that are ended in one round.
_PAGE: Final = 200
_BY: Final = "the end of its split-merge job"
#: Seconds for which submodels must wait in vain.
PATIENCE: Final = 30.0
_IN_VAIN: Final = "shown as queued, so that its job takes it back: split-merge jobs hold all slots"


class Submodels:
    """Ends the submodels of attempts that are over."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        control: Control,
        *,
        machines_coming: Callable[[], bool],
        leadership: Leadership,
        clock: Clock,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._control = control
        self._machines_coming = machines_coming
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue("submodels", self._end, concurrency=10, leadership=leadership)
        #: Since when (by a monotonic clock) submodels wait in vain; 0: they do not.
        self._stuck_since = 0.0
        tasks.watch(self._task_changed)

    @property
    def stuck(self) -> bool:
        """Whether split-merge jobs hold all slots, so that their submodels cannot run."""
        return bool(self._stuck_since) and self._clock.steady() - self._stuck_since >= PATIENCE

    async def run(self) -> None:
        """End submodels for ever."""
        await self._queue.run()

    async def sweep(self) -> None:
        """Look at every job that has submodels."""
        for job in await self._store.jobs():
            self._queue.put(job)

    async def give_back(self) -> None:
        """Show submodels that wait in vain as waiting, so that their jobs take them back."""
        found = stuck(entry.task for entry in self._tasks.active())
        self._stuck_since = (self._stuck_since or self._clock.steady()) if found else 0.0
        if not self.stuck or self._machines_coming():
            return
        for uuid in found:
            entry = self._tasks.get(uuid)
            if entry is not None and self._clock.age(entry.task.committed_at) >= PATIENCE:
                with suppress(StaleTask):
                    await self._tasks.change(entry, _IN_VAIN, submodel=False, node_code=0)

    async def grant(self, job: Job, *, late: bool) -> Grant | None:
        """Return what the token of a job gives: anything with its own submodels while its attempt is under way, with
        `late` also for some minutes after."""
        entry = self._tasks.get(job.task) or (await self._tasks.find(job.task) if late else None)
        if entry is None:
            return None
        task, attempt = entry.task, job.attempt or entry.task.attempts
        if not is_under_way(task, attempt) and not (late and await self._left_lately(task, attempt)):
            return None
        owner = submodel_owner(task.owner, task.uuid)
        return Grant(owner=owner, priority=task.priority, share=task.share, job=task.uuid, job_attempt=attempt)

    async def _left_lately(self, job: Task, attempt: int) -> bool:
        return (await self._ages(job)).get(attempt, GRACE) < GRACE

    def _task_changed(self, entry: Entry) -> None:
        task = entry.task
        if task.job and task.phase is not Phase.REMOVED:
            job = self._tasks.get(task.job)
            if job is None or not is_under_way(job.task, task.job_attempt):
                self._queue.put(task.job)
        if task.attempts and task.phase not in (Phase.RUNNING, Phase.COLLECTING) and split_cluster(task.options):
            self._queue.put(task.uuid)

    async def drop(self, uuid: str) -> None:
        """Remove all submodels of a job that is over, before it begins again."""
        while found := await self._store.submodels(uuid, limit=_PAGE):
            for task in found:
                await self._carry_out(task, Fate.REMOVE)

    async def _end(self, uuid: str) -> float | None:
        """End the submodels of a job that are of no use; the seconds until the next ones are due."""
        entry = await self._tasks.find(uuid)
        job = entry.task if entry is not None and entry.task.phase is not Phase.REMOVED else None
        live = job.attempts if job is not None and job.phase in ON_NODE else None
        found = await self._store.submodels(uuid, besides=live, limit=_PAGE)
        ages = await self._ages(job) if job is not None and found else {}
        ended, delay = 0, None
        for task in found:
            age = ages.get(task.job_attempt, GRACE)
            if (what := fate(task, job, age)) is Fate.STAYS:
                delay = min(delay or GRACE, max(1.0, GRACE - age))
            else:
                ended += await self._carry_out(task, what)
        if ended and entry is not None and job is not None:
            await self._tasks.note(entry, f"ended {ended} of its submodels: the attempt that sent them is over")
        return 0.0 if len(found) == _PAGE and ended else delay

    async def _carry_out(self, task: Task, what: Fate) -> bool:
        """Cancel a submodel, or remove it; True if it was under way. Its node is told to remove it in either case."""
        entry = await self._tasks.find(task.uuid)
        if entry is None:
            return False
        if what is Fate.CANCEL:
            await self._control.cancel(entry, by=_BY, cleanup=Cleanup.REMOVE)
        else:
            await self._control.remove(entry, by=_BY)
        return task.phase in ACTIVE

    async def _ages(self, job: Task) -> dict[int, float]:
        """Return the seconds since each attempt of a job left its node."""
        ended = {each.number: each.ended_at for each in await self._store.attempts(job.uuid)}
        return {number: self._clock.age(at or job.finished_at or job.committed_at) for number, at in ended.items()}
