# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that lie, stutter, refuse and forget: the task goes on, runs to its end once, and no poller sees an error."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from clusterodm.core.nodes import make_address
from tests.faults.liar import LIES, ActiveLie, running_liar
from tests.support import Rig, eventually, images

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize("name", LIES)
async def test_a_task_survives_a_node_that(cluster: Rig, name: str) -> None:
    await cluster.add_node(seconds=0.3, max_images=10, total_memory=8 << 30)
    liar, port = await cluster.stack.enter_async_context(running_liar(cluster.ports.pop()))
    active = liar.lies[UUID] = ActiveLie(LIES[name])
    await cluster.add_node(seconds=0.3, max_images=20)
    api = await cluster.start(node_lost_after=5.0)
    await cluster.cluster.context.registry.add(make_address("127.0.0.1", port))
    await cluster.ready()
    infos: list[dict[str, Any]] = []

    async def poll() -> None:
        while True:
            infos.append(await api.get(f"/task/{UUID}/info"))
            await asyncio.sleep(0.02)

    await api.init(uuid=UUID)
    await api.post(f"/task/new/upload/{UUID}", images({"a.jpg": b"a", "b.jpg": b"b"}))
    await api.commit(UUID)
    polling = asyncio.create_task(poll())  # noqa: TID251 - canceled below
    try:
        await eventually(lambda: any(info.get("status", {}).get("code") == 40 for info in infos), seconds=30)
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
    assert active.count > 0
    assert [info for info in infos if "error" in info or info["status"]["code"] not in (10, 20, 40)] == []
    await eventually(lambda: len(_completed(cluster)) == 1)
    assert _completed(cluster) == [(2, 1)]
    assert (await api.raw("GET", f"/task/{UUID}/download/all.zip"))[2][:2] == b"PK"


def _completed(cluster: Rig) -> list[tuple[int, int]]:
    """Images and runs of what runs or ran to its end and was not removed again."""
    tasks = [task for node in cluster.nodes for task in node.tasks.values()]
    return [(task.images_count, task.runs) for task in tasks if task.code in (10, 20, 40)]
