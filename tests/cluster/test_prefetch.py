# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Send ahead: files go to a free node while their client still uploads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clusterodm.admin.operations import tasks
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks import prefetch
from clusterodm.core.tasks import Cleanup, Phase, Stage, node_uuid
from clusterodm.devnode import DevNode
from tests.support import Rig, eventually, images, narrow


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH", 1)
    monkeypatch.setattr(prefetch, "_SETTLE", 0.01)
    monkeypatch.setattr(prefetch, "_LOOK", 0.02)


async def _held(node: DevNode, uuid: str) -> set[str]:
    return set(node.held(uuid))


async def _sent(cluster: Rig, uuid: str, names: set[str], *, on: int = 0, number: int = 1) -> None:
    """Wait until these files are on a node although nothing was committed."""

    async def is_there() -> bool:
        return await _held(cluster.nodes[on], node_uuid(uuid, number)) == names

    await eventually(is_there)


async def _gone(node: DevNode, uuid: str) -> None:
    """Wait until nothing of a task is left on a node."""

    async def empty() -> bool:
        return not await _held(node, uuid)

    await eventually(empty)


def _node(cluster: Rig, number: int = 0) -> Node:
    return cluster.cluster.context.registry.nodes()[number]


async def _photos(cluster: Rig, uuid: str, *names: str) -> None:
    for name in names:
        assert await cluster.api.post(f"/task/new/upload/{uuid}", images({name: b"photo " + name.encode()})) == {
            "success": True
        }


async def _attempts(cluster: Rig, uuid: str) -> list[Any]:
    return await cluster.cluster.context.store.attempts(uuid)


