# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes as actors: real development nodes, each a process on a host of its own, whose work goes into the history."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from clusterodm.core.tasks import RUNNING_CODE
from clusterodm.devnode import DevNode, Knobs, make_app
from clusterodm.devnode.tasks import DevTask
from clusterodm.testing.simulation.history import History
from clusterodm.testing.simulation.hosts import Host, Program


class ObservedNode(DevNode):
    """A development node whose commits and runs go into the history."""

    def __init__(self, folder: Path, knobs: Knobs, options: list[dict[str, Any]], name: str, history: History) -> None:
        super().__init__(folder, knobs, options)
        self._name = name
        self._history = history

    def commit(self, uuid: str, fields: dict[str, str], no_file: str) -> None:
        """Accept a task, and note its files."""
        contents = {name: path.read_bytes() for name, path in sorted(self.folders.held(uuid).items())}
        super().commit(uuid, fields, no_file)
        self._history.add(self._name, "node commit", uuid, files=digest_of_files(contents), count=len(contents))

    async def _run(self, task: DevTask) -> None:
        self._history.add(self._name, "run begins", task.uuid)
        try:
            await super()._run(task)
        finally:
            self._history.add(self._name, "run ends", task.uuid, code=task.code)


def digest_of_files(files: dict[str, bytes]) -> str:
    """Return a short hash of files and their names."""
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


class NodeActor(Program):
    """A node that can be killed, restarted and wiped."""

    def __init__(self, host: Host, folder: Path, knobs: Knobs, history: History, *, port: int = 3000) -> None:
        super().__init__(host, history)
        self.knobs = knobs
        self.node: ObservedNode | None = None
        self._folder = folder
        self._port = port
        self._generations = itertools.count(1)

    @property
    def kind(self) -> str:
        """What the history calls it."""
        return "node"

    def running(self) -> list[str]:
        """Return the uuids that run on it now."""
        tasks = self.node.tasks.values() if self.node is not None and self.alive else ()
        return [task.uuid for task in tasks if task.code == RUNNING_CODE]

    def kill(self) -> None:
        """Stop it at once: it forgets tasks that it has not saved."""
        if self.alive and self._process is not None:
            self._process.kill()
            self._carry_over()
            self._history.add(self.name, "node killed")

    def lose_power(self, *, wiped: bool) -> None:
        """Switch its host off; its disk is empty afterwards if it is `wiped`."""
        self.host.lose_power()
        if wiped:
            self._folder = self._folder.with_name(f"{self.name}-{next(self._generations)}")
        else:
            self._carry_over()
        self._history.add(self.name, "node loses power", wiped=wiped)

    async def stop(self) -> None:
        """End it in order: it saves its tasks."""
        if self.alive and self._process is not None:
            self._stop.set()
            await self._process.ended.wait()
            self._history.add(self.name, "node stops")

    def _carry_over(self) -> None:
        """Give the next process a copy of the files: what is left of this one must not touch them."""
        before, self._folder = self._folder, self._folder.with_name(f"{self.name}-{next(self._generations)}")
        if before.exists():
            shutil.copytree(before, self._folder)

    async def _main(self, stop: asyncio.Event) -> None:
        described = msgspec.json.decode(files("clusterodm").joinpath("nodeodm-options.json").read_bytes())
        self._folder.mkdir(exist_ok=True)
        node = self.node = ObservedNode(self._folder, self.knobs, described, self.name, self._history)
        runner = web.AppRunner(make_app(node), access_log=None, shutdown_timeout=0.1, read_bufsize=1 << 20)
        await runner.setup()
        try:
            await web.TCPSite(runner, "0.0.0.0", self._port).start()  # noqa: S104 - of its simulated host
            async with node.working():
                await stop.wait()
                node.dump()
        finally:
            await runner.cleanup()
