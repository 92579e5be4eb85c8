# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copy one store into another, empty one: from SQLite to a shared PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Table, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from clusterodm.core.errors import DataFolderError
from clusterodm.store import schema
from clusterodm.store.database import plain
from clusterodm.store.store import Store

#: Tables that belong to running processes.
_NOT_COPIED: Final = ("replicas", "locks")
_ROWS: Final = 500


async def copy_store(source: Store, target: Store, values: Mapping[str, str]) -> dict[str, int]:
    """Copy all rows in one transaction of the target, replacing single values by `values`; return the counts by table.
    Raises DataFolderError if the target is not empty."""
    counts: dict[str, int] = {}
    async with source._transaction() as reading, target._transaction() as writing:
        await _require_empty(writing)
        for table in _tables():
            counts[table.name] = 0
            result = await reading.stream(select(table))
            async for rows in result.mappings().partitions(_ROWS):
                copied = [{str(key): plain(value) for key, value in row.items()} for row in rows]
                await writing.execute(insert(table), copied)
                counts[table.name] += len(copied)
            if target.shared and _numbered(table):
                await writing.execute(text(_GO_ON.format(table=table.name)))
        for key, value in values.items():
            await writing.execute(update(schema.meta).where(schema.meta.c.key == key).values(value=value))
    return counts


async def require_empty(store: Store) -> None:
    """Raise DataFolderError unless a store is empty, as `copy_store` requires."""
    async with store._transaction() as connection:
        await _require_empty(connection)


async def _require_empty(connection: AsyncConnection) -> None:
    for table in _tables():
        if (await connection.execute(select(func.count()).select_from(table))).scalar_one():
            raise DataFolderError(f"the target is not empty: there are {table.name}; nothing was copied")


def _tables() -> list[Table]:
    return [table for table in schema.metadata.sorted_tables if table.name not in _NOT_COPIED]


#: PostgreSQL's sequences do not follow explicitly inserted ids.
_GO_ON: Final = (
    "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
)


def _numbered(table: Table) -> bool:
    column = table.autoincrement_column
    return column is not None and column.name == "id"
