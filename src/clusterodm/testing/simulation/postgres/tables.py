# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of the server: what is committed is in one SQLite database, what is not is a list of rows per transaction.

A statement runs on what is committed when it begins, and on the rows of its own transaction (READ COMMITTED). Triggers
tell which rows it changed; if another transaction has locked one of them, the statement is undone and reports whom it
waits for, and is executed again afterwards.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.postgres.sql import Statement, translate
from clusterodm.testing.simulation.postgres.wire import BOOL, TYPES, VARCHAR, PostgresError

#: Modes of row locks; two transactions can hold those whose sum is less than 2. A row that refers to another shares
#: it, a change takes it for itself, and a new, deleted or selected one is not even shared with those who refer to it.
SHARE: Final = 0
CHANGE: Final = 1
EXCLUSIVE: Final = 2
_COMPATIBLE: Final = 2

#: What is locked: a table and values of its columns, or an advisory lock.
Key = tuple[str, str, tuple[Any, ...]]

_CATALOG: Final = (
    "CREATE TABLE IF NOT EXISTS pg_namespace (oid INTEGER, nspname TEXT)",
    "CREATE VIEW IF NOT EXISTS pg_class AS SELECT rowid AS oid, name AS relname, 1 AS relnamespace, 'r' AS relkind, "
    "'p' AS relpersistence FROM sqlite_master "
    "WHERE type = 'table' AND name NOT LIKE 'pg_%' AND name NOT LIKE 'sqlite_%'",
    "INSERT INTO pg_namespace SELECT 1, 'public' WHERE NOT EXISTS (SELECT 1 FROM pg_namespace)",
)
_CATALOG_COLUMNS: Final = {
    "pg_class": {"relname": VARCHAR},
    "pg_namespace": {"nspname": VARCHAR},
}


@dataclass(frozen=True)
class Change:
    """One row of a table after a change; None: it was deleted. `key` are the values of its primary key."""

    table: str
    key: tuple[Any, ...]
    row: Mapping[str, Any] | None


@dataclass(eq=False)
class Transaction:
    """One transaction, until it ends."""

    log: list[Change | str] = field(default_factory=list)
    locks: list[Key] = field(default_factory=list)
    #: Channels and payloads to notify of at its end.
    notifications: dict[tuple[str, str], None] = field(default_factory=dict)
    failed: bool = False
    ended: bool = False
    #: Those whose end it waits for, and those who wait for its own.
    waits_for: tuple[Transaction, ...] = ()
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def waits_for_itself(self) -> bool:
        """Return True if it is part of a deadlock."""
        seen, left = set[int](), list(self.waits_for)
        while left:
            other = left.pop()
            if other is self:
                return True
            if id(other) not in seen:
                seen.add(id(other))
                left += other.waits_for
        return False


class Blocked(Exception):
    """A statement that has to wait for other transactions."""

    def __init__(self, holders: tuple[Transaction, ...]) -> None:
        super().__init__()
        self.holders = holders


@dataclass(frozen=True)
class _Table:
    columns: Mapping[str, int]
    primary: tuple[str, ...]
    #: Columns of unique indexes, and (columns, table) of foreign keys.
    unique: tuple[tuple[str, ...], ...]
    foreign: tuple[tuple[tuple[str, ...], str], ...]


