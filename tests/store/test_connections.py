# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections to PostgreSQL that are lost while they are used (a real server)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from clusterodm.core.errors import StoreDown
from clusterodm.store import Store, TaskFilter
from tests.postgres import Server, driver_url

Verb = Callable[[Store], Awaitable[Any]]

READS: dict[str, Verb] = {
    "find_task": lambda store: store.find_task("u"),
    "find_tasks_by_uuid": lambda store: store.find_tasks_by_uuid(["u"]),
    "known_tasks": lambda store: store.known_tasks(["u"]),
    "versions": lambda store: store.versions(["u"]),
    "active_tasks": lambda store: store.active_tasks(),
    "unsent": lambda store: store.unsent(),
    "ended_since": lambda store: store.ended_since("", 0.0, limit=1, offset=0),
    "submodels": lambda store: store.submodels("j", limit=1),
    "manifest": lambda store: store.manifest("u"),
    "timeline": lambda store: store.timeline("u"),
    "attempts": lambda store: store.attempts("u"),
    "attempts_to_clean": lambda store: store.attempts_to_clean(),
    "find_tasks": lambda store: store.find_tasks(TaskFilter(), limit=1),
    "count_tasks": lambda store: store.count_tasks(TaskFilter()),
    "last_attempts": lambda store: store.last_attempts(["u"]),
    "nodes": lambda store: store.nodes(),
    "value": lambda store: store.value("k"),
    "accounts": lambda store: store.accounts(),
    "machines_alive": lambda store: store.machines_alive(),
    "costs": lambda store: store.costs("2026-01", "owner"),
}


_END = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE pid != pg_backend_pid() AND datname = current_database() AND"
)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store while the block runs."""
    store = await Store.open(url)
    try:
        yield store
    finally:
        await store.close()


async def _lose_while(url: str, verb: Awaitable[Any]) -> Any:
    """Return what a verb returns, or StoreDown, whose session the server ends while it waits for a lock on all
    tables."""

    async def outcome() -> Any:
        try:
            return await verb
        except StoreDown as error:
            return error

    holder, other = await asyncpg.connect(driver_url(url)), await asyncpg.connect(driver_url(url))
    try:
        tables = [row[0] for row in await other.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        await holder.execute(f"BEGIN; LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome())
            while not await other.fetchval(f"{_END} wait_event_type = 'Lock'"):
                assert not task.done(), "it waits for no lock"
            await holder.execute("ROLLBACK")
        return task.result()
    finally:
        holder.terminate()
        other.terminate()


@pytest.mark.parametrize("name", READS)
async def test_a_read_whose_connection_is_lost_is_answered(name: str, postgres: Server) -> None:
    url = postgres.new_database()
    async with opened(url) as store:
        expected = await READS[name](store)
        assert await _lose_while(url, READS[name](store)) == expected


async def test_a_write_whose_connection_is_lost_is_not_repeated(postgres: Server) -> None:
    """It may have been carried out."""
    url = postgres.new_database()
    async with opened(url) as store:
        assert isinstance(await _lose_while(url, store.keep_value("k", 1)), StoreDown)


async def test_what_was_done_under_a_lock_counts_although_its_session_ended(postgres: Server) -> None:
    url = postgres.new_database()
    async with opened(url) as store:
        async with store.locked("a"):
            other = await asyncpg.connect(driver_url(url))
            assert await other.fetchval(f"{_END} pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')") == 1
            await other.close()
            await store.keep_value("k", 1)
        assert await store.value("k") == 1


async def test_a_lock_whose_connection_is_lost_in_the_wait_for_it_is_taken(postgres: Server) -> None:
    url = postgres.new_database()

    async def locked(store: Store) -> str:
        async with store.locked("a"):
            return "held"

    async with opened(url) as store:
        holder, other = await asyncpg.connect(driver_url(url)), await asyncpg.connect(driver_url(url))
        await holder.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('a', 0))")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(locked(store))
            while not await other.fetchval(f"{_END} wait_event_type = 'Lock'"):
                assert not task.done(), "it waits for no lock"
            await holder.close()
        assert task.result() == "held"
        await other.close()


async def test_the_kernel_notices_when_the_host_of_a_server_is_gone(postgres: Server) -> None:
    async with opened(postgres.new_database()) as store, store._transaction() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        plug = driver._transport.get_extra_info("socket")
        assert plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 3
        assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
