# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Databases of every earlier schema, with what they held, come up to the one of today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from clusterodm.core.machines import Machine, State
from clusterodm.core.nodes import NodeRecord, make_address
from clusterodm.core.tasks import DISCARDED, Attempt, Outcome, Phase, Stage, Task
from clusterodm.store import Store, migrate, schema
from clusterodm.store.database import columns
from tests.postgres import Server

ENDED, RUNS = "32ffd3e3-5386-40b9-978f-0221804788c9", "45a1bbc0-0b6e-4c2f-9a3e-1d2c3b4a5f60"
TASKS = [
    Task(uuid=ENDED, owner="o", phase=Phase.FINISHED, outcome=Outcome.COMPLETED, committed_at=1.0, finished_at=2.0),
    Task(uuid=RUNS, owner="o", phase=Phase.RUNNING, name="näme", committed_at=3.0, attempts=1, byte_count=1 << 40),
]
ATTEMPT = Attempt(task=RUNS, number=1, node_id=1, node_name="n:3000", node_uuid=RUNS, stage=Stage.RUNNING)
NODE = NodeRecord(id=1, address=make_address("n", 3000, "hush-node"), locked=True)


def alembic(connection: Connection | None = None) -> Config:
    """Alembic's configuration for our migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(alembic()).walk_revisions())


def as_it_was(connection: Connection, revision: str) -> None:
    """A database of an earlier version in which there is something."""
    command.upgrade(alembic(connection), revision)
    rows: list[tuple[str, dict[str, Any]]] = [("tasks", columns(task, schema.tasks)) for task in TASKS]
    rows.append(("attempts", columns(ATTEMPT, schema.attempts)))
    node = {**columns(NODE, schema.nodes), "host": "n", "port": 3000, "token": "hush-node", "tls": False}
    rows.append(("nodes", node | {"insecure": False}))
    rows.append(("events", {"task": RUNS, "at": 3.0, "text": "committed with 2 files"}))
    for name, row in rows:
        table = Table(name, MetaData(), autoload_with=connection)
        values = {key: _plain(value) for key, value in row.items() if key in table.columns}
        connection.execute(insert(table).values(values))


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_an_earlier_version_kept_is_still_there(
    kind: str, revision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    else:
        server: Server = request.getfixturevalue("postgres")
        url = server.new_database()
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(as_it_was, revision)
    await engine.dispose()

    store = await Store.open(url)
    try:
        ended = await store.find_task(ENDED)
        assert ended is not None
        assert ended[0].outcome is Outcome.COMPLETED
        ((task, attempt),) = await store.active_tasks()
        assert (task.uuid, task.phase, task.name, task.byte_count) == (RUNS, Phase.RUNNING, "näme", 1 << 40)
        assert attempt is not None
        assert (attempt.node_name, attempt.stage) == ("n:3000", Stage.RUNNING)
        assert [event.text for event in await store.timeline(RUNS)] == ["committed with 2 files"]
        (node,) = await store.nodes()
        assert (node.address.host, node.address.token, node.locked) == ("n", "hush-node", True)
        assert await store.advance(task, Phase.COLLECTING, at=4.0, text="done") > task.version
        async with store._engine.connect() as connection:
            version = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
        assert version == migrate.HEAD
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_new_database_has_the_tables_that_all_migrations_lead_to(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = [f"sqlite+aiosqlite:///{tmp_path / name}" for name in ("new", "migrated")]
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        urls = [server.new_database(), server.new_database()]
    await (await Store.open(urls[0])).close()
    structures = []
    for url, migrated in zip(urls, (False, True), strict=True):
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            if migrated:
                await connection.run_sync(lambda sync: command.upgrade(alembic(sync), "head"))
            structures.append(await connection.run_sync(_structure))
        await engine.dispose()
    assert structures[0] == structures[1]
    assert len(structures[0]) > 10


def _structure(connection: Connection) -> dict[str, Any]:
    """All tables, with their columns, keys and indexes, and the recorded schema."""
    inspector = inspect(connection)
    return {
        "version": connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all(),
        **{
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(table)
                },
                "key": inspector.get_pk_constraint(table)["constrained_columns"],
                "foreign": sorted(map(str, inspector.get_foreign_keys(table))),
                "unique": sorted(map(str, inspector.get_unique_constraints(table))),
                "indexes": {
                    index["name"]: (index["column_names"], index["unique"], _conditions(index))
                    for index in inspector.get_indexes(table)
                },
            }
            for table in inspector.get_table_names()
        },
    }


def _conditions(index: Any) -> list[str]:
    return sorted(str(value) for key, value in index.get("dialect_options", {}).items() if key.endswith("_where"))


async def test_submodels_of_an_earlier_version_are_known_by_the_name_of_their_owner(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    part, lost = "a" * 36, "b" * 36
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(as_it_was, "0008")
        for uuid, owner in ((part, f"o#{RUNS}"), (lost, f"o#{RUNS}#{lost}")):
            task = Task(uuid=uuid, owner=owner, phase=Phase.QUEUED)
            table = await connection.run_sync(lambda sync: Table("tasks", MetaData(), autoload_with=sync))
            row = {key: value for key, value in columns(task, schema.tasks).items() if key in table.c}
            await connection.execute(insert(table).values({key: _plain(value) for key, value in row.items()}))
    await engine.dispose()
    store = await Store.open(url)
    try:
        assert sorted(await store.jobs()) == [RUNS, lost]
        assert [(task.uuid, task.job_attempt) for task in await store.submodels(RUNS, limit=9)] == [(part, 1)]
        assert [(task.uuid, task.job_attempt) for task in await store.submodels(lost, limit=9)] == [(lost, 0)]
    finally:
        await store.close()


async def test_values_of_an_earlier_version_have_the_terms_of_today(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    machine = Machine(
        id="m1", provider="do", state=State.READY, size="s", location="l", max_images=1, ready_at=7.0, reason="idle"
    )

    def earlier(connection: Connection) -> None:
        as_it_was(connection, "0013")
        connection.execute(insert(schema.machines).values(columns(machine, schema.machines)))
        connection.execute(text("UPDATE machines SET state = 'leaving'"))
        ahead = columns(msgspec.structs.replace(ATTEMPT, number=2), schema.attempts)
        connection.execute(insert(schema.attempts).values(ahead | {"stage": "ahead", "reason": "taken back"}))
        connection.execute(text("INSERT INTO leases VALUES ('lead', 'somebody', 5.0)"))

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(earlier)
    await engine.dispose()
    store = await Store.open(url)
    try:
        assert [attempt.stage for attempt in await store.attempts(RUNS)] == [Stage.RUNNING, Stage.PREFETCHING]
        assert (await store.attempts(RUNS))[1].reason == DISCARDED
        assert [each.state for each in await store.machines_alive()] == [State.DRAINING]
        history = await store.machine_events("m1")
        assert [(event.state, event.text) for event in history] == [(State.DRAINING, "idle")]
        await store.advance_machine(
            msgspec.structs.replace(machine, state=State.DRAINING), State.DELETING, at=9.0, reason="its time is over"
        )
        assert [(event.at, event.state, event.text) for event in await store.machine_events("m1")][1:] == [
            (9.0, State.DELETING, "its time is over")
        ]
        assert await store.machine_events("m2") == []
    finally:
        await store.close()
