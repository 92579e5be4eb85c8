# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Transactions that are canceled, a database that somebody else has locked, and a store that is closed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clusterodm.core.errors import StoreDown
from clusterodm.store import Store, database


async def test_work_that_is_canceled_leaves_no_lock(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")

    async def write(key: str) -> None:
        while True:
            await store.first_value(key, "written")
            await store.keep_value(key, "written again")

    for steps in range(60):
        async with asyncio.TaskGroup() as group:
            work = [group.create_task(write(str(number))) for number in range(4)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in work:
                task.cancel()
        await store.keep_value("last", steps)
    assert await store.value("last") == 59
    await store.close()


async def test_a_database_locked_by_another_program_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PRAGMAS", ("journal_mode=WAL", "busy_timeout=50"))
    path = tmp_path / "x.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDown, match="try again later"):
            await store.keep_value("key", "value")
    await store.keep_value("key", "value")
    await store.close()


async def test_a_closed_store_does_not_open_its_database_again(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    await store.close()
    path.unlink()
    with pytest.raises(StoreDown, match="closed"):
        await store.keep_value("key", "value")
    assert not path.exists()
