# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The process dies on a machine's way from the order to its end: one machine at most, none left, no task lost."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.processes import program
from tests.providers.support import running_cloud
from tests.support import Rig, eventually

#: Method and which call of it. Steps of a machine: booting, ready, draining, deleting, gone; its node becomes known
#: between the first two. Calls of Scaleway, whose creation has three steps.
POINTS = [
    "store.add_machine:before:1",
    "store.add_machine:after:1",
    "provider.create:before:1",
    "provider.create:after:1",
    *(f"store.advance_machine:{when}:{count}" for count in (1, 2, 3, 4, 5) for when in ("before", "after")),
    "store.change_machine:before:1",
    "store.change_machine:after:1",
    "provider.delete:before:1",
    "provider.delete:after:1",
    *(f"rest.call:after:{count}" for count in (3, 4, 5, 6)),
]


@pytest.mark.parametrize("point", POINTS)
async def test_death_leaves_no_machine_and_no_task_behind(cluster: Rig, point: str) -> None:
    async with running_cloud("scaleway", seconds=0.3) as cloud:
        assert cloud.world is not None
        path = cluster.folder / "asr.json"
        path.write_text(json.dumps(cloud.entry | {"idleTimeout": 0.3}))
        settings: dict[str, Any] = {"asr": path, "machine-poll-interval": 0.1}
        running = await cluster.stack.enter_async_context(program(cluster.folder, **settings))
        running.launcher = ["-m", "tests.faults.crashing", point]
        api = await running.start()
        uuid = await api.create(2)
        deaths = 0

        async def over() -> bool:
            nonlocal deaths
            if running.died():
                deaths += 1
                running.launcher = ["-m", "tests.faults.crashing", "store.close:after:9"]
                await running.start()
            try:
                return await api.code(uuid) == 40 and deaths == 1 and not cloud.names()
            except (aiohttp.ClientError, ConnectionError):
                return False  # it is dying

        await eventually(over, seconds=40)
        await eventually(lambda: cloud.world and not cloud.world.volumes)
        assert len(cloud.world.created) == 1, "never a second machine for one task"
        status, _, archive = await api.raw("GET", f"/task/{uuid}/download/all.zip")
        assert (status, archive[:2]) == (200, b"PK")