async def test_files_are_on_the_node_before_the_commit_and_only_the_rest_follows(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init(name="first")
    await _photos(cluster, uuid, "a.jpg", "b.jpg")
    await _sent(cluster, uuid, {"a.jpg", "b.jpg"})
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING
    why = (await tasks.why(cluster.cluster.context, cluster.entry(uuid))).why
    assert why == f"not committed by its client yet; its files are prefetched to 127.0.0.1:{cluster.ports[0]}"
    assert not node.commits
    await _photos(cluster, uuid, "c.jpg")
    await api.commit(uuid)
    await api.ends(uuid)
    assert await _held(node, uuid) == {"a.jpg", "b.jpg", "c.jpg"}
    assert node.commits == [uuid]
    assert [(each.number, each.reason) for each in await _attempts(cluster, uuid)] == [(1, "completed")]
    lines = await cluster.timeline(uuid)
    assert any(line.startswith("prefetching to") for line in lines)
    assert any("files prefetched to" in line for line in lines)


async def test_no_file_is_prefetched_when_prefetching_is_off(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start(prefetch=0)
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    other = await api.create()
    await api.ends(other)
    assert not await _held(node, uuid)
    assert cluster.entry(uuid).attempt is None


async def test_an_upload_takes_no_slot_from_a_committed_task(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    slow = await api.init()
    await _photos(cluster, slow, "a.jpg")
    await _sent(cluster, slow, {"a.jpg"})
    quick = await api.create()
    await eventually(lambda: node.commits == [quick])
    await _photos(cluster, slow, "b.jpg")
    await api.commit(slow)
    await _sent(cluster, slow, {"a.jpg", "b.jpg"})  # it waits for the slot with all its files there
    await eventually(lambda: cluster.entry(slow).wait == "all acceptable nodes are busy")
    await api.post("/task/cancel", {"uuid": quick})
    await eventually(lambda: node.commits == [quick, slow])


async def test_a_committed_task_goes_where_no_upload_is_prefetched(cluster: Rig) -> None:
    for _ in range(2):
        await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    slow = await api.init()
    await _photos(cluster, slow, "a.jpg")
    await eventually(lambda: any(node.prefetches for node in cluster.cluster.context.registry.nodes()))
    chosen = next(place for place in (0, 1) if _node(cluster, place).prefetches)
    quick = await api.create()
    await eventually(lambda: cluster.nodes[1 - chosen].commits == [quick])
    await api.commit(slow)
    await eventually(lambda: cluster.nodes[chosen].commits == [slow])


async def test_a_task_whose_node_is_full_goes_to_another_and_what_was_sent_is_removed(cluster: Rig) -> None:
    first = await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    quick = await api.create()
    await eventually(lambda: first.commits == [quick])
    second = await cluster.add_node()
    await cluster.ready()
    await api.commit(uuid)
    await api.ends(uuid)
    assert second.commits == [node_uuid(uuid, 2)]
    await _gone(first, uuid)
    reasons = [(each.number, each.reason) for each in await _attempts(cluster, uuid)]
    assert reasons == [(1, "discarded"), (2, "completed")]
    assert any(line.endswith("discarded: another node is free") for line in await cluster.timeline(uuid))
    assert cluster.entry(uuid).task.charged == 0


async def test_an_upload_that_outgrows_its_node_is_sent_to_a_larger_one(cluster: Rig) -> None:
    small = await cluster.add_node(max_images=2)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg", "b.jpg")
    await _sent(cluster, uuid, {"a.jpg", "b.jpg"})
    large = await cluster.add_node(max_images=10)
    await cluster.ready()
    await _photos(cluster, uuid, "c.jpg")
    await _sent(cluster, uuid, {"a.jpg", "b.jpg", "c.jpg"}, on=1, number=2)
    await _gone(small, uuid)
    await api.commit(uuid)
    await api.ends(uuid)
    assert (small.commits, large.commits) == ([], [node_uuid(uuid, 2)])


async def test_a_growing_upload_goes_to_a_node_that_takes_more_than_it_has(cluster: Rig) -> None:
    await cluster.add_node(max_images=1)
    await cluster.add_node(max_images=10)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"}, on=1)


@pytest.mark.parametrize("how", ["lost", "locked"])
async def test_what_a_node_has_that_is_no_longer_to_be_had_is_sent_elsewhere(cluster: Rig, how: str) -> None:
    await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    await cluster.add_node()
    await eventually(lambda: _node(cluster, 1).online)
    if how == "lost":
        await cluster.stop_node(0)
    else:
        await cluster.cluster.context.registry.change(_node(cluster), locked=True)
    await _sent(cluster, uuid, {"a.jpg"}, on=1, number=2)
    await api.commit(uuid)
    await api.ends(uuid)
    assert cluster.nodes[1].commits == [node_uuid(uuid, 2)]


async def test_what_was_sent_of_an_upload_that_is_removed_is_removed_on_the_node(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start(token="hush-key")
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    await cluster.cluster.context.control.remove(cluster.entry(uuid))

    async def is_gone() -> bool:
        return not await _held(node, uuid) and uuid not in node.announced

    await eventually(is_gone)
    assert not _node(cluster).prefetches


async def test_an_upload_that_rests_loses_what_was_sent_and_gets_it_back_when_it_goes_on(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    monkeypatch.setattr(prefetch, "RESTING", -1.0)
    await _gone(node, uuid)
    assert not _node(cluster).prefetches
    monkeypatch.undo()
    monkeypatch.setattr(prefetch, "WORTH", 1)
    await _photos(cluster, uuid, "b.jpg")
    await eventually(lambda: _node(cluster).prefetches)
    await api.commit(uuid)
    await api.ends(uuid)


async def test_a_task_that_is_announced_again_runs_with_the_last_options(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init(options='[{"name": "dsm", "value": true}]')
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    await api.init(uuid=uuid, options='[{"name": "dtm", "value": true}]')
    await api.commit(uuid)
    await api.ends(uuid)
    ran = node.tasks[node.commits[0]]
    assert [option["name"] for option in ran.options] == ["dtm", "pc-ept", "cog", "gltf"]


async def test_after_a_restart_prefetches_are_discarded_and_the_task_runs(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    await cluster.stop()
    api = await cluster.start()
    attempt = cluster.entry(uuid).attempt
    assert attempt is not None
    await eventually(lambda: (cluster.entry(uuid).attempt or attempt).stage is not Stage.PREFETCHING)
    await _gone(node, uuid)
    await _photos(cluster, uuid, "b.jpg")
    await api.commit(uuid)
    await api.ends(uuid)
    assert await _held(node, node.commits[0]) == {"a.jpg", "b.jpg"}


async def test_no_more_uploads_are_prefetched_than_configured(cluster: Rig) -> None:
    await cluster.add_node(slots=10)
    api = await cluster.start(prefetch=2)
    await cluster.ready()
    uuids = [await api.init() for _ in range(4)]
    for uuid in uuids:
        await _photos(cluster, uuid, "a.jpg")
    await eventually(lambda: len(_node(cluster).prefetches) == 2)
    for uuid in uuids:
        await api.commit(uuid)
    for uuid in uuids:
        await api.ends(uuid)


async def test_a_canceled_task_that_waits_leaves_nothing_on_the_node(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=30)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg")
    await _sent(cluster, uuid, {"a.jpg"})
    quick = await api.create()
    await eventually(lambda: node.commits == [quick])
    await api.commit(uuid)
    await api.post("/task/cancel", {"uuid": uuid})
    await api.ends(uuid, 50)
    await _gone(node, uuid)
    attempts = await _attempts(cluster, uuid)
    await eventually(lambda: attempts[-1].cleanup in (Cleanup.REMOVE, Cleanup.NONE))


async def test_a_node_that_fails_during_a_prefetch_costs_the_client_nothing(cluster: Rig) -> None:
    bad = await cluster.add_node(drop=1.0)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    await _photos(cluster, uuid, "a.jpg", "b.jpg")
    await eventually(lambda: _node(cluster).set_aside_until > 0)
    await cluster.add_node()
    await cluster.ready()
    await api.commit(uuid)
    await api.ends(uuid)
    assert not bad.commits
    assert len(cluster.nodes[1].commits) == 1


async def test_what_a_node_refuses_of_an_upload_goes_ahead_to_no_node_and_takes_none_from_others(cluster: Rig) -> None:
    for _ in range(2):
        await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    await narrow(cluster, *cluster.nodes)
    uuid = await api.init(options='[{"name": "feature-quality", "value": "ultra"}]')
    await _photos(cluster, uuid, "a.jpg")
    await eventually(lambda: cluster.entry(uuid).attempt and cluster.entry(uuid).attempt.stage is Stage.ENDED)  # type: ignore[union-attr]
    await _photos(cluster, uuid, "b.jpg")
    assert [_node(cluster, number).set_aside_until for number in (0, 1)] == [0.0, 0.0]
    await api.ends(await api.create())
    assert len(await _attempts(cluster, uuid)) == 1


async def test_many_uploads_at_once_all_run_once_with_all_their_files(cluster: Rig) -> None:
    for _ in range(2):
        await cluster.add_node(slots=2)
    api = await cluster.start(prefetch=3)
    await cluster.ready()

    async def one(number: int) -> str:
        uuid = await api.init()
        await asyncio.gather(*(_photos(cluster, uuid, f"{each}.jpg") for each in range(6)))
        await api.commit(uuid)
        await api.ends(uuid)
        return uuid

    uuids = await asyncio.gather(*(one(number) for number in range(8)))
    ran: dict[str, list[set[str]]] = {uuid: [] for uuid in uuids}
    for node in cluster.nodes:
        for ran_as in node.commits:
            owner = next(uuid for uuid in uuids if ran_as in [node_uuid(uuid, n) for n in range(1, 6)])
            ran[owner].append(await _held(node, ran_as))
    assert all(files == [{f"{each}.jpg" for each in range(6)}] for files in ran.values())
