# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Records from rows. An unreadable row is set aside and affects no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
import structlog

from clusterodm.core.nodes import NodeAddress, NodeRecord
from clusterodm.core.tasks import ON_NODE, Attempt, Outcome, Phase, Task

Record = TypeVar("Record", bound=msgspec.Struct)
Row = Mapping[Any, Any]

_log = structlog.get_logger("store")

_ADDRESS: Final = NodeAddress.__struct_fields__
_LONGEST: Final = 300


class MalformedJson:
    """The placeholder for malformed content of a JSON column."""


class TaskAside(msgspec.Struct, frozen=True):
    """A task whose row, or that of its latest attempt, cannot be read: what could be made out of it, and what is wrong
    with it. The phase is the most likely one."""

    task: Task
    attempt: Attempt | None
    why: str


class Aside:
    """All rows found unreadable since the start. Each is logged once."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskAside] = {}
        #: What is wrong with rows of other tables, by table and key.
        self.others: dict[tuple[str, str], str] = {}

    def add_task(self, aside: TaskAside) -> None:
        """Set a task aside."""
        if aside.task.uuid not in self.tasks:
            _log.error("a task is set aside: its row cannot be read", task=aside.task.uuid, why=aside.why)
        self.tasks[aside.task.uuid] = aside

    def task(self, row: Row, attempt: Attempt | None = None) -> Task | None:
        """The task of a row; None for one that is set aside."""
        try:
            task = as_task(row)
        except msgspec.ValidationError as error:
            why = explain(row, Task, error)
        else:
            self.tasks.pop(task.uuid, None)
            return task
        try:
            self.add_task(TaskAside(salvaged_task(row), attempt, why))
        except msgspec.ValidationError:
            self.add("tasks", row["uuid"], why)
        return None

    def shown_task(self, row: Row) -> Task | None:
        """The same for those who only look: what can be read of one that is set aside."""
        task = self.task(row)
        aside = self.tasks.get(str(row["uuid"]))
        return task if task is not None or aside is None else aside.task

    def without_attempt(self, task: Task, attempt: Attempt | None) -> bool:
        """Set a task aside that is on a node by an attempt that cannot be read, or is not there; whether it is one."""
        if task.phase not in ON_NODE or (attempt is not None and attempt.number == task.attempts):
            return False
        why = self.others.get(("attempts", f"{task.uuid}/{task.attempts}"), "there is no such row")
        self.add_task(TaskAside(task, None, f"attempt {task.attempts}: {why}"))
        return True

    def add(self, table: str, key: object, why: str) -> None:
        """Set a row of another table aside."""
        if (table, str(key)) not in self.others:
            _log.error("a row is left out: it cannot be read", table=table, row=str(key), why=why)
        self.others[(table, str(key))] = why

    def records(self, rows: Iterable[Row], kind: type[Record], table: str, *key: str) -> list[Record]:
        """Return the records of all readable rows."""
        readable = []
        for row in rows:
            try:
                readable.append(as_record(row, kind))
            except msgspec.ValidationError as error:
                self.add(table, "/".join(str(row[name]) for name in key), explain(row, kind, error))
        return readable


def as_record(row: Row, kind: type[Record]) -> Record:
    """Return the record of a row whose columns have its names. Raises msgspec.ValidationError."""
    return msgspec.convert({str(key): value for key, value in row.items()}, kind, strict=False)


def as_task(row: Row) -> Task:
    """The same for a task, whose options have to be options. Raises msgspec.ValidationError."""
    task = as_record(row, Task)
    for name in ("options", "added_options"):
        if not all(map(_is_option, getattr(task, name))):
            raise msgspec.ValidationError(f"an option without name or value - at `$.{name}`")
    return task


def as_node(row: Row) -> NodeRecord:
    """The same for a node. Raises msgspec.ValidationError."""
    return msgspec.convert(_nested(row), NodeRecord, strict=False)


def readable_nodes(rows: Iterable[Row]) -> list[NodeRecord]:
    """Return the nodes whose rows can be read."""
    nodes = []
    for row in rows:
        with suppress(msgspec.ValidationError):
            nodes.append(as_node(row))
    return nodes


def explain(row: Row, kind: type[msgspec.Struct], error: Exception) -> str:
    """Return which column is wrong, and how; never its content."""
    wrong = [field.name for field in msgspec.structs.fields(kind) if _reads(row, field) is _BAD]
    return f"column {', '.join(wrong)}: {error}"[:_LONGEST] if wrong else str(error)[:_LONGEST]


def salvaged(row: Row, kind: type[Record], **instead: Any) -> Record:
    """What can be read of a row, with `instead` or the defaults where it cannot; texts with a mark for each wrong byte.
    Raises msgspec.ValidationError when something that has no default is lost."""
    values = dict(instead)
    for field in msgspec.structs.fields(kind):
        value = _reads(row, field)
        if value is not _BAD:
            values[field.name] = value
        elif isinstance(row.get(field.name), bytes) and field.type is str:
            values[field.name] = row[field.name].decode(errors="replace")
    return msgspec.convert(msgspec.to_builtins(values), kind, strict=False)


def salvaged_task(row: Row) -> Task:
    """What can be read of a task. Its phase, if that is lost, is told by what else is known."""
    task = salvaged(row, Task, phase=_likely_phase(row), owner="")
    return msgspec.structs.replace(
        task, options=list(filter(_is_option, task.options)), added_options=list(filter(_is_option, task.added_options))
    )


def salvaged_node(row: Row) -> NodeRecord:
    """What can be read of a node, locked: it takes no new tasks, and its running ones are followed to their end."""
    address = salvaged(row, NodeAddress)
    return msgspec.structs.replace(salvaged(row, NodeRecord, address=address), locked=True)


def _is_option(option: dict[str, Any]) -> bool:
    return isinstance(option.get("name"), str) and "value" in option


_BAD: Final = object()


def _reads(row: Row, field: msgspec.structs.FieldInfo) -> Any:
    """The value of one column; _BAD when it cannot be read, or there is none."""
    try:
        return msgspec.convert(row[field.name], field.type, strict=False)
    except (KeyError, msgspec.ValidationError):
        return _BAD


def _likely_phase(row: Row) -> Phase:
    if row.get("finished_at") and row.get("outcome") in set(Outcome):
        return Phase.FINISHED
    if not row.get("committed_at"):
        return Phase.RECEIVING
    return Phase.RUNNING if row.get("attempts") else Phase.QUEUED


def _nested(row: Row) -> dict[str, Any]:
    """The columns of a node as its record has them."""
    record = {str(key): value for key, value in row.items() if key not in _ADDRESS}
    return record | {"address": {name: row[name] for name in _ADDRESS}}


def decode_json(text: str | bytes | None) -> Any:
    """The value of a column of JSON."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return MalformedJson()


def decode_text(content: bytes) -> str | bytes:
    """A text of SQLite, which checks none; bytes that are no text stay bytes, so that only their row cannot be read."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content
