# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database under the store: one engine, transactions, and records made of rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final, Self, TypeVar

import msgspec
from sqlalchemy import RowMapping, Table, event
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from clusterodm.core.errors import DataFolderError, SpoolFull
from clusterodm.store.migrate import migrate

Record = TypeVar("Record", bound=msgspec.Struct)
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON")


class Database:
    """What all verbs of the store stand on."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open (and migrate) the database at an SQLAlchemy URL. Raises DataFolderError."""
        engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=60)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _set_pragmas)
        store = cls(engine)
        try:
            async with store._transaction() as connection:
                await connection.run_sync(migrate)
        except DBAPIError as error:
            await store.close()
            raise DataFolderError(f"cannot use the database: {error.orig}; nothing was changed") from None
        except DataFolderError:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            if "full" in str(error.orig):
                raise SpoolFull("No space left to keep this, try again later") from None
            raise
        except DatabaseError as error:
            if "malformed" in str(error.orig):
                raise DataFolderError("the database is damaged; restore it from a backup") from None
            raise

    def _insert(self, table: Table) -> Any:
        """An insert that can turn into an update; each dialect has its own, and only the one in use is loaded."""
        dialect = import_module(f"sqlalchemy.dialects.{self._engine.dialect.name}")
        return dialect.insert(table)


def plain(value: Any) -> Any:
    """A value as a column takes it."""
    return msgspec.to_builtins(value) if isinstance(value, list | dict) else getattr(value, "value", value)


def columns(record: msgspec.Struct, table: Table) -> dict[str, Any]:
    """The columns of `table` that a record has."""
    return {key: plain(value) for key, value in msgspec.structs.asdict(record).items() if key in table.c}


def as_record(row: RowMapping, kind: type[Record]) -> Record:
    """A record made of a row whose columns have its names."""
    return msgspec.convert({str(key): value for key, value in row.items()}, kind, strict=False)


def _set_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
