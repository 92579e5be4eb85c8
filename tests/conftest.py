"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from clusterodm.observe import configure_logging
from tests.support import Rig, rig

configure_logging("error")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    """The loop that runs in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig; add nodes, then start it."""
    async with rig(tmp_path) as made:
        yield made
