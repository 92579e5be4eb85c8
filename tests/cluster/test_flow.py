# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A task through the whole cluster, with real sockets and development nodes."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import time
import zipfile
from contextlib import closing
from typing import Any

import pytest
from aiohttp import web

from clusterodm.cluster.state import registry
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeUnreachable
from clusterodm.core.nodes import NodeAddress
from clusterodm.core.tasks import Cleanup, Phase
from clusterodm.nodeodm import backlog
from tests.support import Rig, eventually, images, zipped


async def test_a_task_runs_to_its_end_and_its_results_come_back(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create(3, name="first")
    info = await api.ends(uuid)
    assert (info["name"], info["imagesCount"], info["progress"]) == ("first", 3, 100)
    _, headers, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert headers["Content-Type"] == "application/zip"
    assert "camera_positions.geojson" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert cluster.nodes[0].commits == [uuid]


async def test_files_reach_the_node_as_they_were_uploaded(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.init()
    names = {"a.jpg": b"A" * 3_000_000, 'quo"te.jpg': b"B", "ümläut.jpg": b"", "gcp_list.txt": b"EPSG:4326"}
    await api.post(f"/task/new/upload/{uuid}", images(names))
    await api.commit(uuid)
    await api.ends(uuid)
    held = {name: path.read_bytes() for name, path in node.held(uuid).items()}
    assert held == names


async def test_a_task_is_queued_while_all_slots_are_taken_and_goes_to_the_first_free_one(
    cluster: Rig,
) -> None:
    await cluster.add_node(seconds=30)
    await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    first, second, third = [await api.create() for _ in range(3)]
    await eventually(lambda: cluster.entry(third).wait == "all acceptable nodes are busy")
    assert await api.code(third) == 10
    await eventually(lambda: [len(node.commits) for node in cluster.nodes] == [1, 1])
    assert (await api.get("/info"))["taskQueueCount"] == 1
    await api.post("/task/cancel", {"uuid": second})
    await eventually(lambda: cluster.entry(third).task.phase is Phase.RUNNING)
    assert await api.code(first) == 20


async def test_tasks_are_spread_over_free_slots(cluster: Rig) -> None:
    for _ in range(3):
        await cluster.add_node(seconds=30, slots=2)
    api = await cluster.start()
    await cluster.ready()
    uuids = await asyncio.gather(*(api.create() for _ in range(6)))
    await eventually(lambda: all(cluster.entry(uuid).task.phase is Phase.RUNNING for uuid in uuids))
    assert [len(node.commits) for node in cluster.nodes] == [2, 2, 2]


async def test_a_node_that_takes_too_few_images_is_not_used(cluster: Rig) -> None:
    await cluster.add_node(max_images=1)
    await cluster.add_node(max_images=10)
    api = await cluster.start()
    await cluster.ready()
    await api.ends(await api.create(5))
    assert [len(node.commits) for node in cluster.nodes] == [0, 1]


async def test_a_commit_while_no_node_answers_loses_nothing(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.create()
    assert await api.code(uuid) == 10
    await cluster.add_node()
    await api.ends(uuid)


async def test_a_lost_node_costs_an_attempt_and_the_client_sees_running(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api = await cluster.start(node_lost_after=0.3)
    await cluster.ready()
    uuid = await api.create()
    await eventually(cluster.nodes[0].busy)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    before = await api.get(f"/task/{uuid}/output")
    await cluster.stop_node(0)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.QUEUED)
    assert await api.code(uuid) == 20
    await cluster.add_node()
    await api.ends(uuid)
    after = await api.get(f"/task/{uuid}/output")
    assert after[: len(before)] == before
    assert any("retrying elsewhere" in line for line in after)
    attempts = await cluster.cluster.context.store.attempts(uuid)
    assert len({attempt.node_uuid for attempt in attempts}) == len(attempts) == 2


async def test_what_a_client_saw_running_is_never_queued_again_when_node_and_cluster_are_lost(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api = await cluster.start(node_lost_after=0.3)
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.node_code == 20)
    await cluster.stop_node(0)
    await cluster.stop()
    with closing(sqlite3.connect(cluster.folder / "data" / "clusterodm.db")) as database, database:
        database.execute("UPDATE tasks SET node_code = 0")  # as after a kill before progress was kept
    api = await cluster.start(node_lost_after=0.3)
    assert await api.code(uuid) == 20
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.QUEUED)
    assert await api.code(uuid) == 20


async def test_a_task_that_its_node_forgot_goes_on_elsewhere(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    await cluster.add_node()
    cluster.nodes[0].forget(uuid)
    await api.ends(uuid)
    assert len(cluster.nodes[1].commits) == 1


async def test_out_of_memory_goes_to_a_larger_node(cluster: Rig) -> None:
    await cluster.add_node(max_images=5, fail="memory", total_memory=1 << 30)
    await cluster.add_node(max_images=50, total_memory=64 << 30)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create(3)
    await api.ends(uuid)
    assert [len(node.commits) for node in cluster.nodes] == [1, 1]


async def test_out_of_memory_on_the_largest_node_is_final(cluster: Rig) -> None:
    await cluster.add_node(fail="memory")
    api = await cluster.start()
    info = await api.ends(await api.create(), 30)
    assert info["status"]["errorMessage"] == "Not enough memory"


async def test_a_data_error_is_final_at_once(cluster: Rig) -> None:
    await cluster.add_node(fail="dataset")
    await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    info = await api.ends(uuid, 30)
    assert "Cannot process dataset" in info["status"]["errorMessage"]
    assert cluster.entry(uuid).task.attempts == 1


async def test_a_node_that_answers_no_upload_loses_the_attempt_and_the_next_one_has_each_file_once(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "PAUSES", Backoff(first=0.01, longest=0.01))
    node = await cluster.add_node(drop=1.0, seed=1)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create(1)
    await eventually(lambda: cluster.entry(uuid).task.attempts == 1 and cluster.entry(uuid).task.phase is Phase.QUEUED)
    node.knobs.drop = 0.0
    cluster.cluster.context.registry.get(1).set_aside_until = 0.0  # type: ignore[union-attr]
    await api.ends(uuid)
    attempts = await cluster.cluster.context.store.attempts(uuid)
    assert [attempt.number for attempt in attempts] == [1, 2]
    assert node.tasks[attempts[1].node_uuid].images_count == 1
    assert cluster.entry(uuid).task.charged == 0


async def test_cancel_works_in_every_phase_and_reaches_the_node(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=60)
    api = await cluster.start()
    await cluster.ready()
    running, waiting = await api.create(), await api.create()
    await eventually(lambda: cluster.entry(running).task.phase is Phase.RUNNING)
    for uuid in (waiting, running, running):
        assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
        assert await api.code(uuid) == 50
    await eventually(lambda: node.tasks[running].code == 50)
    assert node.commits == [running]


async def test_cancel_during_dispatch_leaves_nothing_running(cluster: Rig) -> None:
    node = await cluster.add_node(slow=0.3, seconds=60)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.DISPATCHING)
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    assert await api.code(uuid) == 50
    await eventually(lambda: not cluster.cluster.context.registry.get(1).reserved)  # type: ignore[union-attr]
    assert node.commits == []


async def test_remove_forgets_the_task_here_and_on_its_node(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    assert await api.post("/task/remove", json={"uuid": uuid}) == {"success": True}
    assert await api.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}
    assert await api.post("/task/remove", {"uuid": uuid}) == {"success": False, "error": f"{uuid} not found"}
    await eventually(lambda: not node.tasks)
    assert await api.get("/task/list") == []


async def test_restart_on_the_node_takes_new_options_and_its_console_begins_anew(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    lines = await api.get(f"/task/{uuid}/output")
    options = json.dumps([{"name": "dsm", "value": "true"}])
    assert await api.post("/task/restart", {"uuid": uuid, "options": options}) == {"success": True}
    info = await api.ends(uuid)
    assert info["options"][0] == {"name": "dsm", "value": True}
    assert node.tasks[uuid].runs == 2
    assert await api.get(f"/task/{uuid}/output") == lines


async def test_restart_of_a_canceled_task_that_never_had_a_node_uses_the_held_files(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api = await cluster.start()
    await cluster.ready()
    blocker, uuid = await api.create(), await api.create()
    await api.post("/task/cancel", {"uuid": uuid})
    await api.post("/task/cancel", {"uuid": blocker})
    cluster.nodes[0].knobs.seconds = 0
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": True}
    await api.ends(uuid)


async def test_restart_of_a_running_task_is_refused(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.create()
    answer = await api.post("/task/restart", {"uuid": uuid})
    assert answer == {"success": False, "error": "Task cannot be restarted"}


async def test_the_owners_webhook_is_called_once_with_the_tasks_info(cluster: Rig) -> None:
    calls: list[Any] = []

    async def hook(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response(status=500 if len(calls) < 3 else 200)

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await cluster.add_node()
    api = await cluster.start(webhook_allow_private=True)
    uuid = await api.create(webhook=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
    await api.ends(uuid)
    await eventually(lambda: len(calls) == 3)
    await eventually(lambda: not cluster.entry(uuid).task.webhook_due)
    assert all(call["uuid"] == uuid and call["status"]["code"] == 40 for call in calls)


async def test_a_hung_node_delays_no_other(cluster: Rig) -> None:
    await cluster.add_node(hang=1.0)
    await cluster.add_node()
    api = await cluster.start()
    await eventually(cluster.cluster.context.registry.reference)
    await api.ends(await api.create())


async def test_submodels_are_shown_running_while_they_wait(cluster: Rig) -> None:
    api = await cluster.start()
    seed = await api.init()
    await api.upload(seed, seed__zip=zipped({"a": b"a"}), a__jpg=b"a")
    await api.commit(seed)
    outputs = await api.create(outputs='["odm_orthophoto"]', skipPostProcessing="true")
    ordinary = await api.create(outputs='["odm_orthophoto"]')
    assert [await api.code(uuid) for uuid in (seed, outputs, ordinary)] == [20, 20, 10]


async def test_upload_speed_to_nodes_is_limited(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start(upload_max_speed=2_000_000)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"x" * 1_000_000)
    await api.commit(uuid)
    await api.ends(uuid)
    sent, running = [
        event.at
        for event in await cluster.cluster.context.store.timeline(uuid)
        if "sending" in event.text or event.text.startswith("running")
    ]
    assert running - sent > 0.35  # 1 MB at 2 MB/s, less the first slice, which goes at once


async def test_a_removed_task_leaves_no_trace_once_its_node_is_clean(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    await api.post("/task/remove", {"uuid": uuid})
    store = cluster.cluster.context.store

    async def clean() -> bool:
        return all(attempt.cleanup is Cleanup.NONE for attempt in await store.attempts(uuid))

    await eventually(clean)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.DISPATCHING, Phase.RUNNING, Phase.FINISHED])
async def test_remove_works_in_every_phase(cluster: Rig, phase: Phase) -> None:
    slow = 0.3 if phase is Phase.DISPATCHING else 0.0
    if phase is not Phase.QUEUED:
        await cluster.add_node(slow=slow, seconds=0 if phase is Phase.FINISHED else 60)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase is phase)
    assert await api.post("/task/remove", {"uuid": uuid}) == {"success": True}
    assert await api.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}
    assert not (cluster.folder / "data" / "spool" / uuid).exists()
    await eventually(lambda: not any(node.tasks for node in cluster.nodes))


async def test_a_commit_that_the_node_did_not_take_is_repeated_and_one_that_it_took_is_not(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.add_node(seconds=0.2)
    api = await cluster.start()
    await cluster.ready()
    lost_commits: list[str] = []
    commit = cluster.cluster.context.client.commit

    async def flaky(address: NodeAddress, uuid: str) -> None:
        if lost_commits:
            await commit(address, uuid)
        lost_commits.append(uuid)
        if len(lost_commits) == 1:
            raise NodeUnreachable("lost on the way there")
        if len(lost_commits) == 3:
            raise NodeUnreachable("the answer was lost")

    monkeypatch.setattr(cluster.cluster.context.client, "commit", flaky)
    first, second = await api.create(), await api.create()
    await api.ends(first)
    await api.ends(second)
    assert node.commits == [first, second]
    assert lost_commits == [first, first, second]


async def test_nodes_are_left_in_peace_while_there_is_no_task_and_asked_when_one_comes(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_AT_REST", 100_000)
    node = await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    polls = cluster.cluster.context.registry._polls
    due = polls._due
    await eventually(lambda: due and min(due.values()) - time.monotonic() > 100)
    uuid = await api.init()
    await eventually(lambda: due and min(due.values()) - time.monotonic() < 1)
    await api.upload(uuid, a__jpg=b"x")
    await api.commit(uuid)
    await eventually(lambda: node.commits)


async def test_a_task_that_ends_while_tasks_are_listed_is_listed_once(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.add_node(seconds=0.2)
    api = await cluster.start()
    uuid = await api.create()
    store = cluster.cluster.context.store
    ended_since = store.ended_since

    async def late(*args: Any, **limits: Any) -> list[str]:
        await api.ends(uuid)
        return await ended_since(*args, **limits)

    monkeypatch.setattr(store, "ended_since", late)
    assert await api.get("/task/list") == [{"uuid": uuid}]
