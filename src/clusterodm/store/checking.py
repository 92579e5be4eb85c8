# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read-only checks of a database: integrity, schema, unreadable rows."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Table, select, text
from sqlalchemy.exc import DBAPIError

from clusterodm.core.errors import DataFolderError
from clusterodm.core.fairness import Account
from clusterodm.core.files import Manifest
from clusterodm.core.machines import Machine, MachineEvent
from clusterodm.core.nodes import NodeRecord
from clusterodm.core.sizing import Peak
from clusterodm.core.tasks import Attempt, Event, Task
from clusterodm.store import schema
from clusterodm.store.migrate import HEAD, schema_version
from clusterodm.store.rows import as_node, as_record, as_task, explain
from clusterodm.store.store import Store

_ROWS: Final = 500
_KINDS: Final[dict[str, Any]] = {
    "tasks": Task,
    "attempts": Attempt,
    "manifests": Manifest,
    "events": Event,
    "nodes": NodeRecord,
    "machines": Machine,
    "machine_events": MachineEvent,
    "peaks": Peak,
    "usage": Account,
}


class Report(msgspec.Struct, frozen=True):
    """The findings about a database. `schema` is empty if there is none yet."""

    schema: str
    #: Rows that cannot be read, as "table key: why"; at most a thousand.
    bad_rows: list[str] = []

    @property
    def newer(self) -> bool:
        """True if a newer version of the program wrote it."""
        return self.schema > HEAD


def require_whole(path: Path) -> None:
    """Raise DataFolderError unless an SQLite database can be read from its first page to its last."""
    try:
        with closing(sqlite3.connect(f"file:{path.resolve().as_posix()}?mode=ro", uri=True, timeout=10)) as connection:
            faults = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.OperationalError as error:
        raise DataFolderError(f"the database {path} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        faults = [str(error)]
    if faults != ["ok"]:
        why = "; ".join(line.replace("\n", " ") for line in faults)[:300]
        raise DataFolderError(
            f"the database {path} is damaged ({why}); nothing was changed. Put a copy back with `clusterodm restore`"
        )


@asynccontextmanager
async def untouched(url: str) -> AsyncIterator[Store]:
    """Open a store read-only, without migrating it. Raises StoreDown."""
    store = Store.unopened(url)
    try:
        yield store
    finally:
        await store.close()


async def examine(url: str) -> Report:
    """Check a whole database. Raises DataFolderError and StoreDown."""
    try:
        async with untouched(url) as store:
            async with store._transaction() as connection:
                version = await connection.run_sync(schema_version)
            bad = [row async for row in _bad_rows(store)] if version == HEAD else []
            return Report(version or "", bad[:1000])
    except DBAPIError as error:
        raise DataFolderError(f"the database cannot be read: {error.orig}") from None


async def value_of(url: str, key: str) -> Any:
    """Return a single value of a database of any schema; None if there is none."""
    async with untouched(url) as store:
        try:
            async with store._transaction() as connection:
                query = select(schema.meta.c.value).where(schema.meta.c.key == key)
                return (await connection.execute(query)).scalar_one_or_none()
        except DBAPIError:  # there is no such table
            return None


async def has_tables(url: str) -> bool:
    """Return True if a database has a schema."""
    async with untouched(url) as store, store._transaction() as connection:
        return await connection.run_sync(schema_version) is not None


async def _bad_rows(store: Store) -> AsyncIterator[str]:
    async with store._transaction() as connection:
        await connection.execute(text("SELECT 1"))
        for name, kind in _KINDS.items():
            table = schema.metadata.tables[name]
            result = await connection.stream(select(table))
            async for rows in result.mappings().partitions(_ROWS):
                for row in rows:
                    if why := _wrong(row, kind):
                        yield f"{name} {_key(row, table)}: {why}"


def _wrong(row: Any, kind: Any) -> str:
    try:
        if kind is Task:
            as_task(row)
        elif kind is NodeRecord:
            as_node(row)
        else:
            as_record(row, kind)
    except msgspec.ValidationError as error:
        return explain(row, kind, error)
    return ""


def _key(row: Any, table: Table) -> str:
    return "/".join(str(row[column.name]) for column in table.primary_key)
