# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What time takes care of, with a clock that tests turn."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from clusterodm.admin.operations.figures import status
from clusterodm.cluster.tasks import janitor
from clusterodm.cluster.tasks.janitor import HOUR, Janitor
from clusterodm.core.tasks import Phase
from clusterodm.files.spool import BLOCK
from clusterodm.server.app import Cluster, running_cluster
from clusterodm.settings import load_settings
from tests.support import FAST, Api, TurnedClock, images


class Aged:
    """A cluster, its clock and its janitor."""

    def __init__(self, cluster: Cluster, clock: TurnedClock, stale: int) -> None:
        self.cluster = cluster
        self.clock = clock
        parts = cluster.context
        self.janitor = Janitor(
            state=parts.control.state,
            files=parts.control.files,
            fleet=parts.autoscaler.fleet,
            uploads=parts.uploads,
            strays=parts.strays,
            stale_uploads=(stale or janitor.DEFAULT_HOURS) * HOUR,
            keep_finished=720 * HOUR,
            clock=clock,
        )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exit_stack:
        yield exit_stack


async def aged(stack: AsyncExitStack, folder: Path, *, stale: int = 0, **settings: Any) -> tuple[Aged, Api]:
    clock = TurnedClock()
    flags: dict[str, Any] = FAST | {"data_dir": folder / "data"} | settings
    cluster = await stack.enter_async_context(running_cluster(load_settings(flags, environ={}), clock=clock))
    api = Api(cluster.url)
    stack.push_async_callback(api.session.close)
    return Aged(cluster, clock, stale), api


@pytest.mark.parametrize(("stale", "hours_kept", "hours"), [(0, 47, 49), (5, 4, 6)])
async def test_an_upload_without_activity_is_given_up_after_the_timeout(
    stack: AsyncExitStack, tmp_path: Path, stale: int, hours_kept: int, hours: int
) -> None:
    old, api = await aged(stack, tmp_path, stale=stale)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    old.clock.ahead = hours_kept * HOUR
    await old.janitor.sweep()
    assert await api.upload(uuid, b__jpg=b"b") == {"success": True}
    old.clock.ahead = (hours_kept + hours) * HOUR
    await old.janitor.sweep()
    assert await api.upload(uuid, c__jpg=b"c") == {
        "error": f"Invalid uuid (not found): the upload was given up because nothing was uploaded for {hours}.0 h; "
        "begin again",
        "noRetry": True,
    }
    assert await old.cluster.context.spool.tasks() == []
    assert await old.cluster.context.store.find_task(uuid) is None


