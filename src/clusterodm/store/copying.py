# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything of one store into another, empty one: from the database of a single process to one that is shared."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table, func, insert, select, text

from clusterodm.core.errors import DataFolderError
from clusterodm.store import schema
from clusterodm.store.database import plain
from clusterodm.store.store import Store

#: Belong to the processes that work on a database.
_NOT_COPIED: Final = ("replicas", "leases")
_ROWS: Final = 500


async def copy_store(source: Store, target: Store) -> dict[str, int]:
    """Copy all rows in one transaction of the target; how many, by table. Raises DataFolderError when the target is not
    empty."""
    counts: dict[str, int] = {}
    tables = [table for table in schema.metadata.sorted_tables if table.name not in _NOT_COPIED]
    async with source._transaction() as reading, target._transaction() as writing:
        for table in tables:
            if (await writing.execute(select(func.count()).select_from(table))).scalar_one():
                raise DataFolderError(f"the target is not empty: there are {table.name}; nothing was copied")
        for table in tables:
            counts[table.name] = 0
            result = await reading.stream(select(table))
            async for rows in result.mappings().partitions(_ROWS):
                values = [{str(key): plain(value) for key, value in row.items()} for row in rows]
                await writing.execute(insert(table), values)
                counts[table.name] += len(values)
            if target.shared and _numbered(table):
                await writing.execute(text(_GO_ON.format(table=table.name)))
    return counts


#: PostgreSQL counts on from where it was, whatever was inserted with a number of its own.
_GO_ON: Final = (
    "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
)


def _numbered(table: Table) -> bool:
    column = table.autoincrement_column
    return column is not None and column.name == "id"
