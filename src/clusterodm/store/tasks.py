# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for tasks, their attempts and timelines.

Each is one transaction, durable when it returns (SQLite: WAL with an fsync at every commit).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Unpack

import msgspec
from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from clusterodm.core.changes import AttemptChanges, Progress, TaskChanges
from clusterodm.core.errors import StaleTask
from clusterodm.core.files import Manifest
from clusterodm.core.tasks import ACTIVE, Attempt, Cleanup, Event, Phase, Task, require_transition
from clusterodm.store import schema
from clusterodm.store.database import columns, plain, repeatable
from clusterodm.store.usage import UsageVerbs

#: A task with its latest attempt, if it has had one.
TaskAndAttempt = tuple[Task, Attempt | None]

#: Values in one list of a query.
_BATCH: Final = 500
#: Columns that follow what the node says.
PROGRESS: Final = tuple(Progress.__annotations__)


class TaskVerbs(UsageVerbs):
    """Tasks, attempts, timelines."""

    async def add_task(self, task: Task, text: str, *, attempt: Attempt | None = None) -> bool:
        """Keep a new task (with an attempt that is under way) and the first line of its timeline; False when the uuid
        is taken."""
        try:
            async with self._transaction() as connection:
                await connection.execute(insert(schema.tasks).values(columns(task, schema.tasks)))
                if attempt is not None:
                    await self._put_attempt(connection, attempt)
                await _add_event(connection, task.uuid, task.created_at, text)
                await self._tell(connection, "task", task.uuid)
        except IntegrityError:
            return False
        return True

    async def advance(
        self,
        task: Task,
        to: Phase,
        *,
        at: float,
        text: str,
        attempt: Attempt | None = None,
        was: Attempt | None = None,
        manifest: Manifest | None = None,
        **changes: Unpack[TaskChanges],
    ) -> int:
        """Take `task` from its phase to another, with `changes` of other columns, its attempt, what was accepted of it
        and a line for the timeline, all or nothing; its version after it. An attempt that ends is charged to the owner.
        Raises StaleTask when the stored phase, or the number of its attempts, is no longer that of `task`, or when the
        attempt is not in the stage of `was`, or was restarted since then."""
        require_transition(task.phase, to)
        async with self._transaction() as connection:
            version = await _change(connection, task, {**changes, "phase": to}, was)
            if attempt is not None:
                await self._put_attempt(connection, attempt)
            if manifest is not None:
                await self._put_manifest(connection, task.uuid, manifest)
            await _add_event(connection, task.uuid, at, text)
            await self._charge(connection, task, attempt)
            await self._tell(connection, "task", task.uuid)
        return version

    async def change_task(
        self,
        task: Task,
        *,
        at: float,
        text: str = "",
        attempt: Attempt | None = None,
        was: Attempt | None = None,
        manifest: Manifest | None = None,
        **changes: Unpack[TaskChanges],
    ) -> int:
        """Change columns, an attempt, and what was accepted, without leaving the phase; its version after it. Raises
        StaleTask like `advance`."""
        async with self._transaction() as connection:
            version = await _change(connection, task, changes, was)
            if attempt is not None:
                await self._put_attempt(connection, attempt)
            if manifest is not None:
                await self._put_manifest(connection, task.uuid, manifest)
            if text:
                await _add_event(connection, task.uuid, at, text)
            await self._tell(connection, "task", task.uuid)
        return version

    async def owned_by(self, prefix: str) -> dict[str, str]:
        """Owners that begin with `prefix`, by the uuid of their task."""
        table = schema.tasks.c
        query = select(table.uuid, table.owner).where(table.owner.startswith(prefix, autoescape=True))
        query = query.where(table.phase != str(Phase.REMOVED))
        return {row.uuid: row.owner for row in await self._read(query)}

    async def change_owner(self, uuid: str, was: str, owner: str, *, at: float) -> bool:
        """Give a task to another owner, in whatever phase it is; False when it is no longer that of `was`."""
        table = schema.tasks
        mine = update(table).where((table.c.uuid == uuid) & (table.c.owner == was))
        async with self._transaction() as connection:
            changed = await connection.execute(mine.values(owner=owner, version=table.c.version + 1))
            if changed.rowcount == 1:
                await _add_event(connection, uuid, at, f"claimed by {owner}")
                await self._tell(connection, "task", uuid)
        return changed.rowcount == 1

    async def note(self, task: Task, *, at: float, text: str) -> None:
        """Add a line to a task's timeline."""
        async with self._transaction() as connection:
            await _add_event(connection, task.uuid, at, text)

    async def record_progress(self, tasks: Iterable[Task]) -> dict[str, int]:
        """Keep what nodes said last of these tasks, in one transaction for all; their versions after it."""
        rows = [_progress_row(task) for task in tasks]
        versions: dict[str, int] = {}
        if not rows:
            return versions
        table = schema.tasks
        async with self._transaction() as connection:
            for row in rows:
                uuid = row.pop("uuid")
                change = update(table).where(table.c.uuid == uuid).values(row | {"version": table.c.version + 1})
                if (version := (await connection.execute(change.returning(table.c.version))).scalar()) is not None:
                    versions[uuid] = version
                    await self._tell(connection, "task", uuid)
        return versions

    async def find_task(self, uuid: str) -> TaskAndAttempt | None:
        """Return one task in any phase."""
        pairs = await self.find_tasks_by_uuid([uuid])
        return pairs[0] if pairs else None

    async def find_tasks_by_uuid(self, uuids: Sequence[str]) -> list[TaskAndAttempt]:
        """Return those of these tasks that exist, in any phase."""
        return await self._tasks(select(schema.tasks).where(schema.tasks.c.uuid.in_(uuids)))

    async def known_tasks(self, uuids: Sequence[str]) -> set[str]:
        """Return those of these uuids that belong to a task, readable or not."""
        present: set[str] = set()
        for start in range(0, len(uuids), _BATCH):
            present |= set(await self._uuids(schema.tasks.c.uuid.in_(uuids[start : start + _BATCH])))
        return present

    async def has_tasks(self) -> bool:
        """Return True if there is any task."""
        return bool(await self._uuids(schema.tasks.c.uuid.is_not(None), limit=1))

    async def unsent(self) -> int:
        """Return the number of queued tasks whose files must be held."""
        table = schema.tasks.c
        query = select(func.count()).where(table.phase == str(Phase.QUEUED), table.byte_count > 0)
        return int((await self._read(query)).scalar_one())

    async def versions(self, uuids: Sequence[str]) -> dict[str, int]:
        """Return the versions of those of these tasks that exist. One caller at a time."""
        if self.shared:
            return dict(await self._fetch("SELECT uuid, version FROM tasks WHERE uuid = ANY($1)", list(uuids)))
        table = schema.tasks.c
        query = select(table.uuid, table.version).where(table.uuid.in_(uuids))
        return {str(row[0]): int(row[1]) for row in await self._read(query)}

    async def active_tasks(self) -> list[TaskAndAttempt]:
        """Return all active tasks, oldest commit first. Unreadable ones are set aside."""
        query = select(schema.tasks).where(schema.tasks.c.phase.in_([str(phase) for phase in ACTIVE]))
        return await self._tasks(query.order_by(schema.tasks.c.committed_at))

    async def look_for_unknown_phases(self) -> None:
        """Set tasks of unknown phases aside: no other query finds them."""
        phases = [str(phase) for phase in Phase]
        await self._tasks(select(schema.tasks).where(schema.tasks.c.phase.not_in(phases)))

    async def ended_since(self, owner: str, since: float, *, limit: int, offset: int) -> list[str]:
        """Return the uuids of an owner's finished tasks that ended after `since`, latest end first."""
        table = schema.tasks.c
        query = (
            select(table.uuid)
            .where(table.owner == owner, table.finished_at > since, table.phase == str(Phase.FINISHED))
            .order_by(table.finished_at.desc(), table.uuid)
        )
        return list((await self._read(query.limit(limit).offset(offset))).scalars())

    async def ended_before(self, at: float, *, limit: int) -> list[TaskAndAttempt]:
        """Return finished tasks that ended before `at`, longest ago first."""
        table = schema.tasks.c
        query = select(schema.tasks).where(table.phase == str(Phase.FINISHED), table.finished_at < at)
        return await self._tasks(query.order_by(table.finished_at).limit(limit))

    async def jobs(self) -> list[str]:
        """Return the uuids of split-merge jobs that have submodels."""
        table = schema.tasks.c
        has_job = (table.job != "") & (table.phase != str(Phase.REMOVED))
        return list((await self._read(select(table.job).where(has_job).distinct())).scalars())

    async def submodels(self, job: str, *, limit: int, besides: int | None = None) -> list[Task]:
        """Return submodels of a split-merge job, except those of attempt `besides`; first those that are not over."""
        table = schema.tasks.c
        query = select(schema.tasks).where(table.job == job, table.job != "", table.phase != str(Phase.REMOVED))
        query = query if besides is None else query.where(table.job_attempt != besides)
        rows = (await self._read(query.order_by(table.finished_at).limit(limit))).mappings().all()
        return [task for row in rows if (task := self.aside.task(row)) is not None]

    async def webhooks_due(self) -> list[str]:
        """Return the uuids of tasks whose webhook is still to be called."""
        return await self._uuids(schema.tasks.c.webhook_due)

    async def unreported(self) -> list[str]:
        """Return the uuids of ended or removed tasks that are still to be reported to the accounting service."""
        return await self._uuids(schema.tasks.c.billing_due)

    async def removed(self, *, limit: int, after: str = "") -> list[tuple[str, str]]:
        """Removed tasks of which nothing is left to be done, those after a uuid: their uuids in order, and the provider
        in whose bucket their results are."""
        table = schema.tasks.c
        pending = select(schema.attempts.c.task).where(schema.attempts.c.cleanup != str(Cleanup.NONE))
        forgettable = (table.phase == str(Phase.REMOVED)) & table.uuid.not_in(pending) & ~table.billing_due
        query = (
            select(table.uuid, table.results_in)
            .where(forgettable, table.uuid > after)
            .order_by(table.uuid)
            .limit(limit)
        )
        return [(uuid, results_in) for uuid, results_in in (await self._read(query)).all()]

    async def forget(self, uuids: list[str]) -> None:
        """Delete removed tasks with their attempts and timelines."""
        removed = (schema.tasks.c.phase == str(Phase.REMOVED)) & schema.tasks.c.uuid.in_(uuids)
        async with self._transaction() as connection:
            await connection.execute(delete(schema.tasks).where(removed))

    async def manifest(self, uuid: str) -> Manifest | None:
        """Return the accepted files of a task; None if they were not stored."""
        table = schema.manifests.c
        query = select(schema.manifests).where(table.task == uuid)
        row = (await self._read(query)).mappings().one_or_none()
        manifests = self.aside.records([row], Manifest, "manifests", "task") if row is not None else []
        return manifests[0] if manifests else None

    async def timeline(self, uuid: str) -> list[Event]:
        """Return a task's timeline, oldest line first; times never decrease, even if the clock was set back."""
        table = schema.events
        query = select(table).where(table.c.task == uuid).order_by(table.c.id)
        rows = (await self._read(query)).mappings().all()
        events = self.aside.records(rows, Event, "events", "id")
        ordered = accumulate((event.at for event in events), max)
        return [msgspec.structs.replace(event, at=at) for event, at in zip(events, ordered, strict=True)]

    # Attempts

    async def attempts(self, uuid: str) -> list[Attempt]:
        """Return all attempts of a task, first to last."""
        table = schema.attempts
        return await self._attempts(select(table).where(table.c.task == uuid).order_by(table.c.number))

    async def attempts_to_clean(self) -> list[Attempt]:
        """Return attempts whose node still has to cancel or remove something."""
        table = schema.attempts
        return await self._attempts(select(table).where(table.c.cleanup != str(Cleanup.NONE)))

    async def change_attempt(self, was: Attempt, **changes: Unpack[AttemptChanges]) -> tuple[Attempt, int]:
        """Update an attempt without a phase change; return it, and the version of its task. Raises StaleTask if its
        stage, sender or cleanup has changed since `was` was read."""
        table = schema.attempts
        condition = (table.c.task == was.task) & (table.c.number == was.number)
        for name in ("stage", "sender", "cleanup"):
            condition &= table.c[name] == str(getattr(was, name))
        row = {key: plain(value) for key, value in changes.items()}
        newer = update(schema.tasks).where(schema.tasks.c.uuid == was.task)
        async with self._transaction() as connection:
            # the task before its attempt, as everybody does: two who went opposite ways would wait for each other
            newer = newer.values(version=schema.tasks.c.version + 1).returning(schema.tasks.c.version)
            version = (await connection.execute(newer)).scalar()
            if (await connection.execute(update(table).where(condition).values(row))).rowcount != 1:
                raise StaleTask(f"attempt {was.number} of task {was.task} is no longer {was.stage}")
            await self._tell(connection, "task", was.task)
        return msgspec.structs.replace(was, **changes), int(version or 0)

    # Inside

    async def _uuids(self, where: ColumnElement[bool], *, limit: int | None = None) -> list[str]:
        query = select(schema.tasks.c.uuid).where(where).limit(limit)
        return list((await self._read(query)).scalars())

    async def _put_attempt(self, connection: AsyncConnection, attempt: Attempt) -> None:
        row = columns(attempt, schema.attempts)
        changed = {key: value for key, value in row.items() if key not in ("task", "number")}
        statement = self._insert(schema.attempts).values(row)
        await connection.execute(statement.on_conflict_do_update(index_elements=["task", "number"], set_=changed))

    async def _put_manifest(self, connection: AsyncConnection, uuid: str, manifest: Manifest) -> None:
        row = columns(manifest, schema.manifests)
        statement = self._insert(schema.manifests).values(row | {"task": uuid})
        await connection.execute(statement.on_conflict_do_update(index_elements=["task"], set_=row))

    async def _attempts(self, query: Select[Any]) -> list[Attempt]:
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, Attempt, "attempts", "task", "number")

    @repeatable
    async def _tasks(self, query: Select[Any]) -> list[TaskAndAttempt]:
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
            tasks = [task for row in rows if (task := self.aside.task(row)) is not None]
            latest = await self._latest_attempts(connection, tasks)
        pairs = [(task, latest.get(task.uuid)) for task in tasks]
        return [(task, attempt) for task, attempt in pairs if not self.aside.without_attempt(task, attempt)]

    async def _latest_attempts(self, connection: AsyncConnection, tasks: Sequence[Task]) -> dict[str, Attempt]:
        table = schema.attempts
        latest: dict[str, Attempt] = {}
        tried = [task.uuid for task in tasks if task.attempts]
        for start in range(0, len(tried), _BATCH):
            query = select(table).where(table.c.task.in_(tried[start : start + _BATCH])).order_by(table.c.number)
            rows = (await connection.execute(query)).mappings().all()
            for attempt in self.aside.records(rows, Attempt, "attempts", "task", "number"):
                latest[attempt.task] = attempt
        return latest


async def _change(connection: AsyncConnection, task: Task, changes: Mapping[str, Any], was: Attempt | None) -> int:
    table = schema.tasks
    row = {key: plain(value) for key, value in changes.items()} | {"version": table.c.version + 1}
    condition = (table.c.uuid == task.uuid) & (table.c.phase == str(task.phase)) & (table.c.attempts == task.attempts)
    version = (await connection.execute(update(table).where(condition).values(row).returning(table.c.version))).scalar()
    if version is None:
        raise StaleTask(f"task {task.uuid} is no longer {task.phase} in attempt {task.attempts}")
    if was is not None:  # a restart on its node keeps the number
        rows = schema.attempts.c
        same = (rows.stage == str(was.stage)) & (rows.started_at == was.started_at)
        query = select(rows.number).where(rows.task == was.task, rows.number == was.number, same)
        if (await connection.execute(query)).first() is None:
            raise StaleTask(f"attempt {was.number} of task {was.task} is no longer {was.stage}, or was restarted")
    return int(version)


async def _add_event(connection: AsyncConnection, uuid: str, at: float, text: str) -> None:
    await connection.execute(insert(schema.events).values(task=uuid, at=at, text=text))


def _progress_row(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in ("uuid", *PROGRESS)}
