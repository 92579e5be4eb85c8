# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose fault a failure is: the node's, the task's, or that of a task beside it."""

from __future__ import annotations

import json

import pytest

from clusterodm.admin.operations import figures, nodes, tasks
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks import waits
from clusterodm.core import retry
from clusterodm.core.backoff import Backoff
from clusterodm.core.tasks import Phase, node_uuid
from tests.support import Rig, eventually, images, narrow, zipped


def _node(cluster: Rig, number: int = 0) -> Node:
    return cluster.cluster.context.registry.nodes()[number]


async def _problems(cluster: Rig) -> list[str]:
    return (await figures.status(cluster.cluster.context)).problems


async def _console(cluster: Rig, uuid: str) -> list[str]:
    return [line for line in await cluster.api.get(f"/task/{uuid}/output") if line.startswith("[clusterodm]")]


async def _running(cluster: Rig, *uuids: str) -> None:
    await eventually(lambda: all(cluster.entry(uuid).task.phase is Phase.RUNNING for uuid in uuids))


# Limits


async def test_an_upload_that_grows_past_what_any_node_takes_is_refused_with_the_numbers(cluster: Rig) -> None:
    await cluster.add_node(max_images=3)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    for name in ("seed.zip", "0.jpg", "1.jpg", "gcp_list.txt"):  # a node counts all but the seed
        content = zipped({"a": b"a"}) if name == "seed.zip" else b"x"
        assert await api.post(f"/task/new/upload/{uuid}", images({name: content})) == {"success": True}
    refused = {"error": "this task has 4 files; the largest node takes 3", "noRetry": True}
    for _ in range(2):
        assert await api.post(f"/task/new/upload/{uuid}", images({"2.jpg": b"x"})) == refused
    assert await api.post(f"/task/new/upload/{uuid}", images({"1.jpg": b"x"})) == {"success": True}  # sent again
    assert await api.commit(uuid) == refused  # a client that overlooked it must not get a task without that file
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING


async def test_a_task_that_no_node_could_ever_take_is_refused_at_the_commit(cluster: Rig) -> None:
    await cluster.add_node(max_images=3)
    api = await cluster.start()
    await cluster.ready()
    files = {f"{number}.jpg": b"x" for number in range(3)} | {"geo.txt": b"x"}
    answer = await api.post("/task/new", images(files))
    assert answer == {"error": "this task has 4 files; the largest node takes 3", "noRetry": True}


async def test_a_node_that_is_away_may_come_back_and_one_that_is_not_known_yet_may_take_anything(cluster: Rig) -> None:
    api = await cluster.start()
    waiting = await api.create(4)
    await cluster.add_node(max_images=9)
    await api.ends(waiting)
    await cluster.add_node(max_images=1)
    await cluster.ready()
    await cluster.stop_node(0)
    await eventually(lambda: not _node(cluster).online)
    uuid = await api.create(4)
    await eventually(lambda: "is offline" in cluster.entry(uuid).wait)
    assert not await _console(cluster, uuid)


async def test_text_files_count_for_placement_as_they_count_on_the_node(cluster: Rig) -> None:
    await cluster.add_node(max_images=2)
    await cluster.add_node(max_images=9)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await api.post(f"/task/new/upload/{uuid}", images({"0.jpg": b"x", "1.jpg": b"x", "gcp_list.txt": b"x"}))
    await api.commit(uuid)
    await api.ends(uuid)
    assert [len(node.commits) for node in cluster.nodes] == [0, 1]
    assert (cluster.entry(uuid).task.image_count, cluster.entry(uuid).task.attempts) == (2, 1)


async def test_a_limit_that_a_node_names_too_late_is_learnt_and_the_task_goes_to_a_larger_node(cluster: Rig) -> None:
    small = await cluster.add_node()
    api = await cluster.start(node_poll_interval=3600.0)
    await cluster.ready()
    small.knobs.max_images = 1
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.attempts == 1 and cluster.entry(uuid).task.phase is Phase.QUEUED)
    assert _node(cluster).facts().max_images == 1
    await eventually(lambda: "takes 1" in cluster.entry(uuid).wait)
    await cluster.add_node()
    await api.ends(uuid)
    assert len(cluster.nodes[1].commits) == 1
    assert cluster.entry(uuid).task.charged == 0


