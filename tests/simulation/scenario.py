# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One seed from beginning to end: the parts are assembled, faults happen, everything settles, and the history is
judged."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from clusterodm.devnode import Knobs
from clusterodm.testing import HetznerApi
from clusterodm.testing.simulation import CloudActor, Event, History, Host, NodeActor, Simulation
from tests.simulation.case import given_up
from tests.simulation.clients import Client
from tests.simulation.cluster import LOOK, PORT, ClusterActor, virtual_database_time, write_asr
from tests.simulation.faults import Injector
from tests.simulation.plan import Plan
from tests.simulation.properties import SETTLES, Judged, Violation, judge
from tests.simulation.replicas import ReplicaSet
from tests.simulation.webhooks import WebhookReceiver

_TOKENS: Final = {"a": "token-of-owner-a", "b": "token-of-owner-b"}
_CLOUD_PORT: Final = 8000
#: Files live in memory where there is such a folder; SIMULATION_DIR names another one.
_MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Outcome:
    """What a seed came to."""

    plan: Plan
    events: list[Event]
    digest: str
    violations: list[Violation]
    hours: float
    cpu: float
    steps: int


class Scenario:
    """The actors of a plan."""

    def __init__(self, plan: Plan, root: Path, database: bytes) -> None:
        self.plan = plan
        self.simulation = Simulation(plan.seed, root)
        self.history = History(self.simulation.loop.time)
        self.context = copy_context()
        network = self.simulation.network
        host, flags = network.host("cluster", "10.0.0.1"), self._flags(root, database)
        self.cluster: ClusterActor | ReplicaSet
        if plan.replicas > 1:
            self.cluster = ReplicaSet(self.simulation, host, self.history, flags, plan.replicas, plan.drift)
        else:
            self.cluster = ClusterActor(self.simulation, host, self.history, flags)
            self.cluster.host.drift = plan.drift
        self.webhooks = WebhookReceiver(network.host("webhook", "10.0.3.1"), self.history)
        self.owners = {name: network.host(f"owner-{name}", f"10.0.4.{n}") for n, name in enumerate(_TOKENS, 1)}
        self.nodes: list[NodeActor] = []
        self.cloud: CloudActor | None = None
        self.settled_at: float | None = None

    def _flags(self, root: Path, database: bytes) -> dict[str, Any]:
        folder = root / "cluster-0"
        folder.mkdir(mode=0o700)
        if self.plan.replicas == 1:
            (folder / "clusterodm.db").write_bytes(database)
        tokens = root / "tokens.toml"
        limits = f"limits.maxConcurrentTasks = {self.plan.concurrency}\n"
        tokens.write_text(
            "".join(
                f'[{owner}]\ntoken = "{token}"\n{limits if owner == "b" else ""}' for owner, token in _TOKENS.items()
            )
        )
        flags = {
            "port": PORT,
            "host": "0.0.0.0",
            "log_file": "",
            "admin_cli_port": 0,
            "admin_web_port": 0,
            "cloud_provider": "tokens",
            "tokens_file": str(tokens),
            "max_attempts": 20,
            "webhook_allow_private": True,
            "node": [f"10.0.1.{number}:{PORT}" for number, _ in enumerate(self.plan.nodes, 1)],
        }
        if self.plan.boot is not None:
            write_asr(root / "asr.json", f"http://10.0.2.1:{_CLOUD_PORT}", PORT, self.plan.idle)
            flags |= {"asr": str(root / "asr.json"), "machine_poll_interval": LOOK}
            flags |= {"public_address": f"http://10.0.0.1:{PORT}"}
        return flags | self.plan.settings

    def client_host(self, number: int) -> Host:
        """Return the host of an owner."""
        return list(self.owners.values())[number % len(self.owners)]

    async def run(self) -> Judged:
        """Run everything, and judge the history."""
        if self.plan.replicas == 1:
            virtual_database_time(self.simulation)
        network, root = self.simulation.network, self.simulation.root
        self.webhooks.start()
        for number, knobs in enumerate(self.plan.nodes, 1):
            host = network.host(f"node-{number}", f"10.0.1.{number}")
            node = NodeActor(
                host, root / host.name, Knobs(seed=self.plan.seed + number, **knobs), self.history, port=PORT
            )
            self.nodes.append(node)
            node.start()
        if self.plan.boot is not None:
            host = network.host("cloud", "10.0.2.1")
            self.cloud = CloudActor(host, root, self.history, node_port=PORT, boot_seconds=self.plan.boot)
            self.cloud.knobs = {"seconds": 10.0, "seed": self.plan.seed}
            self.cloud.serve(HetznerApi(self.cloud, token="key").app(), _CLOUD_PORT)
        self.cluster.start()
        over = asyncio.Event()
        clients = []
        for task in self.plan.tasks:
            client = Client(
                self.owners[task.owner],
                self.cluster,
                self.history,
                task,
                token=_TOKENS[task.owner],
                foreign=_TOKENS["b" if task.owner == "a" else "a"],
                webhook=self.webhooks.url,
                chance=self.simulation.chance(f"client {task.number}"),
                over=over,
            )
            clients.append((client, client.start()))
        await Injector(self).run()
        self.history.add("world", "faults over")
        quiet = self.simulation.loop.time()
        while self.simulation.loop.time() < quiet + SETTLES:
            await asyncio.sleep(5.0)
            if (
                all(process.dead or self._too_large(client.uuid) for client, process in clients)
                and self._settled()
                and await self.cluster.has_cleaned()
            ):
                self.settled_at = self.simulation.loop.time()
                break
        over.set()
        return judge(self)

    def _too_large(self, uuid: str) -> bool:
        """Return True if a task waits for a size of machine with more memory: a cluster that has seen all sizes since
        the failure does not reconsider it."""
        entry = self.cluster.cluster.context.tasks.get(uuid) if self.cluster.cluster is not None else None
        if self.cloud is None or entry is None or entry.attempt is None:
            return False
        return entry.task.phase == "queued" and "ran out of memory" in entry.attempt.reason

    def _settled(self) -> bool:
        """Return True if nothing is left to be done."""
        cluster = self.cluster.cluster
        if cluster is None:
            return False
        context = cluster.context
        if any(
            entry.task.phase != "receiving" and not self._too_large(entry.task.uuid) for entry in context.tasks.active()
        ):
            return False
        if self.cloud is not None and self.cloud.machines:
            return False
        if any(node.running() for node in self.nodes):
            return False
        ended = {event.subject: event.at for event in self.history.of("phase finished")}
        called = {event.subject: event.at for event in self.history.of("webhook")}
        wanted = {event.subject for event in self.history.of("announced") if event.details["webhook"]}
        wanted -= {event.subject for event in self.history.of("ordering") if event.details["verb"] == "remove"}
        due = {uuid for uuid in wanted if called.get(uuid, -1.0) < ended.get(uuid, -1.0)}
        return all(given_up(self.history, uuid, ended[uuid]) for uuid in due)


def simulate(plan: Plan, database: bytes, root: Path | None = None) -> Outcome:
    """Run a plan in this process, which is of no use for anything else afterwards."""
    begun = time.process_time()
    folder = root or Path(tempfile.mkdtemp(prefix="simulation-", dir=os.environ.get("SIMULATION_DIR") or _MEMORY))
    # what matters is in the history; a broken copy may log without end
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        scenario = Scenario(plan, folder, database)
        judged = scenario.simulation.run(scenario.run)
        loop = scenario.simulation.loop
        return Outcome(
            plan=plan,
            events=scenario.history.events,
            digest=scenario.history.digest(),
            violations=judged.violations,
            hours=loop.time() / 3600,
            cpu=time.process_time() - begun,
            steps=loop.steps,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
