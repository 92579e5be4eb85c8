# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All tasks in memory: a cache of the store, and the only writer of both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, Unpack

import msgspec
import structlog

from clusterodm.aio import Clock, Observers
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.freshness import Freshness
from clusterodm.cluster.state.locks import TaskLocks
from clusterodm.core.changes import AttemptChanges, Progress, TaskChanges
from clusterodm.core.errors import StaleTask, TaskNotFound
from clusterodm.core.estimates import Pace
from clusterodm.core.files import Manifest
from clusterodm.core.tasks import ACTIVE, OWNER_MARK, Attempt, OnNode, Outcome, Phase, Task, visible
from clusterodm.store import Store

_log = structlog.get_logger("tasks")

#: Finished tasks that are kept in memory after they were read.
_KEEP_FINISHED: Final = 1000
#: Tasks per query of a refresh.
_BATCH: Final = 500


class Tasks:
    """Tasks by uuid. Active ones are always in memory, finished ones once they are read."""

    def __init__(self, store: Store, clock: Clock, *, billed: bool = False) -> None:
        self._store = store
        self._billed = billed
        self._clock = clock
        self._active: dict[str, Entry] = {}
        self._finished: OrderedDict[str, Entry] = OrderedDict()
        self.observers: Observers[[Entry]] = Observers()
        self._dirty: set[str] = set()
        self._queued: set[str] = set()
        self.locks = TaskLocks(store, clock, self._refresh_known)
        self.freshness = Freshness(self._read_newer, clock)
        #: True if other processes change tasks, too.
        self.others = store.shared
        #: The recent pace of tasks, and when (monotonic) it was measured.
        self.pace: tuple[float, Pace] | None = None

    async def load(self) -> None:
        """Load all active tasks from the store; those whose rows cannot be read are set aside."""
        await self._store.look_for_unknown_phases()
        for task, attempt in await self._store.active_tasks():
            self._active[task.uuid] = Entry(task, attempt)
            if task.phase is Phase.QUEUED:
                self._queued.add(task.uuid)

    @property
    def queued(self) -> int:
        """Return how many tasks wait for a slot."""
        return len(self._queued)

    def any_queued(self, *, besides: Collection[str]) -> bool:
        """True if a task other than these waits for a slot."""
        return any(uuid not in besides for uuid in self._queued)

    @property
    def none_active(self) -> bool:
        """True if no task is active."""
        return not self._active

    # What other processes change

    async def reload(self) -> None:
        """Reload all that is in memory, or should be."""
        stored = await self._store.active_tasks()
        for pair in stored:
            self._apply(*pair)
        active = {task.uuid for task, _ in stored}
        await self.refresh([uuid for uuid in [*self._active, *self._finished] if uuid not in active])

    async def refresh(self, uuids: Iterable[str]) -> None:
        """Reload some tasks."""
        pending = list(uuids)
        for start in range(0, len(pending), _BATCH):
            batch = pending[start : start + _BATCH]
            stored = await self._store.find_tasks_by_uuid(batch)
            for pair in stored:
                self._apply(*pair)
            for uuid in set(batch) - {task.uuid for task, _ in stored} - self._store.aside.tasks.keys():
                self._forgotten(uuid)

    async def _refresh_known(self, uuid: str) -> None:
        """Reload a task that is in memory."""
        if uuid in self:
            await self.refresh([uuid])

    async def _read_newer(self, uuids: set[str]) -> None:
        """Reload those of these tasks that are newer in the store than in memory."""
        versions = await self._store.versions(list(uuids))
        await self.refresh(uuid for uuid in uuids if self._is_older(uuid, versions.get(uuid)))

    def _is_older(self, uuid: str, version: int | None) -> bool:
        entry = self.get(uuid)
        return entry is not None and (version is None or version > entry.task.version)

    def _apply(self, task: Task, attempt: Attempt | None) -> None:
        """Apply a stored state unless memory has a newer one."""
        entry = self.get(task.uuid)
        if entry is None:
            self._changed(Entry(task, attempt))
            return
        if task.version <= entry.task.version:
            return
        if task.uuid in self._dirty and task.phase is entry.task.phase:
            task = msgspec.structs.replace(task, **_progress(entry.task))
        before, entry.task = (entry.task, entry.attempt), task
        entry.attempt = attempt
        if (before[0].phase, before[0].attempts, before[1]) != (task.phase, task.attempts, attempt):
            self._changed(entry)

    def _forgotten(self, uuid: str) -> None:
        """Note that the store no longer has a task."""
        entry = self.get(uuid)
        if entry is not None:
            entry.task = msgspec.structs.replace(entry.task, phase=Phase.REMOVED)
            self._changed(entry)

    async def known(self, uuid: str) -> Entry | None:
        """Return an active task, from the store if another process created it."""
        if self._store.shared and self.get(uuid) is None:
            await self.refresh([uuid])
        return self.get(uuid)

    def watch(self, watcher: Callable[[Entry], None]) -> None:
        """Call `watcher(entry)` after each change of a phase or of the attempt."""
        self.observers.add(watcher)

    def active(self) -> Iterable[Entry]:
        """Return the entries of all active tasks."""
        return self._active.values()

    def on_nodes(self) -> Iterator[OnNode]:
        """Yield all tasks that are on a node or on their way there."""
        return (on_node for entry in self._active.values() if (on_node := entry.on_node))

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._active or uuid in self._finished

    def get(self, uuid: str) -> Entry | None:
        """Return an entry that is in memory."""
        return self._active.get(uuid) or self._finished.get(uuid)

    async def find(self, uuid: str) -> Entry | None:
        """Return an entry in any phase, from memory or the store."""
        if entry := self.get(uuid):
            return entry
        stored = await self._store.find_task(uuid)
        if entry := self.get(uuid):  # another call was faster
            return entry
        if stored is None:
            aside = self._store.aside.tasks.get(uuid)
            return None if aside is None else Entry(aside.task, aside.attempt, aside=aside.why)
        entry = Entry(*stored)
        if entry.task.phase is Phase.FINISHED:
            self._remember(entry)
        return entry

    async def require(self, uuid: str, owner: str) -> Entry:
        """Return a committed task of `owner`. Raises TaskNotFound, also for the tasks of others."""
        if self.others and uuid in self:
            await self.freshness.check(uuid)
        entry = self.get(uuid) or await self.find(uuid)
        if self._store.shared and entry is not None and entry.task.phase is Phase.RECEIVING:
            await self.refresh([uuid])  # the store may not have answered in time, and another process accepted it
        if entry is None or entry.task.owner != owner or not visible(entry.task):
            raise TaskNotFound(f"{uuid[:100]} not found")
        return entry

    async def visible_ids(self, owner: str, *, limit: int, offset: int, listed_for: float) -> list[str]:
        """Return a page of an owner's tasks: active ones by latest commit, then those that ended in the last
        `listed_for` seconds by latest end."""
        aside = [each.task for each in self._store.aside.tasks.values() if each.task.phase is not Phase.FINISHED]
        tasks = [*(entry.task for entry in self._active.values()), *aside]
        mine = [task for task in tasks if task.owner == owner and visible(task)]
        mine.sort(key=lambda task: (-task.committed_at, task.uuid))
        page = [task.uuid for task in mine[offset : offset + limit]]
        if len(page) < limit:
            since, skipped = self._clock() - listed_for, max(0, offset - len(mine))
            ended = await self._store.ended_since(owner, since, limit=limit - len(page), offset=skipped)
            active = {task.uuid for task in mine}
            page += [uuid for uuid in ended if uuid not in active]  # one may have ended meanwhile
        return page

    async def add(self, task: Task, text: str) -> Entry | None:
        """Store a new task; return None if its uuid is taken."""
        if not await self._store.add_task(task, text):
            return None
        entry = self._active[task.uuid] = Entry(task)
        self._changed(entry)
        return entry

    async def advance(
        self,
        entry: Entry,
        to: Phase,
        text: str,
        *,
        attempt: Attempt | None = None,
        was: Attempt | None = None,
        manifest: Manifest | None = None,
        **changes: Unpack[TaskChanges],
    ) -> None:
        """Change the phase of a task, in the store and then in memory, together with its latest progress. `was`: the
        attempt that the change was decided on, if not that in memory. Raises StaleTask, and BadRequest for one that is
        set aside."""
        entry.require_readable()
        if entry.task.uuid in self._dirty:
            self._dirty.discard(entry.task.uuid)
            changes = {**_progress(entry.task), **changes}
        if to is Phase.FINISHED:
            changes = self._due(entry.task, attempt or entry.attempt) | changes
        before, now, was = entry.task, self._clock(), was or _overwritten(entry, attempt)
        try:
            version = await self._store.advance(
                before, to, at=now, text=text, attempt=attempt, was=was, manifest=manifest, **changes
            )
        except StaleTask:
            await self._catch_up(entry)
            raise
        entry.attempt = attempt or entry.attempt
        await self._apply_stored(entry, before, version, to, changes)
        _log.info(text, task=entry.task.uuid, phase=str(to))
        self._changed(entry)

    async def _apply_stored(self, entry: Entry, was: Task, version: int, phase: Phase, changes: TaskChanges) -> None:
        """Apply a stored change. If another process made one before it that was not read yet, read that, too."""
        missed = version != was.version + 1
        version = was.version if missed else version
        entry.task = msgspec.structs.replace(entry.task, **changes, phase=phase, version=version)
        if missed:
            await self._catch_up(entry)

    async def _catch_up(self, entry: Entry) -> None:
        if self._store.shared:
            await self.refresh([entry.task.uuid])

    def _due(self, task: Task, attempt: Attempt | None) -> TaskChanges:
        """Return the end of a task and the reports that are due. No task ends before it began, whatever the clock."""
        began = attempt.started_at if attempt is not None else 0.0
        return {
            "finished_at": max(self._clock(), task.committed_at, began),
            "webhook_due": bool(task.webhook),
            "billing_due": self._billed and OWNER_MARK not in task.owner,
        }

    async def finish(
        self,
        entry: Entry,
        outcome: Outcome,
        text: str,
        /,
        *,
        attempt: Attempt | None = None,
        was: Attempt | None = None,
        **changes: Unpack[TaskChanges],
    ) -> None:
        """Finish a task."""
        changes["outcome"] = outcome
        await self.advance(entry, Phase.FINISHED, text, attempt=attempt, was=was, **changes)

    async def change(
        self,
        entry: Entry,
        text: str = "",
        *,
        attempt: Attempt | None = None,
        was: Attempt | None = None,
        manifest: Manifest | None = None,
        **changes: Unpack[TaskChanges],
    ) -> None:
        """Change columns other than the phase, or the attempt. Raises StaleTask, and BadRequest for one that is set
        aside."""
        entry.require_readable()
        before, now, was = entry.task, self._clock(), was or _overwritten(entry, attempt)
        try:
            version = await self._store.change_task(
                before, at=now, text=text, attempt=attempt, was=was, manifest=manifest, **changes
            )
        except StaleTask:
            await self._catch_up(entry)
            raise
        entry.attempt = attempt or entry.attempt
        await self._apply_stored(entry, before, version, entry.task.phase, changes)
        if attempt is not None:
            self._changed(entry)

    async def change_owner(self, uuid: str, was: str, owner: str) -> None:
        """Move a task from owner `was` to another one, whatever else happens to it at the same time."""
        changed = await self._store.change_owner(uuid, was, owner, at=self._clock())
        entry = self.get(uuid)
        if entry is not None and changed:
            entry.task = msgspec.structs.replace(entry.task, owner=owner)
            await self._catch_up(entry)

    async def note(self, entry: Entry, text: str, *, warning: bool = False) -> None:
        """Add a line to a task's timeline, and to the log."""
        await self._store.note(entry.task, at=self._clock(), text=text)
        (_log.warning if warning else _log.info)(text, task=entry.task.uuid)

    def progress(self, entry: Entry, **changes: Unpack[Progress]) -> None:
        """Note the progress that a node reports; it reaches the store with the next `flush`."""
        if any(getattr(entry.task, name) != value for name, value in changes.items()):
            entry.task = msgspec.structs.replace(entry.task, **changes)
            self._dirty.add(entry.task.uuid)

    async def flush(self) -> None:
        """Store all progress noted since the last flush."""
        dirty, self._dirty = self._dirty, set()
        entries = {uuid: entry for uuid in dirty if (entry := self._active.get(uuid))}
        was = {uuid: entry.task.version for uuid, entry in entries.items()}
        versions = await self._store.record_progress([entry.task for entry in entries.values()])
        for uuid, version in versions.items():
            entry = entries[uuid]
            if version == was[uuid] + 1 and entry.task.version == was[uuid]:
                entry.task = msgspec.structs.replace(entry.task, version=version)
            else:
                await self._catch_up(entry)

    async def change_attempt(self, entry: Entry, was: Attempt, **changes: Unpack[AttemptChanges]) -> Attempt:
        """Update an attempt without a phase change; return it. Raises StaleTask when it is over, or changed
        meanwhile."""
        if entry.task.attempts != was.number:
            raise StaleTask(f"attempt {was.number} of task {was.task} is over")
        try:
            attempt, version = await self._store.change_attempt(was, **changes)
        except StaleTask:
            await self._catch_up(entry)
            raise
        entry.attempt = attempt
        if version == entry.task.version + 1:  # a read that began before must not put the old attempt back
            entry.task = msgspec.structs.replace(entry.task, version=version)
        elif version > entry.task.version:  # others changed the task, too
            await self._catch_up(entry)
        return attempt

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
        (self._queued.add if phase is Phase.QUEUED else self._queued.discard)(uuid)
        self.observers.tell(entry)

    def _remember(self, entry: Entry) -> None:
        self._finished[entry.task.uuid] = entry
        while len(self._finished) > _KEEP_FINISHED:
            self._finished.popitem(last=False)


def _overwritten(entry: Entry, attempt: Attempt | None) -> Attempt | None:
    """Return the attempt in memory that `attempt` takes the place of."""
    was = entry.attempt
    return was if was is not None and attempt is not None and was.number == attempt.number else None


def _progress(task: Task) -> Progress:
    return Progress(
        progress=task.progress,
        processing_time=task.processing_time,
        node_code=task.node_code,
        added_options=task.added_options,
    )
