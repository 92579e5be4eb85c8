# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for history: pages of tasks, attempts by node, figures of the past."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select

from clusterodm.core.tasks import DISCARDED, Attempt, Outcome, Phase, Stage, Task
from clusterodm.store import schema
from clusterodm.store.database import Database


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks: all that match everything that is given."""

    phases: list[Phase] = []
    outcome: Outcome | None = None
    owner: str = ""
    #: The beginning of a uuid, or a part of a name.
    text: str = ""
    #: The node of the latest attempt.
    node_id: int | None = None


class PastAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt with what its task is called and how that ended. Times are seconds since the epoch."""

    task: str
    number: int
    node_name: str
    stage: str
    started_at: float
    ended_at: float
    reason: str
    name: str
    phase: Phase
    outcome: Outcome | None
    image_count: int
    finished_at: float
    #: How many attempts the task has had.
    attempts: int


class EndedTask(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one task that ended. Times are seconds since the epoch; `first_started` is 0 without an attempt."""

    uuid: str
    outcome: Outcome
    committed_at: float
    finished_at: float
    image_count: int
    processing_time: int
    first_started: float


class HistoryVerbs(Database):
    """Reads for operators; all bounded."""

    async def find_tasks(self, wanted: TaskFilter, *, limit: int, offset: int = 0) -> list[Task]:
        """A page of tasks, latest commit first (those that still receive files before all)."""
        table = schema.tasks
        query = select(table).where(*_where(wanted))
        order = (table.c.committed_at > 0, table.c.committed_at.desc(), table.c.created_at.desc(), table.c.uuid)
        query = query.order_by(*order).limit(limit).offset(offset)
        rows = (await self._read(query)).mappings().all()
        return [task for row in rows if (task := self.aside.shown_task(row)) is not None]

    async def count_tasks(self, wanted: TaskFilter) -> int:
        """Return the number of matching tasks."""
        query = select(func.count()).select_from(schema.tasks).where(*_where(wanted))
        return int((await self._read(query)).scalar_one())

    async def count_ended(self) -> dict[str, int]:
        """How many tasks ended how, as long as they are kept."""
        table = schema.tasks.c
        query = select(table.outcome, func.count()).where(table.phase == str(Phase.FINISHED)).group_by(table.outcome)
        return {str(outcome): count for outcome, count in (await self._read(query)).all()}

    async def attempts_since(self, since: float, *, limit: int) -> list[PastAttempt]:
        """Return attempts that were in progress at any time after `since`, latest start first."""
        tries, tasks = schema.attempts.c, schema.tasks.c
        task_columns = (tasks.name, tasks.phase, tasks.outcome, tasks.image_count, tasks.finished_at, tasks.attempts)
        attempt_columns = [tries.task, tries.number, tries.node_name, tries.stage]
        attempt_columns += [tries.started_at, tries.ended_at, tries.reason]
        over = _ended()
        query = (
            select(*attempt_columns, *task_columns)
            .join_from(schema.attempts, schema.tasks, tries.task == tasks.uuid)
            .where(or_(over == 0, over >= since), tasks.phase != str(Phase.REMOVED))
            .where(tries.stage != str(Stage.PREFETCHING), tries.reason != DISCARDED)
            .order_by(tries.started_at.desc())
            .limit(limit)
        )
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, PastAttempt, "attempts", "task", "number")

    async def ended_tasks(self, since: float, *, limit: int) -> list[EndedTask]:
        """Return figures of tasks that ended after `since`, latest end first."""
        tasks, tries = schema.tasks.c, schema.attempts.c
        tried = and_(tries.task == tasks.uuid, tries.reason != DISCARDED)
        first = select(func.min(tries.started_at)).where(tried).correlate(schema.tasks).scalar_subquery()
        shown = (tasks.uuid, tasks.outcome, tasks.committed_at, tasks.finished_at, tasks.image_count)
        query = (
            select(*shown, tasks.processing_time, func.coalesce(first, 0.0).label("first_started"))
            .where(tasks.phase == str(Phase.FINISHED), tasks.finished_at > since)
            .order_by(tasks.finished_at.desc())
            .limit(limit)
        )
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, EndedTask, "tasks", "uuid")

    async def completed_on(self, node_id: int, *, limit: int, offset: int) -> list[str]:
        """Uuids of completed tasks whose results are, or were, on this node."""
        tasks, tries = schema.tasks.c, schema.attempts.c
        latest = and_(tries.task == tasks.uuid, tries.number == tasks.attempts)
        query = (
            select(tasks.uuid)
            .join_from(schema.tasks, schema.attempts, latest)
            .where(tries.node_id == node_id, tasks.outcome == str(Outcome.COMPLETED))
            .where(tasks.phase == str(Phase.FINISHED))
            .order_by(tasks.uuid)
            .limit(limit)
            .offset(offset)
        )
        return list((await self._read(query)).scalars())

    async def last_attempts(self, uuids: Iterable[str]) -> dict[str, Attempt]:
        """The latest attempt of each of these tasks that has had one."""
        table = schema.attempts
        query = select(table).where(table.c.task.in_(list(uuids))).order_by(table.c.number)
        rows = (await self._read(query)).mappings().all()
        attempts = self.aside.records(rows, Attempt, "attempts", "task", "number")
        return {attempt.task: attempt for attempt in attempts}


def _ended() -> ColumnElement[float]:
    """When an attempt was over: its own end, or that of a task that ended in good order; 0: it goes on."""
    tries, tasks = schema.attempts.c, schema.tasks.c
    return case((tries.ended_at > 0, tries.ended_at), else_=tasks.finished_at)


def _where(wanted: TaskFilter) -> list[ColumnElement[bool]]:
    table = schema.tasks.c
    conditions: list[ColumnElement[bool]] = [table.phase != str(Phase.REMOVED)]
    if wanted.phases:
        conditions.append(table.phase.in_([str(phase) for phase in wanted.phases]))
    if wanted.outcome is not None:
        conditions.append(table.outcome == str(wanted.outcome))
    if wanted.owner:
        conditions.append(table.owner == wanted.owner)
    if wanted.text:
        begins = table.uuid.startswith(wanted.text.lower(), autoescape=True)
        conditions.append(or_(begins, table.name.icontains(wanted.text, autoescape=True)))
    if wanted.node_id is not None:
        tries = schema.attempts.c
        on_node = and_(tries.task == table.uuid, tries.number == table.attempts, tries.node_id == wanted.node_id)
        conditions.append(exists().where(on_node))
    return conditions
