# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A store is copied whole, into an empty one only."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from clusterodm.commands.doctor import findings
from clusterodm.core.errors import DataFolderError
from clusterodm.core.nodes import NodeRecord, make_address
from clusterodm.core.tasks import Attempt, Cleanup, Phase, Task
from clusterodm.store import Cost, Store, copy_store, schema
from tests.postgres import Server


async def fill(store: Store) -> None:
    node = await store.add_node(NodeRecord(id=0, address=make_address("n", 1, "hush-token"), labels={"gpu": "yes"}))
    for number in range(1200):
        uuid = f"{number:08d}-5386-40b9-978f-0221804788c9"
        attempt = Attempt(task=uuid, number=1, node_id=node.id, node_name="n:1", node_uuid=uuid, cleanup=Cleanup.CANCEL)
        task = Task(uuid=uuid, owner="o", phase=Phase.DISPATCHING, attempts=1, name="n\u00e4me\0", progress=number / 7)
        await store.add_task(task, "announced", attempt=attempt)
    await store.charge([Cost(month="2026-11", machine="m", task="", owner="", seconds=1.5, amount=0.1)])
    await store.keep_value("cluster", "abcd")


async def rows(store: Store, name: str) -> list[tuple[object, ...]]:
    table = schema.metadata.tables[name]
    async with store._transaction() as connection:
        records = (await connection.execute(select(table).order_by(*table.primary_key))).all()
    return [tuple(row) for row in records]


async def test_all_rows_come_over_and_numbers_go_on(tmp_path: Path, postgres: Server) -> None:
    source = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
    target = await Store.open(postgres.new_database())
    await fill(source)
    counts = await copy_store(source, target, {})
    assert counts["tasks"] == counts["attempts"] == counts["events"] == 1200
    for name in counts:
        assert await rows(source, name) == await rows(target, name), name
    added = await target.add_node(NodeRecord(id=0, address=make_address("n", 2)))
    assert added.id == 2
    [task, *_] = await target.active_tasks()
    await target.note(task[0], at=1.0, text="goes on")
    with pytest.raises(DataFolderError, match="not empty"):
        await copy_store(source, target, {})
    for store in (source, target):
        await store.close()


async def test_doctor_says_whether_the_database_answers(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERODM_DATABASE_URL", postgres.new_database())
    verdicts = {each.text: each.verdict async for each in findings(None, tmp_path) if each.what == "database"}
    assert list(verdicts.values()) == ["ok", "ok"]
    assert any("PostgreSQL" in text for text in verdicts)
    monkeypatch.setenv("CLUSTERODM_DATABASE_URL", "postgres://me:hush-word@127.0.0.1:1/none")
    verdicts = {each.text: each.verdict async for each in findings(None, tmp_path) if each.what == "database"}
    assert list(verdicts.values()) == ["error"]
    assert "hush-" not in str(verdicts)
