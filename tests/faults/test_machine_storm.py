# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A short storm over machines; `make machine-faults` is the long one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from clusterodm.devnode import DevNode, Knobs
from clusterodm.devnode.tasks import DevTask
from clusterodm.testing import World
from tests.faults.machine_storm import MISHAPS, Storm, run
from tests.processes import free_port


async def test_no_task_is_lost_no_machine_is_left_and_no_busy_one_deleted() -> None:
    storm = await run(24, 7, 10, Console(width=200))
    assert storm.problems == []
    assert storm.lost.total() == 0
    assert len(storm.counts) > len(MISHAPS) // 2


async def test_a_storm_notices_a_busy_machine_that_is_deleted(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        storm = Storm(tmp_path, 1, stack)
        world = World(port=free_port())
        storm.watch(world)
        folder = tmp_path / "node"
        for state, doomed in ((20, False), (40, False), (20, True)):
            machine = world.create(f"m{len(world.created)}", "small", "here")
            machine.node = DevNode(folder, Knobs(), [])
            machine.node.tasks["t"] = DevTask(uuid="t", name="", options=[], date_created=0, code=state)
            storm.doomed |= {machine.name} if doomed else set()
            world.delete(machine)
    assert storm.murders == ["m0"]
