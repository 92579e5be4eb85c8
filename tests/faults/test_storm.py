# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A storm of every fault at once (`make faults` is the long one), and proof that a storm notices what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rich.console import Console

from clusterodm.aio import Clock
from tests.faults import crashing
from tests.faults.operations import FAULTS
from tests.faults.storm import run, table


@pytest.mark.timeout(400)
async def test_each_fault_loses_nothing_doubles_nothing_and_shows_no_error() -> None:
    storm = await run(list(range(len(FAULTS))), seed=2, lanes=16, screen=Console())
    Console(width=120).print(table(storm))
    assert storm.problems == []
    assert sum(row.injected for row in storm.rows.values()) == len(FAULTS)
    assert sum(row.accepted for row in storm.rows.values()) == len(FAULTS)
    assert len(storm.deaths) > 4


def test_the_clock_of_a_storm_goes_ahead_by_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock.__init__, "__defaults__", Clock.__init__.__defaults__)
    crashing.set_clock(tmp_path / "orders.clock")
    clock = Clock()
    assert clock() == pytest.approx(time.time(), abs=60.0)
    (tmp_path / "orders.clock").write_text("86400")
    assert clock() == pytest.approx(time.time() + 86400, abs=60.0)


async def test_a_storm_notices_a_task_that_is_lost() -> None:
    number = list(FAULTS).index("a node forgets the task")
    storm = await run([number], seed=1, lanes=1, screen=Console(quiet=True), **{"max-attempts": 1})
    assert sum(row.lost for row in storm.rows.values()) == 1
    assert "wanted 40" in storm.problems[0]
