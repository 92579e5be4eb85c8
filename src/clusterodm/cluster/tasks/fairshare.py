# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Node usage of owners in memory: a cache of the store that follows each task to and from its node."""

from __future__ import annotations

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.fairness import Ledger, Usage, length, payer
from clusterodm.core.tasks import ON_NODE, Stage
from clusterodm.store import Store


class FairShare:
    """Account for what owners use; it decides whose turn is next."""

    def __init__(self, store: Store, tasks: Tasks, *, ageing: float, clock: Clock) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock
        #: Seconds of waiting that count as a step of priority.
        self.ageing = ageing
        self._ledger = Ledger()
        #: When the attempt of each task on a node began.
        self._began: dict[str, float] = {}
        tasks.watch(self._task_changed)

    async def load(self) -> None:
        """Reload usage from the store: other replicas may have ended attempts, too."""
        self._ledger = Ledger(await self._store.accounts())
        self._began = {}
        for entry in self._tasks.active():
            self._task_changed(entry)

    def usage(self) -> Usage:
        """Return the usage up to now."""
        return Usage(self._ledger.remaining(self._clock()), self._began)

    def _task_changed(self, entry: Entry) -> None:
        task, attempt = entry.task, entry.attempt
        if task.phase in ON_NODE:
            if attempt is not None:
                self._began[task.uuid] = attempt.started_at
            return
        began = self._began.pop(task.uuid, None)
        if began is not None and attempt is not None and attempt.stage is Stage.ENDED:
            self._ledger.charge(payer(task.owner), length(began, attempt.ended_at), attempt.ended_at)
