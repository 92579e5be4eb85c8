# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The model of PostgreSQL that the simulation uses keeps the same contract as the real one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from clusterodm.store import Store
from clusterodm.testing.simulation import History, Process, Simulation
from clusterodm.testing.simulation.postgres import Postgres
from tests.store import test_server, test_store

Test = Callable[..., Coroutine[Any, Any, None]]

#: Tests of what the model does not have: the whole catalog of a server.
_LEFT_OUT = {"test_the_migrations_make_the_schema_that_the_code_uses"}
CONTRACT = [
    test
    for module in (test_store, test_server)
    for name, test in vars(module).items()
    if name.startswith("test_") and name not in _LEFT_OUT
    if (needed := set(inspect.signature(test).parameters)) and needed <= {"store", "url", "postgres"}
]


class ModelServer:
    """The model in place of `tests.postgres.Server`."""

    def __init__(self, model: Postgres) -> None:
        self._model = model

    def new_database(self) -> str:
        """Return the URL of its only database."""
        return self._model.url()

    def start(self) -> None:
        """Start it."""
        self._model.start()

    def control(self, verb: str, *_: str) -> None:
        """Stop it at once."""
        assert verb == "stop"
        self._model.kill()


@pytest.mark.parametrize("test", CONTRACT, ids=lambda test: test.__name__.removeprefix("test_"))
def test_the_model_keeps_the_contract(test: Test, tmp_path: Path) -> None:
    simulation = Simulation(1, tmp_path, repeatable=False)
    history = History(simulation.loop.time)
    server = Postgres(simulation, simulation.network.host("database", "10.0.5.1"), history)

    async def client() -> None:
        given: dict[str, Any] = {"url": server.url(), "postgres": ModelServer(server)}
        needed = inspect.signature(test).parameters
        if "store" in needed:
            given["store"] = await Store.open(given["url"])
        await test(**{name: given[name] for name in needed})
        if "store" in needed:
            await given["store"].close()

    async def main() -> None:
        server.start()
        process = Process(simulation.network.host("client", "10.0.4.1"), "client")
        await process.run(client())

    simulation.run(main)
