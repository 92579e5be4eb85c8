# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of all tests."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from clusterodm.observe import configure_logging, logging_to
from tests.needs import need, summary
from tests.postgres import Server, running_postgres
from tests.support import Rig, rig

#: Every secret that a test uses begins with this; none may be in any log of the whole run.
SECRET = "hush-"
Test = Callable[..., Coroutine[Any, Any, None]]
#: Seconds for the fixtures of a test that took too long to be torn down, before its process is ended.
_GRACE = 20.0


@pytest.fixture(scope="session", autouse=True)
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything is logged into one file; at the end it and the logs of all programs that tests started must hold no
    secret."""
    base = tmp_path_factory.getbasetemp()
    configure_logging("debug")
    with logging_to(base / "suite.jsonl"):
        yield
    log_files = [path for path in [*base.rglob("*.jsonl"), *base.rglob("log"), *base.rglob("*.log")] if path.is_file()]
    assert log_files
    leaks = [str(path) for path in log_files if SECRET in path.read_text(errors="replace")]
    assert leaks == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The storms are the longest files: begun last, they would keep one process busy while the others have ended."""
    items.sort(key=lambda item: "faults" not in item.path.parts)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            item.obj = _limited(item.obj, float(marker.args[0] if marker else item.config.getini("timeout")) - _GRACE)


def pytest_collection_finish() -> None:
    """What was loaded to run tests stays for the whole run: the collector need not look at it each time that it comes
    by, which is a tenth of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _limited(
    test: Callable[..., Coroutine[Any, Any, None]], seconds: float
) -> Callable[..., Coroutine[Any, Any, None]]:
    """The same test, which fails where it stands once its time is over. pytest-timeout cannot do that: what a signal
    handler raises is lost in uvloop, so it has to end the process."""

    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return limited


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
    async with rig(tmp_path) as new_rig:
        yield new_rig


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A real PostgreSQL for all tests of this process; they are skipped where none is installed."""
    need("initdb")
    with running_postgres() as server:
        yield server
