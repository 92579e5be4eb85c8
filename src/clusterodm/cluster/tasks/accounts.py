# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Accounting with a service that knows the owners: each task is approved once before it goes to a node, and reported
once when it is over. While the service is down, tasks wait and reports are repeated.

Submodels of a split-merge job belong to a task that was approved with all its images: they are neither approved nor
reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from clusterodm.aio import chance
from clusterodm.auth import Authenticator
from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import BadRequest, ServiceDown, StaleTask
from clusterodm.core.tasks import OWNER_MARK, Outcome, Phase, Task, has_results, task_info

_log = structlog.get_logger("accounts")

#: Tries (some minutes, with the back-off of the queue) after which a report is repeated at long intervals only.
_TRIES: Final = 10
_LONG_PAUSES: Final = Backoff(first=600.0, longest=600.0)
#: Seconds after which a report is given up.
_GIVE_UP: Final = 7 * 86400.0
_OVER: Final = (Phase.FINISHED, Phase.REMOVED)
#: Seconds between two checks for a task's images to be fetched.
_CHECK: Final = 1.0


@dataclass(kw_only=True, slots=True, eq=False)
class Accounts:
    """Approve and report tasks."""

    state: ClusterState
    authenticator: Authenticator
    runtime: Runtime
    _tries: dict[str, int] = field(init=False, default_factory=dict)
    _queue: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "accounts",
            self._settle,
            "has tasks approved, and reports their ends, where a service knows the owners",
            keys=self._keys,
            concurrency=20,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.tasks.watch(self._task_changed)

    async def _keys(self) -> list[str]:
        unapproved = [entry.task.uuid for entry in self.state.tasks.active() if _is_due(entry.task)]
        return [*unapproved, *await self.state.store.unreported()]

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    async def approved(self, task: Task, images: int) -> bool:
        """Return True if a task with this many images is approved, False if that is asked again later. Raises
        BadRequest when it is refused."""
        if not self.authenticator.billing or OWNER_MARK in task.owner:
            return True
        if task.zipurl:
            return False
        try:
            refused = await self.authenticator.approve(task.owner, images)
        except ServiceDown as error:
            _log.warning("approval deferred", task=task.uuid, error=str(error))
            return False
        if refused:
            raise BadRequest(refused, no_retry=True)
        return True

    def _task_changed(self, entry: Entry) -> None:
        if _is_due(entry.task):
            self._queue.put(entry.task.uuid)

    async def _settle(self, uuid: str) -> float | None:
        entry = await self.state.tasks.find(uuid)
        try:
            if entry is not None and entry.task.phase is Phase.QUEUED and entry.task.approval_due:
                return await self._approve(entry)
            if entry is not None and entry.task.billing_due and entry.task.phase in _OVER:
                return await self._report(entry)
        except StaleTask as stale:
            _log.info("accounting superseded", task=uuid, why=str(stale))
            return _CHECK
        self._tries.pop(uuid, None)
        return None

    async def _approve(self, entry: Entry) -> float | None:
        task = entry.task
        if task.zipurl:
            return _CHECK
        refused = await self.authenticator.approve(task.owner, task.image_count)
        if refused:
            text = f"not approved: {refused}"
            await self.state.tasks.finish(
                entry, Outcome.FAILED, text, error=refused, approval_due=False, billing_due=False
            )
        else:
            await self.state.tasks.change(entry, "approved", approval_due=False)
        return None

    async def _report(self, entry: Entry) -> float | None:
        task = entry.task
        count = self._tries[task.uuid] = self._tries.get(task.uuid, 0) + 1
        text = "reported to the service that knows its owner"
        try:
            await self.authenticator.finished(task.owner, task_info(_as_reported(entry)))
        except ServiceDown as error:
            if count < _TRIES:
                raise
            if self.runtime.clock.age(task.finished_at) < _GIVE_UP:
                return _LONG_PAUSES.wait(count, chance())
            text = f"never reported to the service that knows its owner: {error}"
        self._tries.pop(task.uuid, None)
        await self.state.tasks.change(entry, text, billing_due=False)
        return None


def _as_reported(entry: Entry) -> Task:
    """Return a task canceled after completion as completed: its owner has the results."""
    delivered = has_results(entry.task, entry.attempt)
    return msgspec.structs.replace(entry.task, outcome=Outcome.COMPLETED) if delivered else entry.task


def _is_due(task: Task) -> bool:
    return task.billing_due or (task.phase is Phase.QUEUED and task.approval_due)
