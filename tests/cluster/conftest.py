# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of tests that need machines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clusterodm.cluster.machines import absence
from clusterodm.server import schedule
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
