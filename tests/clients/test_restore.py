# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A copy is put back by following the page: all of it or nothing, and what was there before is kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clusterodm.files.identity import Identity, read_identity, write_identity
from clusterodm.store import Store
from tests.docs.pages import TOP, commands
from tests.postgres import Server
from tests.processes import Program, program, without_settings

BACKUP, UPGRADE = TOP / "docs/how-to/backup.md", TOP / "docs/how-to/upgrade.md"
#: A node that is never there, so that tasks wait.
NOWHERE = "127.0.0.1:9"


def on_page(page: Path, verb: str, *, alone: bool = False) -> str:
    """The command of a page that begins so."""
    matches = [line for line in commands(page) if line.startswith(f"clusterodm {verb}")]
    return next(line for line in matches if ("--database-only" in line) is alone)


async def follow(command: str, folder: Path, code: int = 0, environ: dict[str, str] | None = None) -> str:
    """Run a command of a page in `folder`, where its other disk is, too; what it says."""
    words = command.replace("/mnt/backup", str(folder / "mnt")).split()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=without_settings() | (environ or {}),
    )
    output, _ = await process.communicate()
    assert process.returncode == code, output.decode()
    return output.decode()


def photos(folder: Path) -> dict[str, bytes]:
    """Held files by their place in a data folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("spool/*/files/*")}


async def waiting(cluster: Program, count: int = 3) -> list[str]:
    api = await cluster.start()
    return [await api.create(2) for _ in range(count)]


async def test_following_the_restore_page_brings_everything_back(tmp_path: Path) -> None:
    async with program(tmp_path, node=NOWHERE) as cluster:
        then = await waiting(cluster)
        held = photos(tmp_path / "data")
        await follow(on_page(BACKUP, "backup"), tmp_path)
        late_task = await cluster.api.create(2)
        output = await follow(on_page(BACKUP, "restore"), tmp_path, 2)
        assert "is used by another clusterodm" in output
        await cluster.end(signal.SIGTERM)
        newest = photos(tmp_path / "data")
        output = await follow(on_page(BACKUP, "restore"), tmp_path)
        assert "with files" in output
        assert photos(tmp_path / "data") == held
        [before] = (tmp_path / "data").glob("replaced-*")
        assert photos(before) == newest, "nothing was lost of what was there before"
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in then] == [10] * 3
        assert "error" in await api.get(f"/task/{late_task}/info")
        await cluster.end(signal.SIGTERM)
        await follow(f"clusterodm restore data/{before.name} --data-dir data", tmp_path)
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in [*then, late_task]] == [10] * 4
        assert photos(tmp_path / "data") == newest


async def test_following_the_upgrade_page_back_costs_no_photo(tmp_path: Path) -> None:
    async with program(tmp_path, node=NOWHERE) as cluster:
        then = await waiting(cluster)
        await follow(on_page(UPGRADE, "backup", alone=True), tmp_path)
        late_task = await cluster.api.create(2)
        await cluster.end(signal.SIGTERM)
        held = photos(tmp_path / "data")
        output = await follow(on_page(UPGRADE, "restore"), tmp_path)
        assert "the database alone" in output
        assert photos(tmp_path / "data") == held
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in then] == [10] * 3
        assert "error" in await api.get(f"/task/{late_task}/info")
        assert photos(tmp_path / "data") == held, "also those that the database does not know"
        await cluster.end(signal.SIGTERM)
        [before] = (tmp_path / "data").glob("replaced-*")
        await follow(f"clusterodm restore data/{before.name} --data-dir data", tmp_path)
        assert photos(tmp_path / "data") == held, "putting the newer database back leaves the files where they are"
        api = await cluster.start()
        assert await api.code(late_task) == 10


@pytest.mark.parametrize("alone", [False, True])
async def test_the_database_of_replicas_is_put_back_in_one_piece(alone: bool, tmp_path: Path, postgres: Server) -> None:
    url = postgres.new_database()
    variables = {"CLUSTERODM_DATABASE_URL": url}
    async with program(tmp_path, node=NOWHERE) as cluster:
        cluster.environ |= variables
        then = await waiting(cluster)
        command = on_page(BACKUP, "backup", alone=alone)
        await follow(command, tmp_path, environ=variables)
        copy = command.split()[2]
        late_task = await cluster.api.create(2)
        back = f"clusterodm restore {copy} --data-dir data"
        assert "is used by another clusterodm" in await follow(back, tmp_path, 2, environ=variables)
        elsewhere = f"clusterodm restore {copy} --data-dir elsewhere"
        output = await follow(elsewhere, tmp_path, 2, environ=variables)
        assert "replicas work on this database" in output
        await cluster.end(signal.SIGTERM)
        assert "set CLUSTERODM_DATABASE_URL" in await follow(back, tmp_path, 2)
        held = photos(tmp_path / "data")
        await follow(back, tmp_path, environ=variables)
        [before] = (tmp_path / "data").glob("replaced-*")
        assert (before / "database.dump").is_file()
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in then] == [10] * 3
        assert "error" in await api.get(f"/task/{late_task}/info")
        assert (photos(tmp_path / "data") == held) is alone
        await cluster.end(signal.SIGTERM)
        await follow(f"clusterodm restore data/{before.name} --data-dir data", tmp_path, environ=variables)
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in [*then, late_task]] == [10] * 4
        assert photos(tmp_path / "data") == held


async def test_an_upload_in_progress_begins_again_after_a_restore(tmp_path: Path) -> None:
    async with program(tmp_path, node=NOWHERE) as cluster:
        api = await cluster.start()
        uuid = await api.init()
        for number in range(134):
            await api.upload(uuid, **{f"{number}__jpg": b"x"})
        await follow(on_page(BACKUP, "backup"), tmp_path)
        for number in range(134, 180):
            assert await api.upload(uuid, **{f"{number}__jpg": b"x"}) == {"success": True}
        await cluster.end(signal.SIGKILL)
        await follow(on_page(BACKUP, "restore"), tmp_path)
        for _ in range(2):
            api = await cluster.start()
            response = await api.upload(uuid, **{"180__jpg": b"x"})
            assert response["error"].startswith("Invalid uuid (not found)")
            assert "error" in await api.commit(uuid)
            assert "error" in await api.get(f"/task/{uuid}/info")
            await cluster.end(signal.SIGTERM)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("point", ["copied", "decided", "replaced", "put away", "half"])
async def test_killed_in_the_middle_it_is_the_old_state_or_the_new_one(
    kind: str, point: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    variables = {}
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        variables = {"CLUSTERODM_DATABASE_URL": server.new_database()}
    async with program(tmp_path, node=NOWHERE) as cluster:
        cluster.environ |= variables
        then = await waiting(cluster)
        old = photos(tmp_path / "data")
        await follow(on_page(BACKUP, "backup"), tmp_path, environ=variables)
        late_task = await cluster.api.create(2)
        await cluster.end(signal.SIGTERM)
        newest = photos(tmp_path / "data")
        words = [sys.executable, "-m", "tests.clients.dying", point, str(tmp_path / "mnt/clusterodm")]
        dead = await asyncio.create_subprocess_exec(
            *words, "--data-dir", str(tmp_path / "data"), cwd=TOP, env=os.environ | variables
        )
        assert await dead.wait() == -signal.SIGKILL
        api = await cluster.start()
        codes = [await api.code(uuid) for uuid in then]
        assert codes == [10] * 3
        is_known = "error" not in await api.get(f"/task/{late_task}/info")
        assert photos(tmp_path / "data") == (newest if is_known else old)
        assert not (tmp_path / "data/.restore").exists()
        assert is_known is (point == "copied" or (kind == "postgresql" and point == "decided"))


async def test_what_cannot_be_put_back_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    async with program(tmp_path, node=NOWHERE) as cluster:
        await waiting(cluster, 1)
        await cluster.end(signal.SIGTERM)
    held = photos(tmp_path / "data")
    for page, alone in ((BACKUP, False), (UPGRADE, True)):
        await follow(on_page(page, "backup", alone=alone), tmp_path)
    copy, bare = tmp_path / "mnt/clusterodm", tmp_path / "mnt/before-upgrade"
    assert "choose another folder" in await follow(
        f"clusterodm backup {copy} --data-dir data --database-only", tmp_path, 2
    )
    (tmp_path / "empty").mkdir()
    assert "is no backup" in await follow("clusterodm restore empty --data-dir data", tmp_path, 2)
    write_identity(bare, Identity("other", files=False, copied_at=1.0))
    assert "is the database of another data folder" in await follow(
        f"clusterodm restore {bare} --data-dir data", tmp_path, 2
    )
    database = copy / "clusterodm.db"
    database.write_bytes(database.read_bytes()[:20_000])
    assert "is damaged" in await follow(f"clusterodm restore {copy} --data-dir data", tmp_path, 2)
    assert photos(tmp_path / "data") == held
    assert not list((tmp_path / "data").glob("replaced-*"))
    assert not (tmp_path / "data/.restore").exists()


async def test_a_copy_of_a_version_without_ids_is_put_back_and_gets_one(tmp_path: Path) -> None:
    async with program(tmp_path, node=NOWHERE) as cluster:
        then = await waiting(cluster)
        await follow(on_page(BACKUP, "backup"), tmp_path)
        await cluster.end(signal.SIGTERM)
        copy = tmp_path / "mnt/clusterodm"
        (copy / "identity.json").unlink()
        store = await Store.open(f"sqlite+aiosqlite:///{copy / 'clusterodm.db'}")
        await store.keep_value("folder", "")
        await store.close()
        shutil.rmtree(tmp_path / "data")
        await follow(on_page(BACKUP, "restore"), tmp_path)
        api = await cluster.start()
        assert [await api.code(uuid) for uuid in then] == [10] * 3
        assert read_identity(tmp_path / "data") is not None
