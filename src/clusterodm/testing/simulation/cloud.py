# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Clouds as actors: the pretended ones of `clusterodm.testing`, whose machines are hosts with a node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from aiohttp import web

from clusterodm.devnode import Knobs
from clusterodm.testing.simulation.history import History
from clusterodm.testing.simulation.hosts import Host, Process
from clusterodm.testing.simulation.nodes import NodeActor
from clusterodm.testing.world import FakeMachine, World


class CloudActor(World):
    """A cloud whose API is served by a process, and whose machines boot in virtual time."""

    def __init__(self, host: Host, folder: Path, history: History, *, node_port: int, boot_seconds: float) -> None:
        super().__init__(port=node_port)
        self.host = host
        self.history = history
        self.boot_seconds = boot_seconds
        #: Nodes of machines by the machine's id.
        self.nodes: dict[str, NodeActor] = {}
        self._folder = folder

    def serve(self, app: web.Application, port: int) -> None:
        """Serve an API in a process of the cloud's host."""
        app.middlewares.append(self._middleware)
        Process(self.host, self.host.name).run(self._serve(app, port))

    async def _serve(self, app: web.Application, port: int) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - of its simulated host
        await asyncio.Event().wait()

    def start(self, machine: FakeMachine) -> None:
        """Power a machine on; its node answers once it has booted."""
        machine.state = "running"
        self.history.add(self.host.name, "machine created", machine.name, size=machine.size, address=machine.address)
        if not self.dead_on_arrival:
            asyncio.get_running_loop().call_later(self.boot_seconds, self._boot, machine)

    def delete(self, machine: FakeMachine, *, keep_volumes: bool = False) -> None:
        """Delete a machine at once; its host loses power."""
        known = machine.id in self.machines
        node = self.nodes.get(machine.id)
        busy = node.running() if node is not None else []
        super().delete(machine, keep_volumes=keep_volumes)
        if known:
            self.history.add(self.host.name, "machine deleted", machine.name, busy=",".join(busy))
        if node is not None and node.host.up:
            node.lose_power(wiped=True)

    def _boot(self, machine: FakeMachine) -> None:
        if machine.id not in self.machines:
            return
        document = json.loads(machine.user_data.removeprefix("#cloud-config\n"))
        written = {file["path"]: file["content"] for file in document["write_files"]}
        config = json.loads(written["/etc/clusterodm/node.json"])
        knobs = Knobs(
            token=config["token"], max_images=config["maxImages"], slots=config["parallelQueueProcessing"], **self.knobs
        )
        host = self.host.network.host(machine.name, machine.address)
        node = NodeActor(host, self._folder / machine.name, knobs, self.history, port=self.port)
        self.nodes[machine.id] = node
        node.start()
