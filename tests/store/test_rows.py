# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A row that cannot be read is set aside: it costs no other anything, and itself neither files nor its snapshot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from clusterodm.admin.operations.figures import status
from clusterodm.core.machines import Machine, State
from clusterodm.core.tasks import Phase
from clusterodm.store import Cost, Store
from tests.postgres import Server
from tests.support import Rig, eventually

#: What may become of a row, and the column that is named then.
WRONG = [
    ("options = '[{broken'", "options"),
    ("options = '[1]'", "options"),
    ("""options = '[{"value": 1}]'""", "options"),
    ("outputs = 'x'", "outputs"),
    ("phase = 'paused'", "phase"),
    ("outcome = 'exploded'", "outcome"),
    ("avoid = '{}'", "avoid"),
]
ONLY_SQLITE = [
    ("name = x'ff00fe'", "name"),
    ("name = CAST(x'ff00fe' AS TEXT)", "name"),
    ("owner = CAST(x'ff' AS TEXT)", "owner"),
    ("byte_count = 'many'", "byte_count"),
    ("committed_at = 'yesterday'", "committed_at"),
]


def spoil(data: Path, table: str, change: str, where: str) -> None:
    """Change a row behind the back of everybody."""
    with closing(sqlite3.connect(data / "clusterodm.db")) as connection, connection:
        assert connection.execute(f"UPDATE {table} SET {change} WHERE {where}").rowcount


@pytest.mark.parametrize(("change", "column"), [*WRONG, *ONLY_SQLITE])
async def test_a_task_that_cannot_be_read_is_set_aside_and_all_others_go_on(
    cluster: Rig, change: str, column: str
) -> None:
    await cluster.add_node()
    api = await cluster.start()
    registry = cluster.cluster.context.registry
    await registry.change(registry.nodes()[0], locked=True)
    bad, good = await api.create(2, name="mine"), await api.create(2)
    shown = await api.get(f"/task/{bad}/info")
    await cluster.stop()
    data = cluster.folder / "data"
    spoil(data, "tasks", change, f"uuid = '{bad}'")

    with capture_logs() as logs:
        api = await cluster.start()
    assert [line["log_level"] for line in logs if line.get("task") == bad and column in line["why"]] == ["error"]
    context = cluster.cluster.context
    await context.registry.change(context.registry.nodes()[0], locked=False)
    await api.ends(good)
    [problem] = [each for each in (await status(context)).problems if bad in each]
    assert column in problem
    if column != "owner":  # its owner is unknown then
        info = await api.get(f"/task/{bad}/info")
        assert info["status"]["code"] == 10
        assert info["imagesCount"] == 2
        if column not in ("options", "name"):
            assert info == shown
        assert {"uuid": bad} in await api.get("/task/list")
        assert await api.get(f"/task/{bad}/output") == []
        for order in ("cancel", "remove"):
            response = await api.post(f"/task/{order}", {"uuid": bad})
            assert "set aside" in response.get("error", ""), (order, response)
        assert "error" in await api.get(f"/task/{bad}/download/all.zip")
    await context.strays.sweep()
    cluster.clock.ahead = 10_000 * 3600.0
    await context.strays.sweep()
    assert len(await context.spool.listing(bad)) == 2
    await cluster.stop()

    with closing(sqlite3.connect(data / "clusterodm.db")) as connection, connection:
        row = ("queued", "[]", "[]", "[]", "mine", "", 1.0, 20, None)
        columns = "phase, options, outputs, avoid, name, owner, committed_at, byte_count, outcome"
        connection.execute(f"UPDATE tasks SET ({columns}) = (?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE uuid = '{bad}'", row)
        connection.execute(f"UPDATE tasks SET owner = (SELECT owner FROM tasks WHERE uuid = '{good}')")
    api = await cluster.start()
    await api.ends(bad)


@pytest.mark.parametrize("change", ["stage = 'flying'", "cleanup = 'burn'", "node_name = CAST(x'ff' AS TEXT)"])
async def test_a_running_task_whose_attempt_cannot_be_read_is_set_aside(cluster: Rig, change: str) -> None:
    await cluster.add_node(seconds=60.0)
    api = await cluster.start()
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    await cluster.stop()
    spoil(cluster.folder / "data", "attempts", change, f"task = '{uuid}'")
    api = await cluster.start()
    assert await api.code(uuid) == 20
    assert any(uuid in each for each in (await status(cluster.cluster.context)).problems)
    assert len(await cluster.cluster.context.spool.listing(uuid)) == 2


async def test_a_finished_task_that_cannot_be_read_is_still_shown(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start(results="keep")
    uuid = await api.create(2)
    await api.ends(uuid)
    await cluster.stop()
    spoil(cluster.folder / "data", "tasks", "options = '{'", f"uuid = '{uuid}'")
    api = await cluster.start(results="keep")
    assert await api.code(uuid) == 40
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[0] == 200


async def test_an_unreadable_node_gets_no_tasks_and_those_that_it_has_are_followed(cluster: Rig) -> None:
    await cluster.add_node(seconds=1.0)
    api = await cluster.start()
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    await cluster.stop()
    spoil(cluster.folder / "data", "nodes", "labels = '{', origin = 'sky'", "id = 1")
    cluster.ports.clear()
    api = await cluster.start()
    [node] = cluster.cluster.context.registry.nodes()
    assert node.closed == "locked"
    await api.ends(uuid)
    assert any("row 1 of nodes" in each for each in (await status(cluster.cluster.context)).problems)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_rows_of_every_other_table_are_left_out_one_by_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        url = server.new_database()
    store = await Store.open(url)
    machine = Machine(id="m", provider="p", state=State.READY, size="s", location="l", max_images=9, provider_id="7")
    await store.add_machine(machine)
    await store.keep_value("peak", [1])
    await store.charge([Cost(month="2026-11", machine="m", task="", owner="", seconds=1.0, amount=1.0)])
    await changed(url, "UPDATE machines SET state = 'melting', volumes = '{'", "UPDATE meta SET value = '{'")
    [salvaged] = await store.machines_alive()
    assert (salvaged.id, salvaged.provider_id, salvaged.kept, salvaged.volumes) == ("m", "7", True, [])
    assert await store.value("peak") is None
    assert {table for table, _ in store.aside.others} == {"machines", "meta"}
    await store.close()


async def changed(url: str, *statements: str) -> None:
    """Change a database behind the back of the store."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def test_a_row_that_goes_bad_while_replicas_work_is_not_taken_for_a_removed_task(
    cluster: Rig, postgres: Server
) -> None:
    url = postgres.new_database()
    api = await cluster.start(database_url=url)
    uuid = await api.create(2)
    await changed(url, "UPDATE tasks SET phase = 'paused', version = version + 1")
    context = cluster.cluster.context
    await context.replicas.reload()
    assert await api.code(uuid) == 10
    assert any(uuid in each for each in (await status(context)).problems)
    assert len(await context.spool.listing(uuid)) == 2
    await cluster.stop()
    api = await cluster.start(database_url=url)
    assert await api.code(uuid) == 10
    assert "set aside" in (await api.post("/task/remove", {"uuid": uuid}))["error"]
