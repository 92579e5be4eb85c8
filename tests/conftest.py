# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from clusterodm.observe import configure_logging, logging_to
from tests.needs import need, summary
from tests.postgres import Server, running_postgres
from tests.support import Rig, rig

#: Every secret that a test uses begins with this; none may be in any log of the whole run.
SECRET = "hush-"


@pytest.fixture(scope="session", autouse=True)
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything is logged into one file; at the end it and the logs of all programs that tests started must hold no
    secret."""
    base = tmp_path_factory.getbasetemp()
    configure_logging("debug")
    with logging_to(base / "suite.jsonl"):
        yield
    found = [path for path in [*base.rglob("*.jsonl"), *base.rglob("log"), *base.rglob("*.log")] if path.is_file()]
    assert found
    leaks = [str(path) for path in found if SECRET in path.read_text(errors="replace")]
    assert leaks == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The storms are the longest files: begun last, they would keep one process busy while the others have ended."""
    items.sort(key=lambda item: "faults" not in item.path.parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not tested here, and how to have it tested."""
    reports = terminalreporter.stats.get("skipped", [])
    if lines := summary(report.longrepr[2] for report in reports):
        terminalreporter.section("skipped for want of something")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    """The loop that runs in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig; add nodes, then start it."""
    async with rig(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A real PostgreSQL for all tests of this process; they are skipped where none is installed."""
    need("initdb")
    with running_postgres() as server:
        yield server
