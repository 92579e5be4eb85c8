# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Databases with many tasks in them, made fast."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from sqlalchemy import insert

from clusterodm.core.tasks import Outcome, Phase, Task
from clusterodm.store import Store, schema
from clusterodm.store.database import columns


def fill(folder: Path, count: int) -> None:
    """Finished tasks, as years leave them behind, each with its timeline, in a data folder."""
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_fill(folder, count))


async def _fill(folder: Path, count: int) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
    now = time.time()
    tasks = [
        Task(
            uuid=f"{number:08x}-0000-4000-8000-000000000000",
            owner="local",
            phase=Phase.FINISHED,
            outcome=Outcome.COMPLETED,
            committed_at=now - count + number,
            finished_at=now - count + number,
            options=[{"name": "dsm", "value": True}] * 5,
        )
        for number in range(count)
    ]
    events = [
        {"task": task.uuid, "at": task.finished_at, "text": text}
        for task in tasks
        for text in ("announced", "committed", "attempt 1: sending", "running", "completed")
    ]
    async with store._transaction() as connection:
        await connection.execute(insert(schema.tasks), [columns(task, schema.tasks) for task in tasks])
        await connection.execute(insert(schema.events), events)
    await store.close()
