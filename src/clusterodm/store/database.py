# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database under the store: engine, transactions, records from rows, and notifications to other processes."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial, wraps
from importlib import import_module
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, TypeVarTuple

import msgspec
from sqlalchemy import ColumnElement, Float, Result, Select, Table, cast, event, func, literal, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from clusterodm.core.errors import DataFolderError, SpoolFull, StoreDown
from clusterodm.store.migrate import migrate
from clusterodm.store.rows import Aside, decode_text

Ts = TypeVarTuple("Ts")
P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Database")

_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON")
#: The channel on which replicas notify each other of changes.
CHANNEL: Final = "clusterodm"
#: Seconds to wait for a database that does not respond: as long as a restart takes.
_PATIENCE: Final = 15.0
_PAUSE: Final = 0.2
#: Seconds after which the server ends the session of a replica that stopped in the middle of a transaction, and (idle,
#: interval, count) after which it notices that the host of one is gone: until then no other can change its rows.
_IDLE: Final = 5.0
_KEEPALIVES: Final = (3, 1, 3)
#: Milliseconds after which a server counts as gone that acknowledges nothing of what was sent.
_UNACKNOWLEDGED: Final = 15_000
#: Two pools, for work and for locks held meanwhile, so that neither waits for the other.
_POOL: Final = {"pool_size": 10, "max_overflow": 10, "pool_timeout": 30, "pool_pre_ping": True, "pool_recycle": 1800}


def repeatable(
    verb: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Repeat a verb that changes nothing if a shared server's connection is lost meanwhile."""

    @wraps(verb)
    async def repeated(self: S, /, *args: P.args, **how: P.kwargs) -> T:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return await verb(self, *args, **how)
            except StoreDown:
                if not self.shared or self._closed or time.monotonic() > end:
                    raise
            await asyncio.sleep(_PAUSE)

    return repeated


class Database:
    """The base of all store verbs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        #: True if other processes may use the same database.
        self.shared = engine.dialect.name == "postgresql"
        #: The id of this process among them.
        self.origin = secrets.token_hex(8)
        #: Rows that cannot be read.
        self.aside = Aside()
        self._raw: AsyncConnection | None = None
        self._closed = False
        self._locks = create_async_engine(engine.url, **_POOL) if self.shared else engine
        if self.shared:
            for each, idle in ((engine, _IDLE), (self._locks, 0.0)):
                event.listen(each.sync_engine, "connect", _watch)
                event.listen(each.sync_engine, "connect", partial(_limit, idle=idle))

    @classmethod
    def unopened(cls, url: str) -> Self:
        """Open the database at an SQLAlchemy URL without migrating it."""
        if make_url(url).get_backend_name() == "sqlite":
            how = {"factory": _SQLite}
            engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=60, connect_args=how)
            event.listen(engine.sync_engine, "connect", _set_pragmas)
        else:
            engine = create_async_engine(url, **_POOL)
        return cls(engine)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open (and migrate) the database at an SQLAlchemy URL. Raises DataFolderError and StoreDown."""
        store = cls.unopened(url)
        try:
            async with store.locked("migrate"), store._transaction() as connection:
                await connection.run_sync(migrate)
        except DBAPIError as error:
            await store.close()
            raise DataFolderError(f"cannot use the database: {error.orig}; nothing was changed") from None
        except TypeError as error:
            await store.close()
            raise DataFolderError(f"the URL of the database cannot be used: {error}") from None
        except (DataFolderError, StoreDown):
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close all connections; no other is opened."""
        self._closed = True
        if self._raw is not None:
            await discard(self._raw)
            self._raw = None
        await self._engine.dispose()
        await self._locks.dispose()

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:
        """Exclude all other processes from blocks of the same name; within this process, use another lock."""
        if not self.shared:
            yield
            return
        lock = await self._lock(name)
        try:
            yield
        finally:
            with suppress(StoreDown):  # the lock ended with its session
                await lock.aclose()

    @repeatable
    async def _lock(self, name: str) -> AsyncExitStack:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._begun(self._locks))
            await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
            return stack.pop_all()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._begun(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        connection = await self._connected(engine)
        try:
            async with connection.begin():
                yield connection
        except OperationalError as error:
            if "full" in str(error.orig) or getattr(error.orig, "sqlstate", "") == "53100":
                raise SpoolFull("No space left to keep this, try again later") from None
            if error.connection_invalidated or _interrupted(error):
                raise down(error) from None
            raise
        except DBAPIError as error:
            if "malformed" in str(error.orig):
                raise DataFolderError("the database is damaged; restore it from a backup") from None
            if error.connection_invalidated or isinstance(error, InterfaceError) or _interrupted(error):
                raise down(error) from None
            raise
        except (ConnectionError, TimeoutError) as error:
            raise down(error) from None
        finally:
            with suppress(DBAPIError, OSError):  # of one that is broken nothing is left to close
                await connection.close()

    async def _connected(self, engine: AsyncEngine) -> AsyncConnection:
        """Return a connection, retrying while the server does not respond: nothing has been sent yet."""
        if self._closed:  # an engine would open a new pool, which nothing closes
            raise StoreDown("The store is closed")
        end = time.monotonic() + (_PATIENCE if self.shared else 0.0)
        while True:
            try:
                return await engine.connect()
            except (DBAPIError, OSError, TimeoutError, PoolTimeout) as error:
                if not self.shared:
                    raise
                if time.monotonic() > end or _hopeless(error):
                    raise down(error) from None
            await asyncio.sleep(_PAUSE)

    @repeatable
    async def _read(self, query: Select[*Ts]) -> Result[*Ts]:
        """Return the rows of one query."""
        async with self._transaction() as connection:
            rows: Result[*Ts] = (await connection.execute(query)).freeze()()
        return rows

    @repeatable
    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        """Rows of one statement, past SQLAlchemy, on a connection that is kept for it: a tenth of the time, where the
        question is asked with each read of a client. One caller at a time; PostgreSQL only."""
        try:
            if self._raw is None:
                self._raw = await self._connected(self._engine)
            driver: Any = (await self._raw.get_raw_connection()).driver_connection
            return list(await driver.fetch(statement, *values))
        except BaseException as error:  # also a call that was given up leaves the connection in the middle of something
            connection, self._raw = self._raw, None
            if connection is not None:
                await discard(connection)
            if isinstance(error, Exception) and not isinstance(error, StoreDown):
                raise down(error) from None
            raise

    async def _tell(self, connection: AsyncConnection, kind: str, key: object = "") -> None:
        """Notify other processes of a change once this transaction is committed."""
        if self.shared:
            await connection.execute(select(func.pg_notify(CHANNEL, f"{self.origin} {kind} {key}")))

    def _now(self) -> ColumnElement[float]:
        """Seconds since the epoch by the database's clock, which all processes share."""
        if self.shared:
            return cast(func.extract("epoch", func.clock_timestamp()), Float)
        return (func.julianday("now") - literal(2440587.5)) * literal(86400.0)

    def _insert(self, table: Table) -> Any:
        """Return the dialect's insert that supports upserts; only the dialect in use is loaded."""
        dialect = import_module(f"sqlalchemy.dialects.{self._engine.dialect.name}")
        return dialect.insert(table)


async def discard(connection: AsyncConnection) -> None:
    """Discard a connection that must not be reused."""
    with suppress(SQLAlchemyError, OSError):
        await connection.invalidate()
        await connection.close()


async def ask_version(url: str) -> str:
    """Return the version of a server, changing nothing. Raises StoreDown."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return str((await connection.execute(text("SHOW server_version"))).scalar_one())
    except (DBAPIError, OSError, TimeoutError, TypeError) as error:
        raise down(error) from None
    finally:
        await engine.dispose()


def _interrupted(error: DBAPIError) -> bool:
    """Return True if a transaction was aborted that would succeed if retried."""
    state = getattr(error.orig, "sqlstate", "")
    return "is locked" in str(error.orig) or state in ("40001", "40P01", "57P01", "57P02", "57P03")


def _hopeless(error: Exception) -> bool:
    """Return True if a server refuses permanently: wrong password, no such database or user."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", ""))[:2] in ("28", "3D")


