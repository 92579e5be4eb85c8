# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small disk that is really filled: nothing accepted is lost, and it recovers by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.tasks import Phase
from tests.needs import NEEDS, need
from tests.support import Api, Rig, eventually, images

MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """40 MB as the data folder."""
    need(root=True)
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"{NEEDS}the right to mount a tmpfs (CAP_SYS_ADMIN)")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def send(api: Api, uuid: str, name: str, size: int) -> str:
    """Upload one file; the error, empty when it was taken."""
    answer = await api.post(f"/task/new/upload/{uuid}", images({name: name.encode() * (size // len(name))}))
    return str(answer.get("error", ""))


def fill(path: Path) -> None:
    """Take all that is left, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    assert shutil.disk_usage(path.parent).free == 0


async def _full(cluster: Rig, **settings: Any) -> tuple[Api, str]:
    """A cluster whose disk is more than half full of the held files of a running task."""
    await cluster.add_node(seconds=60)
    api = await cluster.start(**settings)
    cluster.cluster.context.spool.room.patience = 1.0
    await cluster.ready()
    running = await api.init()
    for number in range(4):
        assert await send(api, running, f"{number}.jpg", 5 * MB) == ""
    await api.commit(running)
    await eventually(lambda: cluster.entry(running).task.phase is Phase.RUNNING)
    return api, running


async def test_uploads_get_a_clear_error_and_running_tasks_keep_their_files(cluster: Rig, small_disk: Path) -> None:
    api, running = await _full(cluster)
    waiting = await api.init()
    for number in range(3):
        assert await send(api, waiting, f"{number}.jpg", 5 * MB) == ""
    assert await send(api, waiting, "3.jpg", 5 * MB) == "No room left for uploads here, try again later"
    assert len(await cluster.cluster.context.spool.listing(running)) == 4
    cluster.nodes[0].knobs.seconds = 0
    await api.post("/task/cancel", {"uuid": running})
    for number in range(3, 5):  # a task that is over makes room
        assert await send(api, waiting, f"{number}.jpg", 5 * MB) == ""
    await api.commit(waiting)
    info = await api.ends(waiting)
    assert info["imagesCount"] == 5


async def test_held_files_of_running_tasks_make_room_where_that_is_allowed(cluster: Rig, small_disk: Path) -> None:
    api, running = await _full(cluster, release_running_files=True)
    waiting = await api.init()
    for number in range(5):
        assert await send(api, waiting, f"{number}.jpg", 5 * MB) == ""
    assert any("held files released" in line for line in await cluster.timeline(running))
    assert cluster.entry(running).task.phase is Phase.RUNNING


async def test_an_abandoned_upload_makes_room_on_a_full_disk_and_a_running_task_survives_its_node(
    cluster: Rig, small_disk: Path
) -> None:
    api, running = await _full(cluster, node_lost_after=3600)
    abandoned, waiting = await api.init(), await api.init()
    for number in range(2):
        assert await send(api, abandoned, f"{number}.jpg", 5 * MB) == ""
    cluster.clock.ahead += 660
    for number in range(3):
        assert await send(api, waiting, f"{number}.jpg", 5 * MB) == ""
    assert "given up" in await send(api, abandoned, "late.jpg", MB)
    await cluster.stop_node(0)
    await cluster.add_node()
    await eventually(lambda: cluster.entry(running).unreachable_since)
    cluster.clock.ahead += 3660
    info = await api.ends(running)
    assert info["imagesCount"] == 4


async def test_a_disk_filled_by_another_program_costs_only_time(cluster: Rig, small_disk: Path) -> None:
    node = await cluster.add_node(seconds=1.0)
    api = await cluster.start(results="keep")
    await cluster.ready()
    first, second = await api.init(), await api.init()
    for uuid in (first, second):
        assert await send(api, uuid, "a.jpg", 2 * MB) == ""
    await api.commit(first)
    await eventually(node.busy)
    filler = small_disk / "somebody else's"
    fill(filler)
    assert (await send(api, second, "b.jpg", 2 * MB)).startswith(("No room left", "No space left"))
    assert "error" in await api.commit(second) or await api.code(second) in (10, 20)
    assert await api.code(first) in (10, 20)
    await eventually(lambda: node.tasks[first].code == 40)
    assert await api.code(first) == 20
    filler.unlink()
    await api.ends(first)
    assert await send(api, second, "b.jpg", 2 * MB) in ("", "Invalid uuid (not found)")
    assert await api.commit(second) == {"uuid": second}
    await api.ends(second)
    lines = await api.get(f"/task/{first}/output")
    assert lines == node.tasks[first].output


async def test_the_quota_may_be_a_size(cluster: Rig) -> None:
    api = await cluster.start(spool_max="3MB")
    uuid = await api.init()
    assert await send(api, uuid, "a.jpg", 2 * MB) == ""
    assert await send(api, uuid, "b.jpg", 2 * MB) == "No room left for uploads here, try again later"
    await api.commit(uuid)
    await api.post("/task/remove", {"uuid": uuid})
    assert await send(api, await api.init(), "a.jpg", 2 * MB) == ""
