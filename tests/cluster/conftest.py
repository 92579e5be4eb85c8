# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of tests that need machines, and of those that need an odd node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterodm.cluster.machines import absence
from clusterodm.server import schedule
from tests.cluster.units import Units, units
from tests.odd_node import OddNode, running_odd_node
from tests.providers.support import Cloud, running_cloud


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    """A pretended cloud."""
    async with running_cloud("hetzner") as running:
        yield running


@pytest.fixture
def prioritise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines are looked at more often than in earnest."""
    monkeypatch.setattr(schedule, "_SCALE", 0.02)
    monkeypatch.setattr(schedule, "_REAP", 0.05)
    monkeypatch.setattr(absence, "SETTLE", 0.1)


@pytest.fixture
async def odd() -> AsyncIterator[OddNode]:
    """A node that is odd."""
    async with running_odd_node() as node:
        yield node


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[Units]:
    """The parts of a cluster that tries each task once."""
    async with units(tmp_path, max_attempts=1, task_poll_interval=0.01) as parts:
        yield parts