def down(error: Exception) -> StoreDown:
    """Return the kind of an error, without its text, which may hold parts of a statement."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", "")
    name = type(getattr(cause, "__cause__", None) or cause).__name__
    return StoreDown(f"The database does not answer now ({name}{f' {state}' if state else ''}), try again later")


def plain(value: Any) -> Any:
    """Return a value as a column stores it."""
    if isinstance(value, list | dict):
        return msgspec.to_builtins(value)
    if type(value) is str:
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL has no zero bytes in texts
    return getattr(value, "value", value)


def columns(record: msgspec.Struct, table: Table) -> dict[str, Any]:
    """Return the columns of `table` that a record has."""
    return {key: plain(value) for key, value in msgspec.structs.asdict(record).items() if key in table.c}


class _SQLite(sqlite3.Connection):
    """A connection that keeps no lock once it is closed. Closed in the middle of a transaction it would keep it for as
    long as one of its statements is referenced elsewhere, such as in the traceback of work that was canceled."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.text_factory = decode_text

    def close(self) -> None:
        """Roll back, and close."""
        with suppress(sqlite3.ProgrammingError):  # closed already
            self.rollback()
        super().close()


def _limit(connection: Any, _: Any, *, idle: float) -> None:
    """Limit for how long a session can hold locks without doing anything. As SQL: PgBouncer refuses it at the start."""
    keepalives = (f"tcp_keepalives_{name}" for name in ("idle", "interval", "count"))
    settings = {
        "idle_in_transaction_session_timeout": int(idle * 1000),
        **dict(zip(keepalives, _KEEPALIVES, strict=True)),
    }
    cursor = connection.cursor()
    cursor.execute("SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items()))
    cursor.close()
    connection.commit()  # of one that is rolled back nothing stays


def _watch(connection: Any, _: Any) -> None:
    """Have the kernel notice that a server is gone: the driver sends no keepalives, and waits without limit."""
    plug = connection.driver_connection._transport.get_extra_info("socket")
    if plug is None or plug.family not in (socket.AF_INET, socket.AF_INET6):
        return
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    values = (*_KEEPALIVES, _UNACKNOWLEDGED)
    for name, value in zip(("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT"), values, strict=True):
        if (option := getattr(socket, f"TCP_{name}", None)) is not None:  # Linux has all
            plug.setsockopt(socket.IPPROTO_TCP, option, value)


def _set_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
