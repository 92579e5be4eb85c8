# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes under test: two that many tests share, and any that a test starts for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.node_contract.client import Client
from tests.node_contract.nodes import DEVNODE, REAL, Program

Start = Callable[..., Client]


@pytest.fixture(scope="session", params=[DEVNODE, *REAL])
def kind(request: pytest.FixtureRequest) -> str:
    """Which node."""
    return str(request.param)


@pytest.fixture(scope="session")
def quick_program(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A node whose tasks take no time."""
    program = Program(kind, tmp_path_factory.mktemp(f"quick-{kind}"))
    program.start("--test-seconds", "0", "-q", "2")
    yield program
    program.end()


@pytest.fixture(scope="session")
def slow_program(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A node with one slot, whose tasks run until somebody cancels them."""
    program = Program(kind, tmp_path_factory.mktemp(f"slow-{kind}"))
    program.start("--test-seconds", "600", "-q", "1")
    yield program
    program.end()


@pytest.fixture
async def node(quick_program: Program) -> AsyncIterator[Client]:
    """A client of a node whose tasks take no time."""
    client = Client(quick_program)
    yield client
    assert quick_program.runs(), quick_program.log()
    await client.close()


@pytest.fixture
async def slow(slow_program: Program) -> AsyncIterator[Client]:
    """A client of a node whose tasks run until they are canceled; they are removed after the test."""
    client = Client(slow_program)
    yield client
    assert slow_program.runs(), slow_program.log()
    for task in reversed(await client.get("/task/list")):  # the last first, so that none of them is begun
        await client.post("/task/remove", task)
    await client.close()


@pytest.fixture
async def start(kind: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a node of the test's own with these flags."""
    async with AsyncExitStack() as stack:

        def begin(*flags: str) -> Client:
            program = Program(kind, tmp_path / f"node-{len(list(tmp_path.iterdir()))}")
            program.start(*flags)
            stack.callback(program.end)
            client = Client(program)
            stack.push_async_callback(client.close)
            return client

        yield begin
