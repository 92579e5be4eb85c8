# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A copy that is made while the cluster runs is a data folder on which another one goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from clusterodm.core.tasks import Phase, node_uuid
from clusterodm.store import Store
from tests.postgres import Server, driver_url
from tests.support import Rig, eventually, images


async def backup(data: Path, target: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clusterodm", "backup", str(target), "--data-dir", str(data), *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_another_cluster_goes_on_where_the_copy_was_made(cluster: Rig, tmp_path: Path) -> None:
    node = await cluster.add_node()
    api = await cluster.start(results="keep")
    done = await api.create(3)
    await api.ends(done)
    lines, result = await api.get(f"/task/{done}/output"), await api.raw("GET", f"/task/{done}/download/all.zip")
    await cluster.cluster.context.registry.change(cluster.cluster.context.registry.nodes()[0], locked=True)
    waits = await api.init()
    await api.post(f"/task/new/upload/{waits}", images({"lock": b"1", "a.part": b"2", "parts": b"3"}))
    await api.commit(waits)
    receives = await api.init()
    await api.upload(receives, first__jpg=b"4")

    copy = tmp_path / "copy"
    code, output = await backup(cluster.folder / "data", copy)
    assert code == 0, output
    assert "files" in output
    late_task = await api.create()

    await cluster.stop()
    (cluster.folder / "data").rename(cluster.folder / "lost")
    copy.rename(cluster.folder / "data")
    api = await cluster.start(results="keep")
    assert await api.get(f"/task/{done}/output") == lines
    assert (await api.raw("GET", f"/task/{done}/download/all.zip"))[2] == result[2]
    assert await api.get(f"/task/{late_task}/info") == {"error": f"{late_task} not found"}
    assert (await api.upload(receives, second__jpg=b"5"))["error"].endswith("begin again")
    assert (await api.commit(receives))["error"].endswith("begin again")
    await cluster.cluster.context.registry.change(cluster.cluster.context.registry.nodes()[0], locked=False)
    await api.ends(waits)
    assert set(node.held(node_uuid(waits, 2))) == {"lock", "a.part", "parts"}


async def test_a_second_copy_brings_the_first_up_to_date(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node()
    api = await cluster.start(results="keep")
    first = await api.create()
    await api.ends(first)
    copy = tmp_path / "copy"
    assert (await backup(cluster.folder / "data", copy))[0] == 0
    archive = copy / "results" / first / "all.zip"
    inode = archive.stat().st_ino
    assert (await backup(cluster.folder / "data", copy))[0] == 0
    assert archive.stat().st_ino == inode, "copied once"
    await api.post("/task/remove", {"uuid": first})
    second = await api.create()
    await api.ends(second)
    await eventually(lambda: not (cluster.folder / "data" / "spool" / second).exists())
    assert (await backup(cluster.folder / "data", copy))[0] == 0
    assert not archive.exists()
    assert (copy / "results" / second / "all.zip").is_file()
    assert not any(name.startswith("clusterodm.db-") for name in names(copy))


async def test_a_copy_made_under_load_has_the_files_of_all_its_tasks(cluster: Rig, tmp_path: Path) -> None:
    for _ in range(2):
        await cluster.add_node(seconds=0.1)
    api = await cluster.start()
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            await api.create(3)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(go_on())
        await asyncio.sleep(0)
        code, output = await backup(cluster.folder / "data", tmp_path / "copy")
        stop.set()
    assert code == 0, output
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'copy' / 'clusterodm.db'}")
    active = await store.active_tasks()
    await store.close()
    for task, _ in active:
        if task.phase is Phase.QUEUED:
            held = os.listdir(tmp_path / "copy" / "spool" / task.uuid / "files")
            assert len(held) == task.file_count, task


async def test_what_is_no_copy_is_left_alone(cluster: Rig, tmp_path: Path) -> None:
    await cluster.start()
    data = cluster.folder / "data"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "mine.jpg").write_bytes(b"x")
    code, output = await backup(data, other)
    assert (code, names(other)) == (2, {"mine.jpg"})
    assert "neither empty nor an earlier backup" in output
    for target, why in ((data / "copy", "is inside the data folder"), (tmp_path / "x", "there is no data folder")):
        code, output = await backup(data if target.name == "copy" else tmp_path / "none", target)
        assert code == 2
        assert why in output


async def test_the_database_of_replicas_is_dumped_and_restored(tmp_path: Path, postgres: Server) -> None:
    url, other = postgres.new_database(), postgres.new_database()
    store = await Store.open(url)
    await store.keep_value("cluster", "abcd")
    await store.close()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nodes.json").write_text("[]")
    code, output = await backup(tmp_path / "data", tmp_path / "copy", CLUSTERODM_DATABASE_URL=url)
    assert code == 0, output
    assert names(tmp_path / "copy") == {"database.dump", "identity.json", "nodes.json"}
    command = ["pg_restore", "--no-owner", f"--dbname={driver_url(other)}", str(tmp_path / "copy" / "database.dump")]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    restored = await Store.open(other)
    assert await restored.value("cluster") == "abcd"
    await restored.close()
    code, output = await backup(tmp_path / "data", tmp_path / "copy", CLUSTERODM_DATABASE_URL=url + "none")
    assert (code, "hush" in output) == (1, False)
    assert "pg_dump failed" in output


async def test_a_missing_program_is_named(tmp_path: Path, postgres: Server) -> None:
    (tmp_path / "data").mkdir()
    url = postgres.new_database()
    code, output = await backup(tmp_path / "data", tmp_path / "copy", CLUSTERODM_DATABASE_URL=url, PATH="/nowhere")
    assert code == 2
    assert "pg_dump cannot be run" in output
