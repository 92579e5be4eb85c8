# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Replicas as processes: killed, stopped, started on what a single process left, several on one host."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from clusterodm.devnode import Knobs, running_devnode
from tests.faults.replica_storm import TAKE_OVER, Tally, storm
from tests.needs import need
from tests.postgres import Server
from tests.processes import Program, program
from tests.support import eventually


@pytest.mark.timeout(240)
async def test_nothing_is_lost_doubled_or_refused_while_each_replica_is_killed_in_turn(tmp_path: Path) -> None:
    need("initdb", "nginx")
    tally = await storm(tmp_path, rounds=1)
    assert tally.failed == []
    assert (tally.lost, tally.doubled, tally.told_twice) == (0, [], 0), tally.table()
    assert (len(tally.killed), tally.stops) == (3, 3)
    assert len(tally.accepted) > 10
    assert set(tally.calls) == set(tally.accepted)
    assert max(tally.take_overs) < TAKE_OVER


@pytest.mark.parametrize(
    ("calls", "noted", "repeated", "told_twice"),
    [
        ([1.0], 1, 0, 0),
        ([1.0, 9.0], 1, 1, 0),  # killed between the answer and the note of it
        ([1.0, 9.0], 2, 0, 1),  # it was noted, and called again all the same
        ([1.0, 3.0], 1, 0, 1),  # nobody was killed meanwhile
        ([1.0, 9.0, 9.5], 1, 0, 1),
    ],
)
def test_only_a_death_excuses_a_second_webhook(calls: list[float], noted: int, repeated: int, told_twice: int) -> None:
    tally = Tally(calls={"u": calls}, killed=[5.0])
    tally.judge_calls("u", noted)
    assert (tally.repeated, tally.told_twice) == (repeated, told_twice)


async def test_a_single_process_becomes_a_replica(tmp_path: Path, postgres: Server) -> None:
    async with running_devnode(Knobs(seconds=1.0, slots=1), port=0) as (_, port):
        async with program(tmp_path, node=f"127.0.0.1:{port}") as alone:
            api = await alone.start()
            uuids = [await api.create() for _ in range(3)]
            await alone.end(signal.SIGTERM)
        environ = {"CLUSTERODM_DATABASE_URL": postgres.new_database()}
        moved = Program(tmp_path)
        moved.launcher = ["-m", "clusterodm", "migrate-store"]
        moved.settings = {"data-dir": tmp_path / "data"}
        moved.environ = environ
        await moved.spawn()
        assert await moved.wait() == 0, moved.log.read_text()
        assert "3 tasks" in moved.log.read_text()
        await moved.spawn()
        assert await moved.wait() == 2
        assert "belongs to another database" in moved.log.read_text()
        await moved.api.session.close()
        async with program(tmp_path) as replica:
            replica.environ |= environ
            api = await replica.start()
            for uuid in uuids:
                await api.ends(uuid)


def workers(parent: int) -> list[psutil.Process]:
    return psutil.Process(parent).children()


async def test_workers_share_a_port_and_one_that_dies_is_replaced(tmp_path: Path, postgres: Server) -> None:
    async with (
        running_devnode(Knobs(seconds=0.0, slots=4), port=0) as (_, port),
        program(tmp_path, node=f"127.0.0.1:{port}", workers=2) as several,
    ):
        several.environ |= {"CLUSTERODM_DATABASE_URL": postgres.new_database()}
        api = await several.start()
        first = await eventually(lambda: len(workers(several.pid)) == 2 and {each.pid for each in workers(several.pid)})
        for _ in range(4):
            await api.ends(await api.create())
        os.kill(min(first), signal.SIGKILL)
        await api.ends(await api.create(), seconds=30)
        await eventually(lambda: len(workers(several.pid)) == 2)
        assert max(first) in {each.pid for each in workers(several.pid)}
        leftovers = workers(several.pid)
        assert await several.end(signal.SIGTERM) == 0
        assert not any(each.is_running() for each in leftovers)


async def test_workers_do_not_outlive_their_parent(tmp_path: Path, postgres: Server) -> None:
    async with program(tmp_path, workers=2) as several:
        several.environ |= {"CLUSTERODM_DATABASE_URL": postgres.new_database()}
        await several.start()
        processes = await eventually(lambda: len(workers(several.pid)) == 2 and workers(several.pid))
        await several.end(signal.SIGKILL)
        await eventually(lambda: not any(each.is_running() for each in processes))


async def test_workers_that_cannot_start_say_why_and_end(tmp_path: Path) -> None:
    async with program(tmp_path, workers=2) as several:
        await several.spawn()
        assert await several.wait() == 2
        assert "workers (flags) needs --database-url" in several.log.read_text()
    async with program(tmp_path, workers=2) as several:
        several.environ |= {"CLUSTERODM_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/x?nonsense=1"}
        await several.spawn()
        assert await several.wait() == 2
        assert "the URL of the database cannot be used" in several.log.read_text()