async def test_an_upload_whose_file_takes_days_is_not_given_up(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, api = await aged(stack, tmp_path)
    uuid = await api.init()
    part = old.cluster.context.spool.new_part(uuid)
    await part.write(b"x" * BLOCK)
    old.clock.ahead = 100 * HOUR
    await old.janitor.sweep()
    assert await api.upload(uuid, b__jpg=b"b") == {"success": True}
    part.drop()
    old.clock.ahead = 200 * HOUR
    await old.janitor.sweep()
    assert "nothing was uploaded for 100.0 h" in (await api.upload(uuid, b__jpg=b"b"))["error"]


async def test_a_waiting_task_is_never_given_up(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, api = await aged(stack, tmp_path)
    uuid = await api.create()
    old.clock.ahead = 10_000 * HOUR
    await old.janitor.sweep()
    assert await api.code(uuid) == 10
    assert len(await old.cluster.context.spool.listing(uuid)) == 2


async def test_held_files_of_a_canceled_task_stay_for_a_restart_as_long_as_on_a_node(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    old, api = await aged(stack, tmp_path)
    uuid = await api.create()
    await api.post("/task/cancel", {"uuid": uuid})
    old.clock.ahead = 47 * HOUR
    await old.janitor.sweep()
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": True}
    await api.post("/task/cancel", {"uuid": uuid})
    old.clock.ahead = 97 * HOUR
    await old.janitor.sweep()
    assert "not held here" in (await api.post("/task/restart", {"uuid": uuid}))["error"]
    assert await api.code(uuid) == 50


async def test_a_finished_task_is_listed_for_two_days_known_for_thirty_and_then_forgotten(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    old, api = await aged(stack, tmp_path)
    uuid = await api.create()
    await api.post("/task/cancel", {"uuid": uuid})
    assert await api.get("/task/list") == [{"uuid": uuid}]
    old.clock.ahead = 49 * HOUR
    assert await api.get("/task/list") == []
    assert await api.code(uuid) == 50
    old.clock.ahead = 721 * HOUR
    await old.janitor.sweep()
    assert await api.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}
    assert await old.cluster.context.store.find_task(uuid) is None


async def test_one_sweep_cleans_up_after_all_that_was_removed(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_PAGE", 3)
    old, api = await aged(stack, tmp_path)
    store = old.cluster.context.store
    removed, forgotten = [[await api.create() for _ in range(10)] for _ in range(2)]
    for uuid in removed:
        await api.post("/task/remove", {"uuid": uuid})
    await old.janitor.sweep()
    assert await store.removed(limit=99) == []
    for uuid in forgotten:
        await api.post("/task/cancel", {"uuid": uuid})
    old.clock.ahead = 721 * HOUR
    await old.janitor.sweep()
    assert await store.find_tasks_by_uuid(removed + forgotten) == []
    assert await old.cluster.context.spool.tasks() == []


UNKNOWN = "00000000-0000-4000-8000-000000000000"


def leave(folder: Path, uuid: str = UNKNOWN, *, age: float = 0.0) -> list[Path]:
    """Files of a task that no database knows: held, results, a console; some of them long ago."""
    data = folder / "data"
    paths = [data / f"spool/{uuid}/files/a.jpg", data / f"results/{uuid}/all.zip"]
    paths.append(data / f"console/{uuid[:2]}/{uuid}.jsonl")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")
    for path in (paths[0], paths[0].parent, paths[0].parents[1]):
        os.utime(path, (time.time() - age, time.time() - age))
    return paths


async def test_stray_files_are_reported_at_once_and_go_to_the_trash_after_a_grace(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    old, _ = await aged(stack, tmp_path)
    context, orphans = old.cluster.context, leave(tmp_path, age=1000 * HOUR)
    await old.janitor.sweep()
    assert all(path.exists() for path in orphans), "their grace begins at this start, however old they are"
    assert [UNKNOWN in problem for problem in (await status(context)).problems] == [False, True]
    old.clock.ahead = 47 * HOUR
    await old.janitor.sweep()
    assert all(path.exists() for path in orphans)
    old.clock.ahead = 49 * HOUR
    await old.janitor.sweep()
    assert not any(path.exists() for path in orphans)
    trash = tmp_path / "data" / "trash"
    assert sorted(path.name.partition("-")[2] for path in trash.iterdir()) == [
        f"console-{UNKNOWN}",
        f"results-{UNKNOWN}",
        f"spool-{UNKNOWN}",
    ]
    assert context.strays.files.trash.size == context.spool.room.trash == 15
    assert not any(UNKNOWN in problem for problem in (await status(context)).problems)
    old.clock.ahead = (49 + 24 * 7 - 1) * HOUR
    await old.janitor.sweep()
    assert len(list(trash.iterdir())) == 3
    old.clock.ahead = (49 + 24 * 7 + 1) * HOUR
    await old.janitor.sweep()
    assert list(trash.iterdir()) == []
    assert context.spool.room.trash == 0


async def test_the_trash_goes_before_anything_else_when_room_is_short_and_unknown_files_do_not(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    old, api = await aged(stack, tmp_path, spool_max="1MB")
    context, [orphan, *_] = old.cluster.context, leave(tmp_path, age=1000 * HOUR)
    orphan.write_bytes(b"x" * 400_000)
    await context.spool.measure()
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"x" * 300_000)
    context.spool.room.patience = 0.3
    assert "No room left" in (await api.upload(uuid, b__jpg=b"x" * 500_000))["error"]
    assert orphan.exists()
    await context.strays.take_away("spool", UNKNOWN)
    assert context.spool.room.free_bytes() < 400_000, "the trash takes room, too"
    context.spool.room.patience = 5.0
    assert await api.upload(uuid, b__jpg=b"x" * 500_000) == {"success": True}
    assert list((tmp_path / "data" / "trash").iterdir()) == []


async def test_a_new_task_does_not_get_the_files_of_an_unknown_one_with_its_uuid(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    old, api = await aged(stack, tmp_path)
    leave(tmp_path)
    uuid = await api.init(uuid=UNKNOWN)
    await api.upload(uuid, b__jpg=b"b")
    assert [file.name for file in await old.cluster.context.spool.listing(uuid)] == ["b.jpg"]
    assert await api.commit(uuid) == {"uuid": uuid}
    assert await api.get(f"/task/{uuid}/output") == []
    other = UNKNOWN.replace("8", "9")
    leave(tmp_path, other)
    await api.post("/task/new", images({"c.jpg": b"c"}), headers={"set-uuid": other})
    assert [file.name for file in await old.cluster.context.spool.listing(other)] == ["c.jpg"]
    assert len(list((tmp_path / "data" / "trash").iterdir())) == 6


async def test_a_clock_that_jumps_back_loses_nothing(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, api = await aged(stack, tmp_path)
    uuid = await api.create()
    old.clock.jumped = -1000 * HOUR
    await old.janitor.sweep()
    assert await api.code(uuid) == 10
    assert old.cluster.context.tasks.get(uuid).task.phase is Phase.QUEUED  # type: ignore[union-attr]


async def test_a_clock_that_jumps_forward_makes_nothing_old(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, api = await aged(stack, tmp_path)
    receiving, canceled = await api.init(), await api.create()
    await api.upload(receiving, a__jpg=b"kept")
    await api.post("/task/cancel", {"uuid": canceled})
    old.clock.jumped = 10_000 * HOUR
    await old.janitor.sweep()
    spool = old.cluster.context.spool
    assert sorted(await spool.tasks()) == sorted([receiving, canceled])
    assert await api.code(canceled) == 50
    assert await api.upload(receiving, b__jpg=b"more") == {"success": True}
    old.clock.ahead = 49 * HOUR
    await old.janitor.sweep()
    assert await spool.tasks() == []
