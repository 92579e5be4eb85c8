# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines when providers lie, the cluster crashes or its entries change: none is left, none is there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clusterodm.cluster.machines import reaper
from clusterodm.cluster.state.registry import Node
from clusterodm.core.machines import Machine, State
from clusterodm.core.tasks import Phase
from clusterodm.testing import FakeMachine
from clusterodm.testing.world import LOSE
from tests.cluster.machines import machines, no_machines, start
from tests.providers.support import CLOUDS, Cloud, running_cloud
from tests.support import Rig, eventually

pytestmark = pytest.mark.usefixtures("prioritise")


@pytest.mark.parametrize("missed", [0, 2])
async def test_a_machine_that_its_provider_denies_once_is_deleted_nevertheless(
    cluster: Rig, cloud: Cloud, missed: int
) -> None:
    assert cloud.world is not None
    cloud_machines, hidden = cloud.world.machines, dict[str, FakeMachine]()

    def lie(request: web.Request) -> str:
        if request.method == "DELETE" and not hidden:
            hidden.update(cloud_machines)
            cloud_machines.clear()
        elif request.method == "DELETE":
            cloud_machines.update(hidden)
        return ""

    def miss_before(machine: Machine) -> None:
        for _ in range(missed if machine.state is State.DRAINING else 0):
            cluster.cluster.context.lifecycle._absence.absent(machine, 0.0)

    cloud.world.misbehave = lie
    api = await start(cluster, cloud)
    cluster.cluster.context.machines.watch(miss_before)
    await api.ends(await api.create(2))
    await eventually(lambda: not machines(cluster))
    assert cloud.world.created[0].gone.is_set()


@pytest.mark.parametrize("name", ["digitalocean", "hetzner", "scaleway"])
async def test_a_creation_without_an_answer_leaves_one_machine(cluster: Rig, name: str) -> None:
    async with running_cloud(name) as cloud:
        assert cloud.world is not None
        faults = [LOSE] * 2
        cloud.world.misbehave = lambda request: faults.pop() if faults and request.method == "POST" else ""
        api = await start(cluster, cloud)
        await api.ends(await api.create(2))
        assert len(cloud.world.created) == 1
        await no_machines(cluster, cloud)


async def test_a_creation_that_never_gets_an_answer_is_given_up_and_leaves_nothing(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    small = {"small"}
    cloud.world.misbehave = lambda request: LOSE if request.method == "POST" and small else ""
    api = await start(cluster, cloud, createRetries=0)
    uuid = await api.create(2)
    await eventually(lambda: any(machine.state is State.DELETING for machine in machines(cluster)))
    small.clear()
    await api.ends(uuid)
    await no_machines(cluster, cloud)


async def test_a_machine_gets_no_tasks_from_before_it_is_deleted(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, idleTimeout=60)
    await api.ends(await api.create(2))
    context, closed = cluster.cluster.context, list[str]()

    def look(machine: Machine) -> None:
        if machine.state is State.DELETING:
            closed.extend(node.closed for node in context.registry.nodes())

    context.machines.watch(look)
    await context.lifecycle.delete(machines(cluster)[0], "for a test")
    assert closed == ["draining"]


async def test_a_machine_whose_node_answers_at_the_last_moment_stays(
    cluster: Rig, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 60
    cloud.world.dead_on_arrival = True
    api = await start(cluster, cloud, bootTimeout=0.3)
    world, registry = cloud.world, cluster.cluster.context.registry
    change = registry.change

    async def at_last(node: Node, **changes: Any) -> None:
        await change(node, **changes)
        if changes == {"draining": True}:
            world.dead_on_arrival = False
            world.start(world.created[0])
            await eventually(lambda: node.online)

    monkeypatch.setattr(registry, "change", at_last)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    assert len(world.created) == 1
    assert cloud.names() == [machines(cluster)[0].id]


async def test_what_is_refused_is_not_asked_for_again_and_again(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, image="nothing", snapshot=True)
    uuid = await api.create(2)
    await eventually(lambda: "hetzner had no small available" in cluster.entry(uuid).wait)
    assert cloud.world is not None
    assert cloud.world.created == []
    await eventually(lambda: not machines(cluster))


async def test_an_orphan_is_deleted_after_a_while_and_others_machines_never(
    cluster: Rig, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloud.world is not None
    await start(cluster, cloud)
    own = await cluster.cluster.context.store.value("cluster")
    cloud.world.dead_on_arrival = True
    for name, label in (("clusterodm-x-1", own), ("somebody-elses", "other")):
        cloud.world.start(cloud.world.create(name, "small", "fsn1", labels={"clusterodm": label}))
    await eventually(lambda: cluster.cluster.context.reaper.orphans)
    assert len(cloud.names()) == 2, "not at once"
    monkeypatch.setattr(reaper, "GRACE", 0.0)
    await eventually(lambda: cloud.names() == ["somebody-elses"])


@pytest.mark.parametrize("name", CLOUDS)
async def test_a_restart_takes_up_machines_and_tasks_where_they_are(cluster: Rig, name: str) -> None:
    async with running_cloud(name, seconds=60) as cloud:
        api = await start(cluster, cloud)
        uuid = await api.create(2)
        await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
        before = cloud.names()
        await cluster.stop()
        api = await start(cluster, cloud)
        await eventually(lambda: [machine.state for machine in machines(cluster)] == [State.READY])
        assert cluster.entry(uuid).task.phase is Phase.RUNNING
        assert cloud.names() == before
        await api.post("/task/cancel", {"uuid": uuid})
        await no_machines(cluster, cloud)


async def test_a_machine_of_an_entry_that_is_gone_from_the_file_is_left_alone(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, idleTimeout=60)
    await api.ends(await api.create(2))
    await cluster.stop()
    await start(cluster, cloud, name="renamed", minImages=50)
    assert [machine.provider for machine in machines(cluster)] == ["hetzner"]
    assert len(cloud.names()) == 1


async def test_no_secret_of_a_cloud_or_a_machine_is_shown(cluster: Rig, cloud: Cloud, tmp_path: Path) -> None:
    api = await start(cluster, cloud, idleTimeout=60)
    await api.ends(await api.create(2))
    assert machines(cluster)[0].token not in repr(machines(cluster))
    assert cloud.world is not None
    assert "hush" not in cloud.world.created[0].user_data
