# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nothing that changed is lost to those who watch, whatever goes wrong with a tick."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clusterodm.admin import feed
from clusterodm.admin.feed import Feed
from clusterodm.core.errors import StoreDown
from tests.admin.support import start
from tests.support import Rig, eventually


def pending_events(queue: asyncio.Queue[bytes], kind: str) -> list[Any]:
    """The data of all events of a kind that wait."""
    events = []
    while not queue.empty():
        name, data = queue.get_nowait().decode().split("\n")[:2]
        if name == f"event: {kind}":
            events.append(json.loads(data.removeprefix("data: ")))
    return events


async def down(*_: Any) -> None:
    raise StoreDown("later")


async def test_a_tick_that_fails_tells_with_the_next_one(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.add_node(seconds=60)
    api, _ = await start(cluster)
    watched = Feed(cluster.cluster.context)
    async with watched.watching() as waiting:
        uuid = await api.create(1)
        await eventually(lambda: cluster.entry(uuid).task.phase == "running")
        pending_events(waiting, "task")
        with monkeypatch.context() as failing:
            failing.setattr("clusterodm.admin.feed.figures.status", down)
            with pytest.raises(StoreDown):
                await watched.tick()
        assert pending_events(waiting, "task") == []
        await watched.tick()
        assert [view["uuid"] for view in pending_events(waiting, "task")] == [uuid]


async def test_progress_beyond_the_limit_of_a_tick_comes_with_the_next_one(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_MANY", 1)
    await cluster.add_node(seconds=60, slots=3)
    api, _ = await start(cluster, task_poll_interval=60)
    context = cluster.cluster.context
    watched = Feed(context)
    async with watched.watching() as waiting:
        uuids = [await api.create(1) for _ in range(3)]
        await eventually(lambda: all(cluster.entry(uuid).task.phase == "running" for uuid in uuids))
        await watched.tick()
        await watched.tick()
        for uuid in uuids:
            context.tasks.progress(cluster.entry(uuid), progress=42.0)
        pending_events(waiting, "progress")
        reported = []
        for _ in uuids:
            await watched.tick()
            reported += [each["uuid"] for each in pending_events(waiting, "progress")]
        assert sorted(reported) == sorted(uuids)
