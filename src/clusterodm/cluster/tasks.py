# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All tasks in memory: a cache of the store, and the only place that changes either."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from clusterodm.core.errors import StaleTask, TaskNotFound
from clusterodm.core.estimates import Pace
from clusterodm.core.tasks import ACTIVE, OWNER_MARK, Attempt, Outcome, Phase, Task, task_info, visible
from clusterodm.store import PROGRESS, Store

_log = structlog.get_logger("tasks")

#: Finished tasks that are kept in memory after somebody asked for them.
_KEEP_FINISHED: Final = 1000
_encode = msgspec.json.Encoder().encode


class Entry:
    """One task in memory, with what only matters while this process lives."""

    __slots__ = ("_info", "_info_of", "attempt", "last_activity", "lock", "misses", "task", "unreachable_since", "wait")

    def __init__(self, task: Task, attempt: Attempt | None = None) -> None:
        self.task = task
        self.attempt = attempt
        #: Why it waits in the queue.
        self.wait = ""
        #: Held while files are published and at the commit.
        self.lock = asyncio.Lock()
        self.last_activity = 0.0
        #: Since when (by a clock that nobody sets) its node does not answer, and how often in a row it denied it.
        self.unreachable_since = 0.0
        self.misses = 0
        self._info = b""
        self._info_of: Task | None = None

    def info(self) -> bytes:
        """The body of `/task/<uuid>/info`, made once for each change of the task."""
        if self._info_of is not self.task:
            self._info_of = self.task
            self._info = _encode(task_info(self.task))
        return self._info


