# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wall clock is set back by an hour between all steps of a task and a machine: no duration is negative anywhere."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.tasks import Attempt, Cleanup
from clusterodm.devnode import Knobs, running_devnode
from tests.admin.support import Operator, start
from tests.cluster.machines import machines
from tests.processes import free_port, program
from tests.providers.support import Cloud, running_cloud
from tests.support import Rig, eventually

HOUR = 3600.0
#: Durations by the end of their names; -1 is how nodes say that they do not know yet.
DURATION = re.compile(r"(seconds|wait|cost|processingTime)$")
PAIRS = (
    ("committed_at", "started_at"),
    ("started_at", "ended_at"),
    ("committed_at", "finished_at"),
    ("ordered_at", "ready_at"),
    ("ordered_at", "gone_at"),
    ("since", "until"),
)
PATHS = (
    *("status", "tasks", "tasks/active", "queue", "uploads", "history?hours=48", "charts", "nodes"),
    *("machines", "machines/gone", "machines/costs"),
)


def negatives(value: Any, place: str = "") -> list[str]:
    """Where a duration is negative, or something ends before it began."""
    if isinstance(value, list):
        return [path for number, each in enumerate(value) for path in negatives(each, f"{place}[{number}]")]
    if not isinstance(value, dict):
        return []
    wrong = [f"{place}.{one}" for one, two in PAIRS if value.get(one) and value.get(two) and value[two] < value[one]]
    for key, each in value.items():
        if isinstance(each, int | float) and DURATION.search(key) and each < 0 and each != -1:
            wrong.append(f"{place}.{key}: {each}")
        wrong += negatives(each, f"{place}.{key}")
    return wrong


async def all_shown(operator: Operator, uuids: list[str]) -> dict[str, Any]:
    """Everything that operators are shown."""
    shown = {}
    for path in [*PATHS, *(f"tasks/{uuid}" for uuid in uuids)]:
        status, shown[path] = await operator.ask("GET", f"/api/v1/{path}")
        assert status == 200, (path, shown[path])
    for uuid in uuids:
        times = [event["at"] for event in await operator.get(f"tasks/{uuid}/timeline")]
        assert all(one <= two for one, two in pairwise(times)), times
    return shown


async def test_nothing_of_a_task_takes_less_than_no_time(cluster: Rig) -> None:
    api, operator = await start(cluster, results="keep")
    uuids: list[str] = []

    async def back() -> None:
        cluster.clock.jumped -= HOUR
        assert negatives(await all_shown(operator, uuids)) == []
        async with operator.session.get(f"{operator.url}/metrics") as answer:
            values = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
        assert [line for line in values if float(line.rpartition(" ")[2]) < 0] == []

    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    await back()
    await api.commit(uuid)
    uuids.append(uuid)
    await back()
    node = await cluster.add_node(seconds=1000)
    await eventually(lambda: cluster.entry(uuid).task.phase == "running")
    await back()
    [task] = node.tasks.values()
    task.processing_time = -3_599_000
    await eventually(lambda: cluster.entry(uuid).task.processing_time == 0)
    assert (await api.get(f"/task/{uuid}/info"))["processingTime"] == 0
    await back()
    await api.post("/task/cancel", {"uuid": uuid})
    await back()
    node.knobs.seconds = 0.0
    await api.post("/task/restart", {"uuid": uuid})
    await api.ends(uuid)
    await back()
    detail = await operator.get(f"tasks/{uuid}")
    assert detail["task"]["finished_at"] >= detail["task"]["committed_at"] > 0


async def test_nothing_of_a_machine_takes_less_than_no_time(cluster: Rig) -> None:
    async with running_cloud("hetzner") as cloud:
        await machine_life(cluster, cloud)


async def machine_life(cluster: Rig, cloud: Cloud) -> None:
    entry = {"idleTimeout": 0.2, **cloud.entry}
    path = cluster.folder / "asr.json"
    path.write_text(json.dumps({"providers": [entry]}))
    api, operator = await start(cluster, asr=path, machine_poll_interval=0.05)
    uuid = await api.create()
    await eventually(lambda: machines(cluster))
    cluster.clock.jumped -= HOUR
    assert negatives(await all_shown(operator, [uuid])) == []
    await api.ends(uuid)
    cluster.clock.jumped -= HOUR
    assert negatives(await all_shown(operator, [uuid])) == []
    cluster.clock.ahead += 3 * HOUR
    await eventually(lambda: not machines(cluster))
    assert negatives(await all_shown(operator, [uuid])) == []
    gone_machines = await operator.get("machines/gone")
    assert negatives(gone_machines) == []
    assert all(each["gone_at"] >= each["ordered_at"] > 0 for each in gone_machines)


def test_an_attempt_does_not_end_before_it_began() -> None:
    attempt = Attempt(task="t", number=1, node_id=1, node_name="n", node_uuid="u", started_at=5000.0)
    assert attempt.ended(1400.0, "lost", Cleanup.NONE).ended_at == 5000.0
    over = attempt.ended(6000.0, "lost", Cleanup.NONE)
    assert over.ended(7000.0, "lost", Cleanup.NONE).ended_at == 6000.0


async def test_a_real_process_whose_clock_is_set_back_shows_no_negative_time(tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")
    offset = tmp_path / "faketime"
    offset.write_text("+0")
    port = free_port()
    async with (
        running_devnode(Knobs(seconds=1.0), port=0) as (_, node),
        program(tmp_path, node=f"127.0.0.1:{node}", **{"admin-web-port": port}) as running,
    ):
        running.environ |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        api = await running.start()
        operator = Operator(f"http://127.0.0.1:{port}")
        before = (await operator.get("history", hours=1))["until"]
        uuid = await api.create()
        await eventually(lambda: api.get(f"/task/{uuid}/info"))
        offset.write_text("-3600")

        async def set_back() -> bool:
            return bool((await operator.get("history", hours=1))["until"] < before - 3000)

        await eventually(set_back)
        assert negatives(await all_shown(operator, [uuid])) == []
        await api.ends(uuid)
        assert negatives(await all_shown(operator, [uuid])) == []
        await operator.session.close()
