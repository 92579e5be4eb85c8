# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several replicas as one actor: they share a database server and a folder, behind a load balancer."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_mock_engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from clusterodm.core.errors import StoreDown
from clusterodm.core.tasks import Cleanup
from clusterodm.server.app import Cluster
from clusterodm.store import schema
from clusterodm.store.migrate import HEAD
from clusterodm.testing.simulation import History, Host, Simulation
from clusterodm.testing.simulation.network import Link
from clusterodm.testing.simulation.postgres import Change, Postgres
from clusterodm.testing.simulation.postgres.tables import Tables, Transaction
from tests.simulation.balancer import Balancer
from tests.simulation.cluster import PORT, ClusterActor
from tests.simulation.phases import Phases
from tests.simulation.plan import Fault

#: Seconds for which a replica is stopped: shorter and longer than its leases.
_PAUSES: Final = (30.0, 70.0, 190.0)
#: Seconds until a supervisor starts a replica again.
_SUPERVISED: Final = 5.0
#: Most seconds for which the database is down: it is waited for for fifteen.
_DOWN: Final = 8.0


class Replica(ClusterActor):
    """One process of several. Its files are on a file server, which keeps them whatever happens to its host."""

    def __init__(
        self, simulation: Simulation, host: Host, history: History, flags: dict[str, Any], folder: Path
    ) -> None:
        super().__init__(simulation, host, history, flags)
        self._folder = folder

    def kill(self) -> None:
        """Kill it at once."""
        if self.alive and self._process is not None:
            self._down()
            self._process.kill()
            self._history.add(self.name, "cluster killed")

    def lose_power(self) -> None:
        """Switch its host off: nobody is told."""
        if self.alive:
            self._down()
            self.host.lose_power()
            self._history.add(self.name, "cluster loses power", lost="")

    async def pause(self, seconds: float) -> None:
        """Stop it for a while, as a virtual machine that is moved."""
        if (process := self._process) is not None:
            self._history.add(self.name, "replica paused", seconds=seconds)
            process.pause()
            await asyncio.sleep(seconds)
            process.resume()
            self._history.add(self.name, "replica goes on")

    def _died(self, error: Exception) -> None:
        """Start again what could not start because its database did not answer, as a supervisor does."""
        if self.cluster is not None or not isinstance(error, StoreDown):
            super()._died(error)
            return
        self._history.add(self.name, "cluster gives up")
        self._simulation.loop.call_later(_SUPERVISED, self.start, context=Context())

    def _watch(self, cluster: Cluster) -> None:
        """Leave tasks and machines to the database: the memory of a replica follows it."""


