# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cluster as an actor: the whole program in a simulated process, killed and started again on its folder."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import event
from sqlalchemy.engine import Engine

from clusterodm.cluster.state.entry import Entry
from clusterodm.core.machines import Machine
from clusterodm.server.app import Cluster, running_cluster
from clusterodm.server.serving import Sockets
from clusterodm.settings import load_settings
from clusterodm.testing.simulation import History, Host, Program, Simulation
from tests.simulation.phases import Phases

PORT = 3000
#: Seconds that a machine may take to boot, and between two looks at it.
BOOT = 180.0
LOOK = 2.0


class ClusterActor(Program):
    """The program."""

    def __init__(self, simulation: Simulation, host: Host, history: History, flags: dict[str, Any]) -> None:
        super().__init__(host, history)
        self.cluster: Cluster | None = None
        self.up = asyncio.Event()
        #: When it went down last.
        self.down_at = 0.0
        self._simulation = simulation
        self._flags = flags
        self._generations = itertools.count(1)
        self._folder = simulation.root / "cluster-0"
        self._phases = Phases(history, self.name)

    @property
    def url(self) -> str:
        """Its URL for clients."""
        return f"http://{self.host.address}:{PORT}"

    @property
    def folder(self) -> Path:
        """Its data folder."""
        return self._folder

    @property
    def kind(self) -> str:
        """What the history calls it."""
        return "cluster"

    def kill(self) -> None:
        """Kill it at once."""
        if self.alive and self._process is not None:
            self._down()
            self._process.kill()
            before = self._next_folder()
            self._simulation.disk.carry_over(before, self._folder)
            self._history.add(self.name, "cluster killed")

    def lose_power(self) -> None:
        """Switch its host off."""
        if self.alive:
            self._down()
            self.host.lose_power()
            before = self._next_folder()
            lost = self._simulation.disk.lose_power(before, self._folder)
            self._history.add(self.name, "cluster loses power", lost=";".join(lost))

    async def stop(self) -> None:
        """End it in order."""
        if self.alive and self._process is not None:
            self._history.add(self.name, "cluster stopping")
            self._down()
            self._stop.set()
            await self._process.ended.wait()
            self._history.add(self.name, "cluster stopped")

    async def has_cleaned(self) -> bool:
        """Return True if no cleanup on a node is due."""
        return self.cluster is not None and not await self.cluster.context.store.attempts_to_clean()

    def _down(self) -> None:
        self.up.clear()
        self.cluster = None
        self.down_at = self._simulation.loop.time()

    def _next_folder(self) -> Path:
        before, self._folder = self._folder, self._simulation.root / f"cluster-{next(self._generations)}"
        return before

    async def _main(self, stop: asyncio.Event) -> None:
        network = self._simulation.network
        sockets = Sockets({"plain": network.listening(self.host.address, PORT)})  # type: ignore[dict-item]
        try:
            settings = load_settings(self._flags | {"data_dir": self._folder}, environ={})
            async with running_cluster(settings, sockets=sockets) as cluster:
                self.cluster = cluster
                self._watch(cluster)
                self._history.add(self.name, "cluster ready")
                self.up.set()
                await stop.wait()
        except Exception as error:
            self._died(error)
            raise

    def _died(self, error: Exception) -> None:
        self._history.add(self.name, "cluster died", error=f"{type(error).__name__}: {error}")

    def _watch(self, cluster: Cluster) -> None:
        cluster.context.tasks.watch(self._changed)
        cluster.context.machines.watch(self._machine_changed)

    def _changed(self, entry: Entry) -> None:
        attempt = None if entry.attempt is None else msgspec.structs.asdict(entry.attempt)
        self._phases.task(msgspec.structs.asdict(entry.task), attempt)

    def _machine_changed(self, machine: Machine) -> None:
        self._phases.machine(msgspec.structs.asdict(machine))


def write_asr(path: Path, url: str, node_port: int, idle: float) -> None:
    """Write the autoscaler's file for a pretended cloud."""
    sizes = [{"maxImages": 4, "slug": "small", "price": 0.1}, {"maxImages": 100, "slug": "large", "price": 0.4}]
    entry = {
        "provider": "hetzner",
        "apiToken": "key",
        "location": "fsn1",
        "image": "ubuntu-24.04",
        "apiUrl": url,
        "imageSizeMapping": sizes,
        "nodePort": node_port,
        "machinesLimit": 3,
        "idleTimeout": idle,
        "bootTimeout": BOOT,
    }
    path.write_text(json.dumps(entry))


def virtual_database_time(simulation: Simulation) -> None:
    """Let every connection of SQLAlchemy tell virtual time."""

    @event.listens_for(Engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        simulation.now_in_sql(connection.driver_connection._conn)
