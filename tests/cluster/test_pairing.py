# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A data folder and a database that do not belong together are not used together unless an operator says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from clusterodm.cluster.pairing import KEY
from clusterodm.core.errors import DataFolderError
from clusterodm.files.identity import FILE, Identity, read_identity, write_identity
from clusterodm.server.app import running_cluster
from clusterodm.settings import load_settings
from clusterodm.store import Store
from tests.postgres import Server
from tests.processes import Program, program
from tests.support import FAST, Api, Rig


def held(folder: Path) -> list[str]:
    """Photos in the spool, by uuid."""
    return sorted(path.parents[1].name for path in (folder / "data/spool").glob("*/files/*.jpg"))


@asynccontextmanager
async def shared(folder: Path, url: str) -> AsyncIterator[Program]:
    """The program on PostgreSQL."""
    async with program(folder) as new_program:
        new_program.environ["CLUSTERODM_DATABASE_URL"] = url
        yield new_program


async def five_queued(several: Program) -> list[str]:
    api = await several.start()
    uuids = [await api.create(3) for _ in range(5)]
    await several.end(signal.SIGTERM)
    return uuids


async def refused(several: Program, *words: str) -> str:
    """What it says when it does not start; exit code 2."""
    before = several.log.read_text() if several.log.exists() else ""
    process = await several.spawn()
    assert await process.wait() == 2
    output = several.log.read_text()[len(before) :]
    assert all(word in output for word in words), output
    assert "Traceback" not in output
    return output


async def test_a_start_on_another_database_or_none_is_refused_and_costs_no_photo(
    tmp_path: Path, postgres: Server
) -> None:
    async with shared(tmp_path, url := postgres.new_database()) as several:
        uuids = await five_queued(several)
        photos = held(tmp_path)
        assert len(photos) == 15
        del several.environ["CLUSTERODM_DATABASE_URL"]
        await refused(several, "belongs to another database", "this one is empty", "--adopt", "CLUSTERODM_DATABASE_URL")
        several.environ["CLUSTERODM_DATABASE_URL"] = postgres.new_database()
        await refused(several, "this one is empty", "--adopt")
        assert held(tmp_path) == photos
        several.environ["CLUSTERODM_DATABASE_URL"] = url
        api = await several.start()
        assert [await api.code(uuid) for uuid in uuids] == [10] * 5


async def test_a_database_whose_folder_is_not_mounted_is_not_used_with_an_empty_one(
    tmp_path: Path, postgres: Server
) -> None:
    async with shared(tmp_path, postgres.new_database()) as several:
        uuids = await five_queued(several)
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        await refused(several, "is new, but the database belongs to another one", "mounted", "--adopt")
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "elsewhere").rename(tmp_path / "data")
        api = await several.start()
        assert [await api.code(uuid) for uuid in uuids] == [10] * 5


async def test_with_adopt_both_are_used_together_from_now_on_and_nothing_goes_at_once(
    tmp_path: Path, postgres: Server
) -> None:
    async with shared(tmp_path, first := postgres.new_database()) as several:
        await five_queued(several)
        photos = held(tmp_path)
        several.environ["CLUSTERODM_DATABASE_URL"] = postgres.new_database()
        several.settings["log-level"] = "info"
        several.launcher = ["-m", "clusterodm", "serve", "--adopt"]
        await several.start()
        await several.end(signal.SIGTERM)
        several.launcher = []
        await several.start()
        await several.end(signal.SIGTERM)
        assert held(tmp_path) == photos
        several.environ["CLUSTERODM_DATABASE_URL"] = first
        await refused(several, "belongs to another folder")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_folder_and_a_database_of_before_there_were_ids_get_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with program(tmp_path) as old:
        url = f"sqlite+aiosqlite:///{tmp_path / 'data/clusterodm.db'}"
        if kind == "postgresql":
            server: Server = request.getfixturevalue("postgres")
            url = old.environ["CLUSTERODM_DATABASE_URL"] = server.new_database()
        await five_queued(old)
        await without_ids(tmp_path / "data", url)
        await old.start()
        await old.end(signal.SIGTERM)
        store = await Store.open(url)
        identity = read_identity(tmp_path / "data")
        assert identity is not None
        assert await store.value(KEY) == identity.id
        await store.close()
        if kind == "postgresql":
            await without_ids(tmp_path / "data", url)
            old.environ["CLUSTERODM_DATABASE_URL"] = server.new_database()
            await refused(old, "holds files of 5 tasks, and the database knows none of them")
            old.environ["CLUSTERODM_DATABASE_URL"] = url
            (tmp_path / "data/spool").rename(tmp_path / "spool")
            await refused(old, "knows 5 tasks that wait", "holds files of none", "mounted")