class Tables:
    """All tables, and the locks on their rows."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._locks: dict[Key, dict[Transaction, int]] = {}
        self._sequences: dict[str, int] = {}
        self._tables: dict[str, _Table] = {}
        self._statements: dict[str, Statement] = {}
        #: Whose rows the SQLite database has now, besides what is committed.
        self._applied: Transaction | None = None
        self._replaying = False
        self._changed: list[tuple[str, Change]] = []
        #: Called with the changes of each transaction that is committed.
        self.watchers: list[Callable[[list[Change]], None]] = []
        for pragma in ("foreign_keys=ON", "case_sensitive_like=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        for name, count, function in (("nextval", 1, self._next), ("changed", -1, self._note)):
            self._connection.create_function(name, count, function)
        self._connection.create_function("epoch", 0, now)
        for statement in _CATALOG:
            self._connection.execute(statement)
        for (name,) in self._connection.execute("SELECT relname FROM pg_class").fetchall():
            self._watch(name)

    def prepare(self, source: str) -> Statement:
        """Return a statement to execute. Raises PostgresError."""
        if source not in self._statements:
            self._statements[source] = translate(source, self._columns)
        return self._statements[source]

    def execute(self, transaction: Transaction, statement: Statement, values: list[Any]) -> tuple[list[Any], int]:
        """Return the rows of a statement, and how many it returned or changed. Raises Blocked and PostgresError."""
        if statement.kind == "lock":
            self._lock(transaction, [(("advisory", "", tuple(values)), EXCLUSIVE)])
            return [("",)], 1
        if statement.kind == "notify":
            transaction.notifications[values[0], values[1]] = None
            return [("",)], 1
        if statement.kind == "constant":
            return [(statement.text,)], 1
        self._enter(transaction)
        if statement.kind == "ddl":
            self._define(statement.text)
            transaction.log.append(statement.text)
            return [], 0
        if statement.conflict is not None:
            self._lock_conflict(transaction, statement, values)
        if statement.locked:
            self._lock_rows(transaction, statement, values)
        return self._run(transaction, statement, values)

    def commit(self, transaction: Transaction) -> None:
        """Make the changes of a transaction visible to all."""
        if transaction.log:
            self._enter(transaction)
            self._connection.execute("COMMIT")
            self._applied = None
            changes = [change for change in transaction.log if isinstance(change, Change)]
            for watcher in self.watchers:
                watcher(changes)
        self.end(transaction)

    def end(self, transaction: Transaction) -> None:
        """Forget a transaction and its locks."""
        if transaction.ended:
            return
        if self._applied is transaction:
            self._enter(None)
        transaction.ended = True
        for key in transaction.locks:
            self._locks[key].pop(transaction, None)
            if not self._locks[key]:
                del self._locks[key]
        for waiting in transaction.waiting:
            if not waiting.done():
                waiting.set_result(None)

    def crash(self) -> None:
        """Forget all transactions: the server is gone. All waits end with it."""
        self._enter(None)
        self._locks.clear()

    # Statements

    def _run(self, transaction: Transaction, statement: Statement, values: list[Any]) -> tuple[list[Any], int]:
        execute, self._changed = self._connection.execute, []
        execute("SAVEPOINT statement")
        try:
            rows = execute(statement.text, values).fetchall()
            self._lock(transaction, [lock for mode, change in self._changed for lock in self._locks_of(mode, change)])
        except (sqlite3.Error, Blocked) as failure:
            execute("ROLLBACK TO statement")
            execute("RELEASE statement")
            if isinstance(failure, Blocked):
                raise
            raise _error(failure) from None
        execute("RELEASE statement")
        transaction.log += [change for _, change in self._changed]
        if statement.kind == "select":
            return rows, len(rows)
        return rows, sum(change.table == statement.table for _, change in self._changed)

    def _enter(self, transaction: Transaction | None) -> None:
        """Give the SQLite database the rows of a transaction, instead of those of another one."""
        if self._applied is transaction:
            return
        if self._applied is not None:
            self._connection.execute("ROLLBACK")
            if any(isinstance(change, str) for change in self._applied.log):
                self._forget_definitions()
        self._applied = transaction
        if transaction is not None:
            self._connection.execute("BEGIN")
            self._replay(transaction)

    def _replay(self, transaction: Transaction) -> None:
        self._replaying = True
        try:
            for change in transaction.log:
                if isinstance(change, str):
                    self._define(change)
                else:
                    self._put(change)
        finally:
            self._replaying = False

    def _put(self, change: Change) -> None:
        primary = self._table(change.table).primary
        if change.row is None:
            where = " AND ".join(f"{name} = ?" for name in primary)
            self._connection.execute(f"DELETE FROM {change.table} WHERE {where}", change.key)  # noqa: S608  # nosec B608 - own names
            return
        names = list(change.row)
        changed = ", ".join(f"{name} = excluded.{name}" for name in names)
        self._connection.execute(
            f"INSERT INTO {change.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608  # nosec B608 - own names
            f"ON CONFLICT ({', '.join(primary)}) DO UPDATE SET {changed}",
            list(change.row.values()),
        )

    def _define(self, text: str) -> None:
        try:
            self._connection.execute(text)
        except sqlite3.Error as failure:
            raise _error(failure) from None
        self._forget_definitions()
        if text.startswith("CREATE TABLE "):
            self._watch(text.split()[2])

    def _forget_definitions(self) -> None:
        self._tables.clear()
        self._statements.clear()

    # Locks

    def _lock(self, transaction: Transaction, wanted: list[tuple[Key, int]]) -> None:
        """Lock all or none. Raises Blocked."""
        holders: dict[Transaction, None] = {}
        for key, mode in wanted:
            for holder, held in self._locks.get(key, {}).items():
                if holder is not transaction and mode + held >= _COMPATIBLE:
                    holders[holder] = None
        if holders:
            raise Blocked(tuple(holders))
        for key, mode in wanted:
            mine = self._locks.setdefault(key, {})
            if transaction not in mine:
                transaction.locks.append(key)
            mine[transaction] = max(mode, mine.get(transaction, SHARE))

    def _locks_of(self, kind: str, change: Change) -> list[tuple[Key, int]]:
        """Return what a change of a row locks."""
        table = self._table(change.table)
        mode = CHANGE if kind == "update" else EXCLUSIVE
        locks = [(_key(change.table, table.primary, change.key), mode)]
        if change.row is not None:
            for names in table.unique:
                locks.append((_key(change.table, names, tuple(change.row[name] for name in names)), mode))
            if kind == "insert":
                for names, parent in table.foreign:
                    values = tuple(change.row[name] for name in names)
                    locks.append((_key(parent, self._table(parent).primary, values), SHARE))
        return locks

    def _lock_conflict(self, transaction: Transaction, statement: Statement, values: list[Any]) -> None:
        """Lock the row that an upsert would conflict with, also if it leaves it unchanged; a plain insert waits for
        transactions that insert or delete that row."""
        conflict = statement.conflict
        assert conflict is not None, "by the caller"  # noqa: S101
        key = _key(statement.table, conflict.columns, tuple(values[number] for number in conflict.parameters))
        if conflict.updates:
            self._lock(transaction, [(key, CHANGE)])
            return
        holders = self._locks.get(key, {}).items()
        if others := tuple(other for other, held in holders if other is not transaction and held == EXCLUSIVE):
            raise Blocked(others)

    def _lock_rows(self, transaction: Transaction, statement: Statement, values: list[Any]) -> None:
        primary = self._table(statement.table).primary
        listed = ", ".join(f"{statement.table}.{name}" for name in primary)
        rows = self._connection.execute(f"SELECT {listed}{statement.locked}", values).fetchall()
        self._lock(transaction, [(_key(statement.table, primary, row), EXCLUSIVE) for row in rows])

    # What the tables look like

    def _columns(self, table: str) -> Mapping[str, int]:
        return _CATALOG_COLUMNS[table] if table in _CATALOG_COLUMNS else self._table(table).columns

    def _table(self, name: str) -> _Table:
        if name not in self._tables:
            self._tables[name] = self._described(name)
        return self._tables[name]

    def _described(self, name: str) -> _Table:
        execute = self._connection.execute
        columns, primary = {}, {}
        for _, column, kind, _, _, place in execute(f"PRAGMA table_info({name})").fetchall():
            columns[column] = TYPES[kind.partition("(")[0]]
            if place:
                primary[place] = column
        foreign: dict[int, tuple[list[str], str]] = {}
        for number, _, parent, column, *_ in execute(f"PRAGMA foreign_key_list({name})").fetchall():
            foreign.setdefault(number, ([], parent))[0].append(column)
        indexes = execute(f"PRAGMA index_list({name})").fetchall()
        unique = [
            tuple(each[2] for each in execute(f"PRAGMA index_info({index[1]})").fetchall())
            for index in indexes
            if index[2] and index[3] == "c"
        ]
        return _Table(
            columns,
            tuple(primary[place] for place in sorted(primary)),
            tuple(unique),
            tuple((tuple(names), parent) for names, parent in foreign.values()),
        )

    def _watch(self, table: str) -> None:
        """Have triggers note each change of a table."""
        names = list(self._table(table).columns)
        for kind, row in (("insert", "new"), ("update", "new"), ("delete", "old")):
            values = ", ".join(f"{row}.{name}" for name in names)
            self._connection.execute(
                f"CREATE TEMP TRIGGER {table}_{kind} AFTER {kind} ON main.{table} "
                f"BEGIN SELECT changed('{table}', '{kind}', {values}); END"
            )

    def _note(self, name: str, kind: str, *values: Any) -> None:
        if self._replaying:
            return
        table = self._table(name)
        row = dict(zip(table.columns, values, strict=True))
        key = tuple(row[column] for column in table.primary)
        self._changed.append((kind, Change(name, key, None if kind == "delete" else row)))

    def _next(self, table: str) -> int:
        """Return the next number of a sequence, which no rollback gives back."""
        if table not in self._sequences:
            [last] = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608  # nosec B608 - own names
            self._sequences[table] = last or 0
        self._sequences[table] += 1
        return self._sequences[table]


def _key(table: str, columns: tuple[str, ...], values: tuple[Any, ...]) -> Key:
    return table, ",".join(columns), values


def row_values(row: tuple[Any, ...], columns: tuple[tuple[str, int], ...]) -> list[Any]:
    """Return the values of a row as their types have them."""
    return [
        bool(value) if kind == BOOL and value is not None else value
        for value, (_, kind) in zip(row, columns, strict=True)
    ]


#: States of errors by what SQLite says.
_STATES: Final = (
    ("UNIQUE constraint", "23505"),
    ("FOREIGN KEY constraint", "23503"),
    ("NOT NULL constraint", "23502"),
    ("CHECK constraint", "22001"),
    ("no such table", "42P01"),
    ("no such column", "42703"),
    ("already exists", "42P07"),
)


def _error(failure: Exception) -> BaseException:
    for words, state in _STATES:
        if words in str(failure):
            return PostgresError(state, str(failure))
    return RealWorldError(f"the model of PostgreSQL cannot do this: {failure}")