async def test_a_task_whose_only_node_is_removed_says_so_once_and_is_a_problem(cluster: Rig) -> None:
    await cluster.add_node(max_images=1)
    await cluster.add_node(max_images=9, seconds=60, slots=1)
    api = await cluster.start()
    await cluster.ready()
    blocker, uuid = await api.create(3), await api.create(4)
    await _running(cluster, blocker)
    await nodes.remove(cluster.cluster.context, _node(cluster, 1))
    why = "this task has 4 files; the largest node takes 1"
    await eventually(lambda: _console(cluster, uuid))
    assert await _problems(cluster) == [f"no node for a waiting task: {why}"]
    assert await tasks.why(cluster.cluster.context, cluster.entry(uuid))
    await cluster.stop()
    api = await cluster.start(node=[f"127.0.0.1:{cluster.ports[0]}"])
    await eventually(lambda: cluster.entry(uuid).wait == why)
    await eventually(lambda: _problems(cluster))
    assert await _console(cluster, uuid) == [f"[clusterodm] no node accepts this task: {why}"]


async def test_a_wait_that_only_an_operator_can_end_is_reported_after_a_while(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "PATIENCE", 0.1)
    await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    await nodes.lock(cluster.cluster.context, _node(cluster))
    uuid = await api.create()
    await eventually(lambda: _console(cluster, uuid))
    why = f"no acceptable node: 127.0.0.1:{cluster.ports[0]} is locked"
    assert await _problems(cluster) == [f"no node for a waiting task: {why}"]
    await nodes.unlock(cluster.cluster.context, _node(cluster))
    await api.ends(uuid)
    assert await _console(cluster, uuid) == [f"[clusterodm] waiting: {why}"]
    assert not await _problems(cluster)


# Tasks that are lost together


async def test_of_tasks_that_a_node_forgets_together_none_is_charged_and_each_goes_on_alone(cluster: Rig) -> None:
    node = await cluster.add_node(slots=3, seconds=60)
    api = await cluster.start(max_attempts=1)
    await cluster.ready()
    uuids = [await api.create() for _ in range(3)]
    await _running(cluster, *uuids)
    for uuid in list(node.tasks):
        node.forget(uuid)
    await eventually(lambda: all(cluster.entry(uuid).task.alone for uuid in uuids))
    assert [cluster.entry(uuid).task.charged for uuid in uuids] == [0, 0, 0]
    _node(cluster).set_aside_until = 0.0
    waiting = {*uuids}
    await _some(cluster, waiting)
    other = await api.create()
    while waiting:  # one after the other, although there are three slots
        await _some(cluster, waiting)
        assert [task.code for task in node.tasks.values()].count(20) == node.busy() == 1
        [runs] = [uuid for uuid in waiting if cluster.entry(uuid).task.phase is Phase.RUNNING]
        await eventually(lambda: cluster.entry(other).wait == "all acceptable nodes are busy")
        waiting.remove(runs)
        await api.post("/task/cancel", {"uuid": runs})
    node.knobs.seconds = 0
    await api.ends(other)


async def _some(cluster: Rig, uuids: set[str]) -> None:
    """Wait until one of these tasks runs."""
    await eventually(lambda: any(cluster.entry(uuid).task.phase is Phase.RUNNING for uuid in uuids))


async def test_a_task_that_loses_its_node_while_it_is_alone_is_charged_in_the_clusters_own_words(cluster: Rig) -> None:
    node = await cluster.add_node(slots=2, seconds=60)
    api = await cluster.start(max_attempts=2)
    await cluster.ready()
    poison, bystander = await api.create(), await api.create()
    await _running(cluster, poison, bystander)
    await api.post("/task/cancel", {"uuid": bystander})
    for number in (1, 2):
        await eventually(lambda number=number: node_uuid(poison, number) in node.tasks)  # type: ignore[misc]
        await _running(cluster, poison)
        node.forget(node_uuid(poison, number))
        _node(cluster).set_aside_until = 0.0
        await eventually(lambda: cluster.entry(poison).task.phase is not Phase.RUNNING)
    info = await api.ends(poison, 30)
    assert info["status"]["errorMessage"] == "the node no longer knows the task; given up after 2 attempts"
    assert not any("not found" in line for line in await cluster.timeline(poison))


async def test_tasks_of_a_node_that_dies_are_not_charged(cluster: Rig) -> None:
    await cluster.add_node(slots=2, seconds=60)
    api = await cluster.start(node_lost_after=0.3, max_attempts=1)
    await cluster.ready()
    uuids = [await api.create() for _ in range(2)]
    await _running(cluster, *uuids)
    await cluster.stop_node(0)
    await eventually(lambda: all(cluster.entry(uuid).task.alone for uuid in uuids))
    await cluster.add_node(slots=2)
    for uuid in uuids:
        await api.ends(uuid)
    assert any("on a node of its own" in line for line in await _console(cluster, uuids[0]))


