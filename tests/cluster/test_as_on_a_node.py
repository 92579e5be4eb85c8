# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a client sees of a task when it is over, as a real node shows it: canceled late, restarted, results deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusterodm.core.tasks import Phase
from clusterodm.devnode.tasks import DevTask
from tests.support import Rig, eventually, images


async def test_a_completed_task_that_is_canceled_shows_50_and_keeps_its_results(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    for _ in range(2):
        assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
        assert await api.code(uuid) == 50
    status, _, body = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert (status, body[:2]) == (200, b"PK")
    assert "canceled after its end by its owner" in await cluster.timeline(uuid)
    await cluster.stop()
    api = await cluster.start()
    assert await api.code(uuid) == 50
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": True}
    await api.ends(uuid)


async def test_a_failed_task_that_is_canceled_shows_50(cluster: Rig) -> None:
    await cluster.add_node(fail="dataset")
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid, 30)
    await api.post("/task/cancel", {"uuid": uuid})
    info = await api.get(f"/task/{uuid}/info")
    assert info["status"] == {"code": 50}
    assert await api.get(f"/task/{uuid}/download/all.zip") == {"error": "Asset not ready"}


@pytest.mark.parametrize("on_its_node", [True, False])
async def test_the_console_begins_at_0_after_an_owners_restart(cluster: Rig, on_its_node: bool) -> None:
    await cluster.add_node(fail="dataset")
    await cluster.add_node(fail="dataset")
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid, 30)
    before = await api.get(f"/task/{uuid}/output")
    assert before
    if not on_its_node:
        entry = cluster.entry(uuid)
        assert entry.attempt is not None
        name = entry.attempt.node_name
        await cluster.stop_node([str(port) for port in cluster.ports].index(name.rpartition(":")[2]))
        await eventually(lambda: any(not node.online for node in cluster.cluster.context.registry.nodes()))
    options = json.dumps([{"name": "skip-3dmodl", "value": True}])
    assert await api.post("/task/restart", {"uuid": uuid, "options": options}) == {"success": True}
    warning = "[clusterodm] option skip-3dmodl is unknown and has no effect; did you mean skip-3dmodel?"
    assert (await api.get(f"/task/{uuid}/output"))[0] == warning
    await api.ends(uuid, 30)
    assert (await api.get(f"/task/{uuid}/output")).count(before[0]) == 1


async def test_options_that_the_node_adds_are_shown_and_not_kept_for_another(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=60)
    api = await cluster.start()
    own: list[dict[str, Any]] = [{"name": "dsm", "value": True}]
    uuid = await api.create(options=json.dumps(own))
    added = [{"name": name, "value": True} for name in ("pc-ept", "cog", "gltf")]

    async def shown() -> bool:
        options = (await api.get(f"/task/{uuid}/info"))["options"]
        return bool(options == own + added)

    await eventually(shown)
    assert node.tasks[uuid].options == own + added
    assert cluster.entry(uuid).task.options == own
    await cluster.stop()
    api = await cluster.start()
    assert await shown()


async def test_images_are_counted_as_a_node_counts_them(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.init()
    names = ("a.jpg", "b.TIF", "c.srt", "body.json", "gcp_list.txt", "geo.TXT", "align.laz", "notes.zip", "d.mp4")
    await api.post(f"/task/new/upload/{uuid}", images({name: name.encode() for name in names}))
    await api.commit(uuid)
    assert (await api.get(f"/task/{uuid}/info"))["imagesCount"] == 5
    assert (await api.ends(uuid))["imagesCount"] == 5
    assert uuid in node.tasks


@pytest.mark.parametrize("asset", ["all.zip", "report.html"])
@pytest.mark.parametrize("cause", ["forgotten", "deleted", "removed"])
async def test_results_that_the_node_has_deleted_are_gone_and_the_task_is_shown(
    cluster: Rig, cause: str, asset: str
) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    info = await api.ends(uuid)
    output = await api.get(f"/task/{uuid}/output")
    registry = cluster.cluster.context.registry
    if cause == "forgotten":
        node.forget(uuid)
    elif cause == "deleted":
        node.archive(uuid).unlink()
    else:
        await registry.forget(registry.nodes()[0])
    answer = await api.get(f"/task/{uuid}/download/{asset}")
    name = f"127.0.0.1:{cluster.ports[0]}"
    error = f"The results of this task are gone: {name} has deleted them, or is no longer here"
    assert answer == {"error": error, "noRetry": True}
    assert await api.get(f"/task/{uuid}/info") == info
    assert await api.get(f"/task/{uuid}/output") == output


async def test_a_node_that_has_deleted_its_results_can_be_switched_off(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    node.forget(uuid)
    context = cluster.cluster.context
    registered = context.registry.nodes()[0]
    await context.registry.change(registered, draining=True)
    await context.drainer.sweep()
    assert registered.record.id in context.drainer.drained


async def test_a_task_whose_results_are_being_looked_for_can_be_canceled(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=0.2)
    api = await cluster.start(results="keep")
    uuid = await api.create()

    async def delete(task: DevTask) -> None:
        node.archive(task.uuid).unlink()

    node.done = delete
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.COLLECTING)
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    assert await api.code(uuid) == 50
    assert await api.get(f"/task/{uuid}/download/all.zip") == {"error": "Asset not ready"}
