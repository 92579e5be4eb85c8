# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""PyODM from PyPI, which WebODM is built on, used as its documentation shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyodm import Node
from pyodm.exceptions import NodeResponseError, TaskFailedError
from pyodm.types import TaskStatus

from clusterodm.devnode.photos import make_photos
from tests.support import Rig, eventually


async def client(rig: Rig, work: Callable[[Node], Any], **query: str) -> Any:
    """Run blocking client code beside the cluster."""
    node = Node("127.0.0.1", rig.cluster.ports[0], query.get("token", ""))
    with ThreadPoolExecutor(1) as own:  # the cluster in this process needs its threads for itself
        return await asyncio.get_running_loop().run_in_executor(own, work, node)


async def test_a_whole_task(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(seconds=1.0)
    await cluster.add_node(seconds=1.0)
    await cluster.start()
    await cluster.ready()
    photos = [str(path) for path in make_photos(tmp_path / "photos", 12)]

    def work(node: Node) -> None:
        assert node.info().version == "2.2.4"
        assert {option.name for option in node.options()} >= {"dsm", "orthophoto-resolution"}
        progress: list[float] = []
        task = node.create_task(photos, {"dsm": True, "orthophoto-resolution": 4}, "pyodm", progress.append)
        assert progress[-1] == 100
        statuses: list[TaskStatus] = []
        task.wait_for_completion(status_callback=lambda info: statuses.append(info.status), interval=0.2)
        assert set(statuses) <= {TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.COMPLETED}
        info = task.info(with_output=0)
        assert (info.name, info.images_count, info.progress) == ("pyodm", 12, 100)
        assert info.options[:2] == [{"name": "dsm", "value": True}, {"name": "orthophoto-resolution", "value": 4}]
        assert len(info.output) > 12
        assert task.output(-1) == ["Compressing all.zip\n"]
        folder = Path(task.download_assets(str(tmp_path / "results")))
        assert (folder / "contact_sheet.jpg").stat().st_size > 1000
        assert task.remove()
        with pytest.raises(NodeResponseError, match="not found"):
            task.info()

    await client(cluster, work)


async def test_an_upload_that_finds_no_room_goes_on_once_there_is_some(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node()
    api = await cluster.start(spool_max="3MB")
    await cluster.ready()
    room = cluster.cluster.context.spool.room
    room.patience = 0.1
    other = await api.init()
    assert await api.upload(other, a__jpg=b"a" * 2_800_000) == {"success": True}
    photos = [tmp_path / f"{number}.jpg" for number in range(6)]
    for path in photos:
        path.write_bytes(path.name.encode() * 40_000)

    async def free() -> None:
        await room.short.wait()
        await eventually(lambda: room.waiting)
        await eventually(lambda: not room.waiting)
        assert await api.post("/task/remove", {"uuid": other}) == {"success": True}

    def work(node: Node) -> None:
        task = node.create_task([str(path) for path in photos], retry_timeout=1)
        task.wait_for_completion(interval=0.2)
        assert task.info().images_count == 6

    await asyncio.gather(client(cluster, work), free())


async def test_an_upload_that_never_finds_room_ends_with_the_reason(cluster: Rig, tmp_path: Path) -> None:
    api = await cluster.start(spool_max="1MB")
    cluster.cluster.context.spool.room.patience = 0.1
    other = await api.init()
    assert await api.upload(other, a__jpg=b"a" * 900_000) == {"success": True}
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x" * 200_000)

    def work(node: Node) -> None:
        with pytest.raises(NodeResponseError, match="No room left for uploads here, try again later"):
            node.create_task([str(photo)], max_retries=1, retry_timeout=0)

    await client(cluster, work)


async def test_kept_results_come_in_parallel_ranges(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node()
    await cluster.start(results="keep")
    photos = [str(path) for path in make_photos(tmp_path / "photos", 2)]

    def work(node: Node) -> None:
        task = node.create_task(photos)
        task.wait_for_completion(interval=0.1)
        archive = Path(task.download_zip(str(tmp_path), parallel_downloads=4, parallel_chunks_size=0.001))
        held = cluster.cluster.context.results.archive(task.uuid)
        assert held is not None
        assert archive.read_bytes() == held.read_bytes()

    await client(cluster, work)


async def test_cancel_and_restart(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(seconds=30)
    await cluster.start()
    photos = [str(path) for path in make_photos(tmp_path / "photos", 2)]

    def work(node: Node) -> None:
        task = node.create_task(photos)
        assert task.cancel()
        with pytest.raises(TaskFailedError):
            task.wait_for_completion(interval=0.1)
        cluster.nodes[0].knobs.seconds = 0
        assert task.restart({"dsm": True})
        task.wait_for_completion(interval=0.1)
        assert task.info().options[:1] == [{"name": "dsm", "value": True}]

    await client(cluster, work)


async def test_errors_are_those_of_a_node(cluster: Rig, tmp_path: Path) -> None:
    await cluster.start(token="hush-client")
    photos = [str(path) for path in make_photos(tmp_path / "photos", 1)]

    def work(node: Node) -> None:
        with pytest.raises(NodeResponseError, match="not in enum"):
            node.create_task(photos, {"feature-type": "bogus"})
        with pytest.raises(NodeResponseError, match="Unauthorized"):
            Node("127.0.0.1", cluster.cluster.ports[0], "wrong").info()

    await client(cluster, work, token="hush-client")


async def test_many_tasks_at_once(cluster: Rig, tmp_path: Path) -> None:
    for _ in range(3):
        await cluster.add_node(seconds=0.2)
    await cluster.start()
    await cluster.ready()
    photos = [str(path) for path in make_photos(tmp_path / "photos", 3)]

    def work(node: Node) -> None:
        node.create_task(photos, parallel_uploads=3).wait_for_completion(interval=0.1)

    await asyncio.gather(*(client(cluster, work) for _ in range(9)))
    assert sum(len(node.commits) for node in cluster.nodes) == 9
    assert all(node.commits for node in cluster.nodes)
