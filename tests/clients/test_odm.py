# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""ODM's own split-merge client through the cluster, over development nodes and over real ones.

Needs a checkout of OpenDroneMap/ODM in ODM; for real nodes also NODEODM and NODEODX, as the node contract does. The job
itself runs on a development node, which starts no engine: the test is the engine, with what that node was told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Outcome, Phase
from tests.needs import NEEDS
from tests.node_contract.nodes import DEVNODE, REAL, Program, checkout
from tests.support import Api, Rig, eventually

if not os.environ.get("ODM"):
    pytest.skip(f"{NEEDS}ODM itself: ODM=checkout of OpenDroneMap/ODM", allow_module_level=True)

HARNESS = Path(__file__).with_name("odm.py")
SPLIT = '[{"name": "split", "value": "2"}]'


class Setting:
    """A cluster, a job on a node of its own, two nodes for its submodels, and its engine."""

    def __init__(self, rig: Rig, kind: str) -> None:
        self.rig = rig
        self.kind = kind
        self.job = ""
        self.programs: list[Program] = []
        self.nodes: list[Api] = []
        self._engine: asyncio.subprocess.Process | None = None
        self._output = rig.folder / "engine"

    async def begin(self, *, seconds: int, submodels: int = 4) -> None:
        """Start all of it."""
        home = await self.rig.add_node(seconds=600)
        api = await self.rig.start(node_lost_after=2)
        await self.rig.ready()
        self.job = await api.create(1, options=SPLIT)
        await eventually(lambda: self.rig.entry(self.job).task.phase is Phase.RUNNING)
        for kind in (DEVNODE, DEVNODE) if self.kind == DEVNODE else REAL:
            await self._add_node(kind, seconds)
        await self.rig.ready()
        [url] = [option["value"] for option in home.tasks[self.job].options if option["name"] == "sm-cluster"]
        await self._start_engine(str(url), submodels)

    async def _add_node(self, kind: str, seconds: int) -> None:
        program = Program(kind, self.rig.folder / f"node-{len(self.nodes)}")
        await asyncio.to_thread(program.start, "--test_seconds", str(seconds))
        self.rig.stack.callback(program.end)
        self.programs.append(program)
        node = Api(program.url)
        self.rig.stack.push_async_callback(node.session.close)
        self.nodes.append(node)
        await self.rig.cluster.context.registry.add(make_address("127.0.0.1", program.port))

    async def _start_engine(self, url: str, submodels: int) -> None:
        project = self.rig.folder / "project"
        project.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environ = {"PATH": path, "SUBMODELS": str(submodels), "LOCAL_SECONDS": "3", "no_ansiesc": "1"}
        with self._output.open("wb") as output:
            self._engine = await asyncio.create_subprocess_exec(
                sys.executable, str(HARNESS), "--split", "2", "--sm-cluster", url, "--project-path", str(project),
                stdout=output, stderr=output, env=os.environ | environ, start_new_session=True,
            )  # fmt: skip
        self.rig.stack.push_async_callback(self._kill)

    async def _kill(self) -> None:
        assert self._engine is not None
        if self._engine.returncode is None:
            os.killpg(self._engine.pid, signal.SIGKILL)
        await self._engine.wait()

    def terminate(self) -> None:
        """End the engine as a node does that cancels its task."""
        assert self._engine is not None
        self._engine.terminate()

    async def ends(self, seconds: float = 120.0) -> tuple[int, str]:
        """The exit status of the engine, and what it printed."""
        assert self._engine is not None
        async with asyncio.timeout(seconds):
            status = await self._engine.wait()
        return status, self._output.read_text()

    async def lists(self) -> list[int]:
        """How many tasks each of the nodes has."""
        return [len(await node.get("/task/list")) for node in self.nodes]

    async def busy(self) -> bool:
        """Whether each of the nodes has a task."""
        return all(await self.lists())

    async def idle(self) -> bool:
        """Whether none of the nodes has a task."""
        return not any(await self.lists())


@pytest.fixture(params=[DEVNODE, "real"])
async def setting(request: pytest.FixtureRequest, cluster: Rig) -> Setting:
    for kind in REAL if request.param == "real" else ():
        checkout(kind)
    return Setting(cluster, request.param)


async def test_a_whole_job(setting: Setting) -> None:
    await setting.begin(seconds=2)
    status, output = await setting.ends()
    assert status == 0, output
    assert "merged 4 of 4 submodels" in output
    assert output.count("Cleaning up remote task") == output.count("... OK") >= 2
    assert "Re-queueing" not in output
    await eventually(setting.idle)


@pytest.mark.parametrize("engine", ["is ended by its node", "outlives its node"])
async def test_a_job_that_is_canceled_midway(setting: Setting, engine: str) -> None:
    await setting.begin(seconds=60)
    await eventually(setting.busy, seconds=60)
    await setting.rig.api.post("/task/cancel", {"uuid": setting.job})
    if engine == "is ended by its node":
        setting.terminate()
    await eventually(setting.idle, seconds=10)
    status, output = await setting.ends()
    assert status != 0
    assert "merged" not in output
    active = [entry.task for entry in setting.rig.cluster.context.tasks.active()]
    assert [task for task in active if task.job] == []
    assert setting.rig.entry(setting.job).task.outcome is Outcome.CANCELED


async def test_a_node_that_is_killed_midway(setting: Setting) -> None:
    await setting.begin(seconds=4)
    await eventually(setting.busy, seconds=60)
    setting.programs[0].end()
    status, output = await setting.ends(240)
    assert status == 0, output
    assert "merged 4 of 4 submodels" in output
    assert "Re-queueing" not in output
