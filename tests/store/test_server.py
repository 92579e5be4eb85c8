# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the store relies on of a PostgreSQL server: locks, notifications, and what the end of a connection leaves. The
same tests run over the model that the simulation uses (test_model.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import update

from clusterodm.core.errors import StoreDown
from clusterodm.store import Store, database, schema
from tests.postgres import Server, driver_url
from tests.support import eventually

_TAKE = "UPDATE meta SET value = $1::VARCHAR WHERE meta.key = $2::VARCHAR"
_FOR_UPDATE = "SELECT meta.value FROM meta WHERE meta.key = $1::VARCHAR FOR UPDATE"
_ADD = "INSERT INTO meta (key, value) VALUES ($1::VARCHAR, $2::VARCHAR)"
_UPSERT = f"{_ADD} ON CONFLICT (key) DO UPDATE SET value = $3::VARCHAR WHERE meta.value = $4::VARCHAR"
_READ = "SELECT meta.value FROM meta WHERE meta.key = $1::VARCHAR"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1::VARCHAR, $2::INTEGER)) AS pg_advisory_xact_lock_1"
_NOTIFY = "SELECT pg_notify($1::VARCHAR, $2::VARCHAR) AS pg_notify_1"


class Sessions:
    """Connections of the driver to a database with two values, a and b."""

    def __init__(self, url: str) -> None:
        self._url = driver_url(url)
        self._open: list[Any] = []

    async def __aenter__(self) -> Sessions:
        store = await Store.open(self._url.replace("postgresql", "postgresql+asyncpg"))
        for key in "ab":
            await store.keep_value(key, 0)
        await store.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._open:
            each.terminate()

    async def open(self, **settings: str) -> Any:
        """Return a new one."""
        self._open.append(await asyncpg.connect(self._url, server_settings=settings or None))
        return self._open[-1]

    async def begin(self, **settings: str) -> tuple[Any, Any]:
        """Return a new one with its transaction."""
        connection = await self.open(**settings)
        transaction = connection.transaction()
        await transaction.start()
        return connection, transaction


async def waits(work: Awaitable[Any]) -> asyncio.Task[Any]:
    """Return a task that is not done after a moment."""

    async def run() -> Any:
        return await work

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.sleep(0.3)
    assert not task.done()
    return task


