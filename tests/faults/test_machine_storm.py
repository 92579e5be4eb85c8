"""A short storm over machines; `make machine-faults` is the long one."""

from __future__ import annotations

from rich.console import Console

from tests.faults.machine_storm import MISHAPS, run


async def test_no_task_is_lost_no_machine_is_left_and_no_busy_one_deleted() -> None:
    storm = await run(40, 7, 10, Console(quiet=True))
    assert storm.problems == []
    assert storm.lost.total() == 0
    assert len(storm.counts) > len(MISHAPS) // 2