# Ill nodes


async def _one_after_the_other(cluster: Rig, count: int) -> None:
    """Tasks that all complete."""
    for uuid in [await cluster.api.create() for _ in range(count)]:
        await cluster.api.ends(uuid)


@pytest.mark.parametrize(
    ("fail", "words", "most"),
    [
        ("disk", "EROFS: read-only file system", 1),
        ("other", "Processing failed (99)", 2),
        ("results", "could not pack", 2),
    ],
)
async def test_a_node_that_fails_every_task_gets_no_third_one_and_all_complete_elsewhere(
    cluster: Rig, fail: str, words: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RESTART_BACK_OFF", Backoff(first=0.01, longest=0.01))
    ill = await cluster.add_node(fail=fail, max_images=5)  # it is chosen first
    await cluster.add_node(max_images=50)
    api = await cluster.start()
    await cluster.ready()
    await _one_after_the_other(cluster, 6)
    assert len(ill.commits) == most
    [problem] = await _problems(cluster)
    assert f"127.0.0.1:{cluster.ports[0]} is set aside for another" in problem
    assert words in problem
    ill.knobs.fail = ""
    await nodes.unlock(cluster.cluster.context, _node(cluster))
    await api.ends(await api.create())
    assert not await _problems(cluster)
    assert len(ill.commits) == most + 1


async def test_a_node_with_another_token_keeps_no_task(cluster: Rig) -> None:
    ill = await cluster.add_node(max_images=5)
    await cluster.add_node(max_images=50)
    api = await cluster.start(node_poll_interval=3600.0)
    await cluster.ready()
    ill.knobs.token = "hush-changed"
    uuid = await api.create()
    await api.ends(uuid)
    assert cluster.entry(uuid).task.charged == 0
    assert any("token" in problem for problem in await _problems(cluster))


async def test_a_task_that_fails_at_once_on_two_nodes_is_at_fault_itself(cluster: Rig) -> None:
    for _ in range(2):
        await cluster.add_node(fail="other")
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == "Processing failed (99)"
    assert [len(node.commits) for node in cluster.nodes] == [1, 1]
    for node in cluster.nodes:
        node.knobs.fail = ""
    await _one_after_the_other(cluster, 4)
    assert not await _problems(cluster)


# Refusals of a task


async def test_what_nodes_refuse_of_one_task_takes_no_node_from_others(cluster: Rig) -> None:
    for _ in range(3):
        await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    await narrow(cluster, *cluster.nodes)
    bad = await api.init(options=json.dumps([{"name": "feature-quality", "value": "ultra"}]))
    await api.post(f"/task/new/upload/{bad}", images({"0.jpg": b"x"}))
    await api.commit(bad)
    info = await api.ends(bad, 30)
    assert "feature-quality" in info["status"]["errorMessage"]
    assert cluster.entry(bad).task.attempts == 2
    assert [node.facts().set_aside_until for node in cluster.cluster.context.registry.nodes()] == [0.0, 0.0, 0.0]
    await _one_after_the_other(cluster, 3)


async def test_a_refusal_goes_to_another_node_even_if_that_is_busy(cluster: Rig) -> None:
    picky = await cluster.add_node(max_images=5)
    await cluster.add_node(max_images=50, seconds=60)
    api = await cluster.start()
    await cluster.ready()
    await narrow(cluster, picky)
    blocker = await api.create(10)
    await _running(cluster, blocker)
    options = json.dumps([{"name": "feature-quality", "value": "ultra"}])
    uuid = (await api.post("/task/new", images({"0.jpg": b"x"}, {"options": options})))["uuid"]
    await eventually(lambda: cluster.entry(uuid).task.avoid == [1])
    await eventually(lambda: cluster.entry(uuid).wait == "all acceptable nodes are busy")
    cluster.nodes[1].knobs.seconds = 0
    await api.post("/task/cancel", {"uuid": blocker})
    await api.ends(uuid)
    assert len(picky.commits) == 0


# Countdowns


async def test_a_node_that_never_answers_is_given_up_at_the_announced_time(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=60)
    await cluster.add_node(max_images=1)
    api = await cluster.start(node_lost_after=2.0)
    await cluster.ready()
    uuid = await api.create(2)
    await _running(cluster, uuid)
    node.knobs.hang = 1.0

    async def silent() -> str:
        why = (await tasks.why(cluster.cluster.context, cluster.entry(uuid))).why
        return why if "has not answered" in why else ""

    line = await eventually(silent)
    assert "it counts as lost, and the task is retried elsewhere" in line
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.QUEUED, seconds=8.0)