async def test_two_who_change_one_row_wait_for_each_other_and_others_do_not(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other, second = await sessions.begin()
        assert await one.execute(_TAKE, "1", "a") == "UPDATE 1"
        assert await other.execute(_TAKE, "2", "b") == "UPDATE 1"
        late = await waits(other.execute(_TAKE, "2", "a"))
        assert await (await sessions.open()).fetchval(_READ, "a") == "0"
        await first.commit()
        assert await late == "UPDATE 1"
        await second.commit()
        assert await one.fetchval(_READ, "a") == "2"


async def test_who_waited_looks_at_the_row_again(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other = await sessions.open()
        await one.execute(_TAKE, "1", "a")
        compare = "UPDATE meta SET value = $1::VARCHAR WHERE meta.key = $2::VARCHAR AND meta.value = $3::VARCHAR"
        late = await waits(other.execute(compare, "2", "a", "0"))
        await first.commit()
        assert await late == "UPDATE 0"


async def test_a_row_is_locked_by_reading_it_for_an_update(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other, _ = await sessions.begin()
        assert await one.fetchval(_FOR_UPDATE, "a") == "0"
        late = await waits(other.fetchval(_FOR_UPDATE, "a"))
        await one.execute(_TAKE, "1", "a")
        await first.commit()
        assert await late == "1"


async def test_an_upsert_locks_the_row_that_it_leaves_as_it_is(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        assert await one.execute(_UPSERT, "a", "1", "1", "another") == "INSERT 0 0"
        late = await waits((await sessions.open()).execute(_TAKE, "2", "a"))
        await first.rollback()
        assert await late == "UPDATE 1"


async def test_who_adds_the_same_row_waits_and_is_refused_if_it_is_there_then(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other, _ = await sessions.begin()
        await one.execute(_ADD, "c", "1")
        late = await waits(other.execute(_ADD, "c", "2"))
        await first.commit()
        with pytest.raises(asyncpg.UniqueViolationError):
            await late
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await other.fetchval(_READ, "a")


async def test_a_failed_transaction_keeps_nobody_waiting_and_is_rolled_back(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        await one.execute(_TAKE, "1", "a")
        with pytest.raises(asyncpg.UniqueViolationError):
            await one.execute(_ADD, "b", "1")
        other = await sessions.open()
        assert await other.execute(_TAKE, "2", "a") == "UPDATE 1"
        await first.commit()
        assert await other.fetchval(_READ, "a") == "2"


async def test_one_of_two_who_wait_for_each_other_is_refused(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other, second = await sessions.begin()
        await one.execute(_TAKE, "1", "a")
        await other.execute(_TAKE, "2", "b")
        results = await asyncio.gather(
            one.execute(_TAKE, "1", "b"), other.execute(_TAKE, "2", "a"), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in results) == ["DeadlockDetectedError", "str"]
        await second.rollback()
        await first.rollback()


async def test_an_advisory_lock_has_one_holder_until_its_transaction_or_connection_ends(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        other, second = await sessions.begin()
        third, _ = await sessions.begin()
        await one.execute(_LOCK, "task", 0)
        await one.execute(_LOCK, "task", 0)
        await third.execute(_LOCK, "another", 0)
        late = await waits(other.execute(_LOCK, "task", 0))
        await first.commit()
        await late
        later = await waits(third.execute(_LOCK, "task", 0))
        other.terminate()
        await later
        assert second is not None


async def test_notifications_come_once_in_order_and_after_the_commit(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        listener, deaf = await sessions.open(), await sessions.open()
        heard: list[str] = []
        nothing: list[str] = []
        await listener.add_listener("here", lambda _, __, ___, payload: heard.append(payload))
        await deaf.add_listener("elsewhere", lambda _, __, ___, payload: nothing.append(payload))
        one, first = await sessions.begin()
        other, second = await sessions.begin()
        for payload in ("1", "2", "1"):
            await one.execute(_NOTIFY, "here", payload)
        await other.execute(_NOTIFY, "here", "never")
        await second.rollback()
        await other.execute(_NOTIFY, "here", "0")
        await eventually(lambda: heard)
        await first.commit()
        await eventually(lambda: len(heard) == 3)
        assert (heard, nothing) == (["0", "1", "2"], [])


async def test_nothing_is_heard_in_the_middle_of_a_transaction(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        listener, other = await sessions.open(), await sessions.open()
        heard: list[str] = []
        await listener.add_listener("here", lambda _, __, ___, payload: heard.append(payload))
        transaction = listener.transaction()
        await transaction.start()
        await other.execute(_NOTIFY, "here", "1")
        await listener.execute("SELECT 1")
        assert heard == []
        await transaction.commit()
        await eventually(lambda: heard == ["1"])


async def test_a_server_that_dies_keeps_what_was_committed_alone(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, _ = await sessions.begin()
        other = await sessions.open()
        heard: list[str] = []
        await other.add_listener("here", lambda _, __, ___, payload: heard.append(payload))
        await one.execute(_TAKE, "1", "a")
        await other.execute(_TAKE, "2", "b")
        await asyncio.to_thread(postgres.control, "stop", "-m", "immediate")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await one.execute(_TAKE, "2", "a")
        with pytest.raises(ConnectionRefusedError):
            await sessions.open()
        await asyncio.to_thread(postgres.start)
        again = await _open_when_ready(sessions.open)
        assert [await again.fetchval(_READ, key) for key in "ab"] == ["0", "2"]
        await again.execute(_NOTIFY, "here", "lost")
        assert heard == []


async def _open_when_ready(connect: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(100):
        try:
            return await connect()
        except (asyncpg.CannotConnectNowError, OSError):
            await asyncio.sleep(0.1)
    raise AssertionError("the server does not come up")


async def test_a_statement_that_waits_can_be_canceled_and_is_undone(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, first = await sessions.begin()
        await one.execute(_TAKE, "1", "a")
        other = await sessions.open()
        late = await waits(other.execute(_TAKE, "2", "a"))
        late.cancel()
        await asyncio.wait([late])
        assert await other.fetchval(_READ, "a") == "0"
        await first.commit()
        assert await other.fetchval(_READ, "a") == "1"


async def test_a_session_ends_that_leaves_its_transaction_idle(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, _ = await sessions.begin(idle_in_transaction_session_timeout="200")
        await one.execute(_TAKE, "1", "a")
        other = await sessions.open()
        assert await other.execute(_TAKE, "2", "a") == "UPDATE 1"
        await eventually(one.is_closed)


async def test_a_wait_for_a_lock_ends_after_the_time_that_was_set(postgres: Server) -> None:
    async with Sessions(postgres.new_database()) as sessions:
        one, _ = await sessions.begin()
        await one.execute(_TAKE, "1", "a")
        other = await sessions.open(lock_timeout="200")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await other.execute(_TAKE, "2", "a")


async def test_a_store_that_stops_in_the_middle_of_a_transaction_keeps_no_other_waiting(postgres: Server) -> None:
    url = postgres.new_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_IDLE", 0.5)
        stopped, other = await Store.open(url), await Store.open(url)
    await other.keep_value("k", 1)

    async def stop_halfway() -> None:
        async with stopped._transaction() as connection:
            await connection.execute(update(schema.meta).values(value=2))
            await other.keep_value("k", 3)

    with pytest.raises(StoreDown):
        await stop_halfway()
    assert await stopped.value("k") == 3
    for each in (stopped, other):
        await each.close()


async def test_a_read_past_a_connection_that_was_lost_is_answered(postgres: Server) -> None:
    store = await Store.open(postgres.new_database())
    assert await store.versions(["a"]) == {}
    await asyncio.to_thread(postgres.control, "stop", "-m", "immediate")
    await asyncio.to_thread(postgres.start)
    assert await store.versions(["a"]) == {}
    await store.close()
