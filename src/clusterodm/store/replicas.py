# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for replicas: heartbeats, locks and change notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from clusterodm.store import schema
from clusterodm.store.database import CHANNEL, Database, discard

_log = structlog.get_logger("store")

#: Seconds without a heartbeat after which a replica counts as gone.
SILENT: Final = 6.0
#: Seconds after which a replica that is gone is deleted.
_FORGET: Final = 86400.0
#: Seconds between two checks of the connection that listens, and before the next try.
_LOOK: Final = 2.0
_PAUSE: Final = 0.5


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a cluster. Times are seconds since the epoch by the database's clock."""

    id: str
    #: Host and process number.
    name: str
    version: str
    started_at: float = 0.0
    seen_at: float = 0.0


class ReplicaVerbs(Database):
    """Replicas, locks, changes."""

    async def beat(self, replica: Replica, lock: str, *, leads: bool) -> tuple[str, list[Replica]]:
        """Record a heartbeat and take or renew a lock, or leave it to others unless `leads`; who holds it now (empty:
        no one), and all live replicas."""
        table, now = schema.replicas, self._now()
        row = {"id": replica.id, "name": replica.name, "version": replica.version, "started_at": now, "seen_at": now}
        async with self._transaction() as connection:
            heartbeat = self._insert(table).values(row)
            await connection.execute(heartbeat.on_conflict_do_update(index_elements=["id"], set_={"seen_at": now}))
            if leads:
                await self._take(connection, lock, replica.id, SILENT)
            holder = (await connection.execute(self._holder(lock))).scalar_one_or_none() or ""
            await connection.execute(delete(table).where(table.c.seen_at < now - _FORGET))
            return holder, await self._replicas(connection)

    async def _replicas(self, connection: AsyncConnection) -> list[Replica]:
        """Return all live replicas, oldest first."""
        table, now = schema.replicas, self._now()
        query = select(table).where(table.c.seen_at > now - SILENT)
        rows = (await connection.execute(query.order_by(table.c.started_at, table.c.id))).mappings()
        return self.aside.records(rows, Replica, "replicas", "id")

    async def take(self, lock: str, holder: str, seconds: float) -> bool:
        """Take or renew a lock; return False if another process holds it."""
        async with self._transaction() as connection:
            return await self._take(connection, lock, holder, seconds)

    async def _take(self, connection: AsyncConnection, lock: str, holder: str, seconds: float) -> bool:
        table, now = schema.locks, self._now()
        statement = self._insert(table).values(name=lock, holder=holder, until=now + seconds)
        statement = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": holder, "until": now + seconds},
            where=(table.c.holder == holder) | (table.c.until < now),
        )
        return bool((await connection.execute(statement)).rowcount)

    def _holder(self, lock: str) -> Select[Any]:
        """Select the holder of a lock; no row if it is free."""
        table = schema.locks.c
        return select(table.holder).where(table.name == lock, table.until >= self._now())

    async def release(self, lock: str, holder: str) -> None:
        """Release a lock."""
        table = schema.locks
        async with self._transaction() as connection:
            await connection.execute(delete(table).where(table.c.name == lock, table.c.holder == holder))

    async def leave(self, replica: str) -> None:
        """Delete a replica, and release its locks."""
        async with self._transaction() as connection:
            await connection.execute(delete(schema.replicas).where(schema.replicas.c.id == replica))
            await connection.execute(delete(schema.locks).where(schema.locks.c.holder == replica))
            await self._tell(connection, "replicas")

    async def drop_locks(self) -> None:
        """Delete locks whose holder is gone."""
        alive = select(schema.replicas.c.id).where(schema.replicas.c.seen_at > self._now() - SILENT)
        async with self._transaction() as connection:
            await connection.execute(delete(schema.locks).where(schema.locks.c.holder.not_in(alive)))

    async def say(self, kind: str, key: str) -> None:
        """Notify other processes of something that is not stored."""
        async with self._transaction() as connection:
            await self._tell(connection, kind, key)

    async def listen(self, changed: Callable[[str, str], None], everything: Callable[[], Awaitable[object]]) -> None:
        """Until canceled: call `changed(kind, key)` for what other processes change, and `everything()` first, and
        again whenever something may have been missed. Returns at once where there are no others."""
        while self.shared:
            try:
                await self._listen(changed, everything)
            except Exception as error:  # noqa: BLE001 - one of the three edges: whatever ends it, it begins again
                _log.warning("changes of others are not heard of now", error=type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _listen(self, changed: Callable[[str, str], None], everything: Callable[[], Awaitable[object]]) -> None:
        def on_notify(_: Any, __: int, ___: str, payload: str) -> None:
            origin, _, rest = payload.partition(" ")
            kind, _, key = rest.partition(" ")
            if origin != self.origin:
                changed(kind, key)

        connection = await self._connected(self._engine)
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None, "connected"  # noqa: S101 - by _connected
            await driver.add_listener(CHANNEL, on_notify)
            await everything()
            while True:
                await asyncio.sleep(_LOOK)
                async with asyncio.timeout(_LOOK):
                    await driver.execute("SELECT 1")  # in no transaction: within one nothing is heard
        finally:
            await discard(connection)