class Tasks:
    """Tasks by uuid. Active ones are always in memory, finished ones when somebody asks."""

    def __init__(self, store: Store, clock: Callable[[], float], *, billed: bool = False) -> None:
        self._store = store
        self._billed = billed
        self._clock = clock
        self._active: dict[str, Entry] = {}
        self._finished: OrderedDict[str, Entry] = OrderedDict()
        self._watchers: list[Callable[[Entry], None]] = []
        self._dirty: set[str] = set()
        self.queued = 0
        #: How fast tasks went of late, and when (by a clock that nobody sets) that was looked up.
        self.pace: tuple[float, Pace] | None = None

    async def load(self) -> None:
        """Read all active tasks from the store."""
        for task, attempt in await self._store.active_tasks():
            self._active[task.uuid] = Entry(task, attempt)
        self._count()

    def watch(self, watcher: Callable[[Entry], None]) -> None:
        """Have `watcher(entry)` called after each change of a phase."""
        self._watchers.append(watcher)

    def active(self) -> Iterable[Entry]:
        """Entries of all active tasks."""
        return self._active.values()

    def get(self, uuid: str) -> Entry | None:
        """An entry that is in memory."""
        return self._active.get(uuid) or self._finished.get(uuid)

    async def find(self, uuid: str) -> Entry | None:
        """An entry in any phase, from memory or the store."""
        if entry := self.get(uuid):
            return entry
        found = await self._store.find_task(uuid)
        if entry := self.get(uuid):  # somebody else was faster
            return entry
        if found is None:
            return None
        entry = Entry(*found)
        if entry.task.phase is Phase.FINISHED:
            self._remember(entry)
        return entry

    async def require(self, uuid: str, owner: str) -> Entry:
        """A committed task of `owner`; raises TaskNotFound as for one that never was."""
        entry = self.get(uuid) or await self.find(uuid)
        if entry is None or entry.task.owner != owner or not visible(entry.task):
            raise TaskNotFound(f"{uuid[:100]} not found")
        return entry

    async def visible_ids(self, owner: str, *, limit: int, offset: int, listed_for: float) -> list[str]:
        """A page of an owner's tasks: those that are not over, latest commit first, then those that ended in the last
        `listed_for` seconds, latest end first."""
        mine = [entry.task for entry in self._active.values() if entry.task.owner == owner and visible(entry.task)]
        mine.sort(key=lambda task: (-task.committed_at, task.uuid))
        page = [task.uuid for task in mine[offset : offset + limit]]
        if len(page) < limit:
            since, skipped = self._clock() - listed_for, max(0, offset - len(mine))
            page += await self._store.ended_since(owner, since, limit=limit - len(page), offset=skipped)
        return page

    async def add(self, task: Task, text: str) -> Entry | None:
        """Keep a new task; None when its uuid is taken."""
        if not await self._store.add_task(task, text):
            return None
        entry = self._active[task.uuid] = Entry(task)
        self._changed(entry)
        return entry

    async def advance(
        self, entry: Entry, to: Phase, text: str, *, attempt: Attempt | None = None, **changes: Any
    ) -> None:
        """Take a task to another phase, in the store and then in memory, with what its node said last. Raises
        StaleTask."""
        if entry.task.uuid in self._dirty:
            self._dirty.discard(entry.task.uuid)
            changes = {name: getattr(entry.task, name) for name in PROGRESS} | changes
        if to is Phase.FINISHED:
            changes = self._due(entry.task) | changes
        await self._store.advance(entry.task, to, at=self._clock(), text=text, attempt=attempt, **changes)
        entry.task = msgspec.structs.replace(entry.task, phase=to, **changes)
        entry.attempt = attempt or entry.attempt
        _log.info(text, task=entry.task.uuid, phase=str(to))
        self._changed(entry)

    def _due(self, task: Task) -> dict[str, Any]:
        """Who is to be told that a task is over."""
        return {
            "finished_at": self._clock(),
            "webhook_due": bool(task.webhook),
            "billing_due": self._billed and OWNER_MARK not in task.owner,
        }

    async def finish(
        self, entry: Entry, outcome: Outcome, text: str, *, attempt: Attempt | None = None, **changes: Any
    ) -> None:
        """Take a task to FINISHED."""
        await self.advance(entry, Phase.FINISHED, text, attempt=attempt, outcome=outcome, **changes)

    async def change(self, entry: Entry, text: str = "", **changes: Any) -> None:
        """Change other columns than the phase. Raises StaleTask."""
        await self._store.change_task(entry.task, at=self._clock(), text=text, **changes)
        entry.task = msgspec.structs.replace(entry.task, **changes)

    async def note(self, entry: Entry, text: str) -> None:
        """Add a line to a task's timeline."""
        await self._store.note(entry.task, at=self._clock(), text=text)
        _log.info(text, task=entry.task.uuid)

    def progress(self, entry: Entry, **changes: Any) -> None:
        """Take note of what the node says; it reaches the store with the next `flush`."""
        if any(getattr(entry.task, name) != value for name, value in changes.items()):
            entry.task = msgspec.structs.replace(entry.task, **changes)
            self._dirty.add(entry.task.uuid)

    async def flush(self) -> None:
        """Keep all progress noted since the last time."""
        dirty, self._dirty = self._dirty, set()
        entries = (self._active.get(uuid) for uuid in dirty)
        await self._store.record_progress([entry.task for entry in entries if entry])

    async def change_attempt(self, entry: Entry, attempt: Attempt) -> None:
        """Keep a changed attempt of a task whose phase stays. Raises StaleTask when a newer attempt is known."""
        if entry.task.attempts != attempt.number:
            raise StaleTask(f"attempt {attempt.number} of task {attempt.task} is over")
        await self._store.change_attempt(attempt)
        entry.attempt = attempt

    def _changed(self, entry: Entry) -> None:
        uuid, phase = entry.task.uuid, entry.task.phase
        if phase in ACTIVE:
            self._finished.pop(uuid, None)
            self._active[uuid] = entry
        else:
            self._active.pop(uuid, None)
            self._finished.pop(uuid, None)
            if phase is Phase.FINISHED:
                self._remember(entry)
        self._count()
        for watcher in self._watchers:
            watcher(entry)

    def _remember(self, entry: Entry) -> None:
        self._finished[entry.task.uuid] = entry
        while len(self._finished) > _KEEP_FINISHED:
            self._finished.popitem(last=False)

    def _count(self) -> None:
        self.queued = sum(entry.task.phase is Phase.QUEUED for entry in self._active.values())