async def without_ids(data: Path, url: str) -> None:
    """As an earlier version left both."""
    (data / FILE).unlink()
    store = await Store.open(url)
    await store.keep_value(KEY, "")
    await store.close()


async def test_both_have_one_id_wherever_the_process_died_while_it_was_given(tmp_path: Path) -> None:
    for step, (folder_id, database_id) in enumerate(
        [
            (Identity("new", replaces=""), ""),
            (Identity("new", replaces=""), "new"),
            (Identity("new", replaces="old"), "old"),
            (Identity("new", replaces="old"), "new"),
        ]
    ):
        data = tmp_path / str(step) / "data"
        data.mkdir(parents=True)
        write_identity(data, folder_id)
        store = await Store.open(f"sqlite+aiosqlite:///{data / 'clusterodm.db'}")
        await store.keep_value(KEY, database_id)
        await store.close()
        async with running_cluster(load_settings(FAST | {"data_dir": data}, environ={})) as cluster:
            assert await cluster.context.store.value(KEY) == "new"
        assert read_identity(data) == Identity("new")
        assert oct((data / FILE).stat().st_mode)[-3:] == "600"


async def test_an_id_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE).write_bytes(b"\xff{")
    settings = load_settings(FAST | {"data_dir": tmp_path / "data"}, environ={})
    with pytest.raises(DataFolderError, match=r"identity\.json cannot be read"):
        async with running_cluster(settings):
            pass
    async with running_cluster(settings, adopt=True):
        assert read_identity(tmp_path / "data") is not None


async def test_after_a_migration_only_the_new_database_is_that_of_the_folder(tmp_path: Path, postgres: Server) -> None:
    async with program(tmp_path) as one:
        uuids = await five_queued(one)
        url = postgres.new_database()
        words = [sys.executable, "-m", "clusterodm", "migrate-store", "--data-dir", str(tmp_path / "data")]
        environ = os.environ | {"CLUSTERODM_DATABASE_URL": url}
        process = subprocess.run(words, check=False, env=environ, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        await refused(one, "belongs to another database", "--adopt")
        second_run = subprocess.run(words, check=False, env=environ, capture_output=True, text=True)
        assert second_run.returncode == 2
        assert "belongs to another database" in second_run.stderr
        one.environ["CLUSTERODM_DATABASE_URL"] = url
        api = await one.start()
        assert [await api.code(uuid) for uuid in uuids] == [10] * 5


async def test_uploads_begin_again_and_tasks_go_on_after_an_adoption(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    data = cluster.folder / "data"
    await cluster.cluster.context.registry.change(cluster.cluster.context.registry.nodes()[0], locked=True)
    waits, receives = await api.create(2), await api.init()
    await api.upload(receives, a__jpg=b"a")
    await cluster.stop()
    write_identity(data, Identity("other"))
    with suppress(DataFolderError):
        await cluster.start()
    api = await adopted(cluster)
    response = await api.upload(receives, b__jpg=b"b")
    assert response["error"].startswith("Invalid uuid (not found): the cluster was put back to an earlier state (")
    assert response["error"].endswith("; begin again")
    assert response["noRetry"]
    assert (await api.commit(receives))["error"] == response["error"]
    [trash] = (data / "trash").iterdir()
    assert trash.name.endswith(receives)
    assert json.loads((data / FILE).read_text()).keys() == {"id"}
    await cluster.cluster.context.registry.change(cluster.cluster.context.registry.nodes()[0], locked=False)
    await api.ends(waits)
    assert waits not in node.tasks, "a node that had this attempt before would refuse its uuid"


async def adopted(cluster: Rig) -> Api:
    """Start once with --adopt."""
    flags = FAST | {"data_dir": cluster.folder / "data", "node": [f"127.0.0.1:{port}" for port in cluster.ports]}
    settings = load_settings(flags, environ={})
    cluster._running = await cluster.stack.enter_async_context(AsyncExitStack())
    cluster._cluster = await cluster._running.enter_async_context(running_cluster(settings, adopt=True))
    cluster._api = Api(cluster.cluster.url)
    cluster.stack.push_async_callback(cluster._api.session.close)
    return cluster._api