class ReplicaSet:
    """All replicas with their load balancer and database."""

    def __init__(
        self, simulation: Simulation, host: Host, history: History, flags: dict[str, Any], count: int, drift: float
    ) -> None:
        network = simulation.network
        self.host = host
        self.database = Postgres(simulation, network.host("database", "10.0.5.1"), history)
        create_schema(self.database.tables)
        self._watcher = CommitWatcher(history)
        self.database.tables.watchers.append(self._watcher)
        flags = flags | {"database_url": self.database.url(), "public_address": self.url}
        folder = simulation.root / "cluster-0"
        self.replicas = [
            Replica(simulation, network.host(f"replica-{n}", f"10.0.0.{10 + n}"), history, flags, folder)
            for n in range(1, count + 1)
        ]
        for replica, sign in zip(self.replicas, (1.0, -1.0, 0.0), strict=False):
            replica.host.drift = drift * sign
        self._balancer = Balancer(host, PORT, [replica.url for replica in self.replicas])
        self._network = network

    @property
    def url(self) -> str:
        """Its URL for clients."""
        return f"http://{self.host.address}:{PORT}"

    @property
    def cluster(self) -> Cluster | None:
        """The leader; None while there is none."""
        up = [replica.cluster for replica in self.replicas if replica.cluster is not None]
        return next((cluster for cluster in up if cluster.context.replicas.leads), None)

    def start(self) -> None:
        """Start everything."""
        self.database.start()
        self._balancer.start()
        for replica in self.replicas:
            replica.start()

    async def has_cleaned(self) -> bool:
        """Return True if no cleanup on a node is due."""
        return not self._watcher.due

    def hit(self, fault: Fault) -> Replica:
        """Return the replica that a fault hits."""
        return self.replicas[(fault.number + fault.target) % len(self.replicas)]

    async def suffer(self, fault: Fault) -> None:
        """Inject a fault that a single process does not have."""
        replica, database = self.hit(fault), self.database
        if fault.kind == "replica paused":
            await replica.pause(_PAUSES[int(fault.amount * len(_PAUSES))])
        elif fault.kind == "replica cut off from the database":
            await self._cut(replica, fault)
        elif fault.kind == "replica's database link is bad":
            await self._worsen(replica, fault)
        elif fault.kind == "database ends connections":
            database.terminate_all()
        else:
            if fault.kind == "database killed":
                database.kill()
            else:
                await database.stop()
            await asyncio.sleep(fault.amount * _DOWN)
            database.start()

    def _pairs(self, replica: Replica) -> list[tuple[str, str]]:
        one, other = replica.host.address, self.database.host.address
        return [(one, other), (other, one)]

    async def _cut(self, replica: Replica, fault: Fault) -> None:
        pairs = self._pairs(replica)
        if fault.amount < 0.5:  # in one direction
            pairs = [pairs[fault.amount < 0.25]]
        for pair in pairs:
            self._network.cut(*pair)
        await asyncio.sleep(fault.seconds * 2)
        for pair in pairs:
            self._network.heal(*pair)

    async def _worsen(self, replica: Replica, fault: Fault) -> None:
        resets = fault.amount < 0.5
        worse = replace(Link(), reset=0.02) if resets else Link(latency=0.02, jitter=0.1, loss=fault.amount / 5)
        for pair in self._pairs(replica):
            self._network.links[pair] = worse
        await asyncio.sleep(fault.seconds)
        for pair in self._pairs(replica):
            self._network.links.pop(pair, None)


class CommitWatcher:
    """Writes tasks and machines into the history as they are committed, whoever knows of them already."""

    def __init__(self, history: History) -> None:
        self._phases = Phases(history, "database")
        self._attempts: dict[str, Change] = {}
        #: Attempts, by key, whose cleanup on a node is due.
        self.due: set[tuple[Any, ...]] = set()

    def __call__(self, changes: list[Change]) -> None:
        """Take the changes of a transaction down."""
        tasks: dict[str, Any] = {}
        for change in changes:
            if change.table == "attempts":
                self.due.discard(change.key)
            if change.row is None:
                continue
            if change.table == "tasks":
                tasks[change.row["uuid"]] = change.row
            elif change.table == "machines":
                self._phases.machine(change.row)
            elif change.table == "attempts":
                uuid, number = change.key
                if change.row["cleanup"] != Cleanup.NONE:
                    self.due.add(change.key)
                if uuid not in self._attempts or self._attempts[uuid].key[1] <= number:
                    self._attempts[uuid] = change
        for uuid, task in tasks.items():
            self._phases.task(task, self._attempts[uuid].row if uuid in self._attempts else None)


def create_schema(tables: Tables) -> None:
    """Create the tables as the first replica does."""
    transaction, statements, dialect = Transaction(), list[str](), PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    engine = create_mock_engine(
        "postgresql+asyncpg://", lambda sql, *_, **__: statements.append(str(sql.compile(dialect=dialect)))
    )
    schema.metadata.create_all(engine, checkfirst=False)
    statements.append(
        "CREATE TABLE alembic_version "
        "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    for text in statements:
        tables.execute(transaction, tables.prepare(text), [])
    tables.execute(transaction, tables.prepare("INSERT INTO alembic_version VALUES ($1)"), [HEAD])
    tables.commit(transaction)
