# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What time takes care of, with a clock that tests turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from clusterodm.app import Cluster, running_cluster
from clusterodm.cluster.janitor import HOUR, Janitor
from clusterodm.core.tasks import Phase
from clusterodm.settings import load_settings
from clusterodm.spool import BLOCK, Spool
from tests.support import FAST, Api, TurnedClock


class Aged:
    """A cluster, its clock and its janitor."""

    def __init__(self, cluster: Cluster, clock: TurnedClock, stale: int) -> None:
        self.cluster = cluster
        self.clock = clock
        parts = cluster.context
        self.janitor = Janitor(
            parts.store,
            parts.tasks,
            parts.spool,
            parts.consoles,
            parts.results,
            parts.autoscaler.fleet,
            parts.uploads,
            stale_uploads_hours=stale,
            keep_finished_hours=720,
            clock=clock,
        )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def aged(stack: AsyncExitStack, folder: Path, *, stale: int = 0) -> tuple[Aged, Api]:
    clock = TurnedClock()
    flags: dict[str, Any] = FAST | {"data_dir": folder / "data"}
    cluster = await stack.enter_async_context(running_cluster(load_settings(flags, environ={}), clock=clock))
    api = Api(cluster.url)
    stack.push_async_callback(api.session.close)
    return Aged(cluster, clock, stale), api


@pytest.mark.parametrize(("stale", "kept", "gone"), [(0, 47, 49), (5, 4, 6)])
async def test_an_upload_without_activity_is_given_up_after_the_timeout(
    stack: AsyncExitStack, tmp_path: Path, stale: int, kept: int, gone: int
) -> None:
    old, api = await aged(stack, tmp_path, stale=stale)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    old.clock.ahead = kept * HOUR
    await old.janitor.sweep()
    assert await api.upload(uuid, b__jpg=b"b") == {"success": True}
    old.clock.ahead = (kept + gone) * HOUR
    await old.janitor.sweep()
    assert await api.upload(uuid, c__jpg=b"c") == {
        "error": f"Invalid uuid (not found): the upload was given up because nothing was uploaded for {gone}.0 h; "
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


async def test_files_of_a_request_that_never_became_a_task_go(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, _ = await aged(stack, tmp_path)
    spool = old.cluster.context.spool
    dead = Spool(tmp_path / "data" / "spool", owner="dead")
    part = dead.new_part("00000000-0000-4000-8000-000000000000")
    await part.close()
    await old.janitor.sweep()
    assert len(await spool.tasks()) == 1
    old.clock.ahead = 49 * HOUR
    await old.janitor.sweep()
    assert await spool.tasks() == []


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
