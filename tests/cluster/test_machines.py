# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines on demand: from nothing to results and back to nothing, and everything that may go wrong on the way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from clusterodm.cluster.machines import backoff
from clusterodm.core.machines import State
from clusterodm.core.tasks import Phase
from clusterodm.testing.world import REFUSE
from tests.cluster.machines import machines, no_machines, start
from tests.providers.support import CLOUDS, Cloud, running_cloud
from tests.support import Rig, eventually

pytestmark = pytest.mark.usefixtures("prioritise")


@pytest.mark.parametrize("name", CLOUDS)
async def test_scaling_up_from_zero_and_back_to_zero(cluster: Rig, name: str) -> None:
    async with running_cloud(name) as cloud:
        api = await start(cluster, cloud)
        uuid = await api.create(3)
        info = await api.ends(uuid)
        assert info["imagesCount"] == 3
        await no_machines(cluster, cloud)
        _, _, archive = await api.raw("GET", f"/task/{uuid}/download/all.zip")
        assert archive.startswith(b"PK"), "its results were brought here before its machine went"
        lines = await cluster.timeline(uuid)
        assert any(line.startswith("machine clusterodm-") and "smallest size for 3 images" in line for line in lines)
        gone_machines = await cluster.cluster.context.store.machines_gone(limit=10)
        assert [machine.state for machine in gone_machines] == [State.GONE]


async def test_each_task_gets_the_size_that_it_needs_and_no_more_machines_than_tasks(
    cluster: Rig, cloud: Cloud
) -> None:
    api = await start(cluster, cloud)
    small, large = await api.create(2), await api.create(11)
    await api.ends(small)
    await api.ends(large)
    assert cloud.world is not None
    assert sorted(machine.size for machine in cloud.world.created) == ["large", "small"]
    await no_machines(cluster, cloud)


async def test_an_idle_machine_takes_the_next_task(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, idleTimeout=60)
    for _ in range(3):
        await api.ends(await api.create(2))
    assert cloud.world is not None
    assert len(cloud.world.created) == 1
    assert [machine.state for machine in machines(cluster)] == [State.READY]


async def test_after_the_clock_was_set_back_an_idle_machine_goes_after_its_idle_time(
    cluster: Rig, cloud: Cloud
) -> None:
    api = await start(cluster, cloud, idleTimeout=60)
    await api.ends(await api.create(2))
    cluster.clock.jumped -= 3600
    await eventually(lambda: machines(cluster)[0].idle_since <= cluster.clock())
    cluster.clock.ahead += 61
    await no_machines(cluster, cloud)


async def test_free_nodes_are_used_before_machines_are_ordered_and_locked_ones_are_not(
    cluster: Rig, cloud: Cloud
) -> None:
    await cluster.add_node()
    api = await start(cluster, cloud)
    await cluster.ready()
    await api.ends(await api.create(2))
    assert cloud.world is not None
    assert cloud.world.created == []
    node = cluster.cluster.context.registry.nodes()[0]
    await cluster.cluster.context.registry.change(node, locked=True)
    await api.ends(await api.create(2))
    assert len(cloud.world.created) == 1


async def test_out_of_stock_means_the_next_rung_and_the_owner_sees_nothing_of_it(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.out_of_stock = {"small"}
    api = await start(cluster, cloud)
    await api.ends(await api.create(2))
    assert [machine.size for machine in cloud.world.created] == ["large"]


async def test_when_a_cloud_has_nothing_the_next_one_is_asked(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.quota = 0
    async with running_cloud("digitalocean") as second:
        api = await start(cluster, cloud, second)
        await api.ends(await api.create(2))
        assert second.world is not None
        assert len(second.world.created) == 1
        await no_machines(cluster, second)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"machinesLimit": 0}, "hetzner has reached its limit of machines (0)"),
        ({"minImages": 5}, "hetzner takes tasks of at least 5 images"),
        ({"maxHourlyCost": 0.05}, "the hourly cost limit is 0.05, current machines cost 0"),
        ({"maxMonthlyCost": 0}, "the monthly cost limit is 0, 0.00 spent"),
    ],
)
async def test_a_limit_holds_a_task_in_the_queue_with_the_reason(
    cluster: Rig, cloud: Cloud, keys: dict[str, Any], why: str
) -> None:
    api = await start(cluster, cloud, **keys)
    uuid = await api.create(2)
    await eventually(lambda: why in cluster.entry(uuid).wait)
    assert await api.code(uuid) == 10
    assert cloud.names() == []


async def test_a_task_that_waits_for_its_machine_says_so(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.dead_on_arrival = True
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: "is booting for this task (small in fsn1)" in cluster.entry(uuid).wait)


async def test_a_machine_whose_node_never_answers_is_deleted_and_another_size_is_tried(
    cluster: Rig, cloud: Cloud
) -> None:
    assert cloud.world is not None
    cloud.world.dead_on_arrival = True
    api = await start(cluster, cloud, bootTimeout=0.3)
    uuid = await api.create(2)
    await eventually(lambda: cloud.world and len(cloud.world.created) == 2)
    cloud.world.dead_on_arrival = False
    world = cloud.world
    await eventually(lambda: [machine.name for machine in world.machines.values()])
    assert [machine.size for machine in world.created][:2] == ["small", "large"]
    assert await api.code(uuid) in (10, 20, 40)


async def test_a_machine_that_is_taken_away_loses_no_task(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 60
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    cloud.world.knobs["seconds"] = 0.0
    cloud.take(cloud.names()[0])
    await api.ends(uuid)
    assert cluster.entry(uuid).task.charged == 0, "that was not the task's fault"
    assert any("its machine was taken away" in line for line in await cluster.timeline(uuid))
    await no_machines(cluster, cloud)


async def test_a_busy_machine_whose_node_is_silent_is_not_deleted(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 60
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    node = cloud.world.created[0].node
    assert node is not None
    node.knobs.hang = 1.0
    cloud.world.misbehave = lambda request: REFUSE
    calls = cloud.world.calls["GET"]
    await eventually(lambda: cloud.world and cloud.world.calls["GET"] > calls + 6)
    assert [machine.state for machine in machines(cluster)] == [State.READY]
    assert cloud.names()
    cloud.world.misbehave = lambda request: ""


async def test_a_machine_whose_node_answers_is_there_whatever_its_provider_says(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 60
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    hidden = dict(cloud.world.machines)
    cloud.world.machines.clear()
    calls = cloud.world.calls["GET"]
    await eventually(lambda: cloud.world and cloud.world.calls["GET"] > calls + 12)
    assert [machine.state for machine in machines(cluster)] == [State.READY]
    assert cluster.entry(uuid).task.attempts == 1
    cloud.world.machines |= hidden


async def test_out_of_memory_means_the_next_size(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["fail"] = "memory"
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.larger_than == 10)
    cloud.world.knobs["fail"] = ""
    await api.ends(uuid)
    assert [machine.size for machine in cloud.world.created] == ["small", "large"]


async def test_a_task_that_ran_out_of_memory_fails_where_no_node_and_no_size_has_more(
    cluster: Rig, cloud: Cloud
) -> None:
    assert cloud.world is not None
    cloud.world.knobs["total_memory"] = 8 << 30
    api = await start(cluster, cloud)
    for images in (2, 11):  # by which the memory of both sizes becomes known
        await api.ends(await api.create(images))
    await no_machines(cluster, cloud)
    await cluster.add_node(fail="memory", total_memory=8 << 30)
    await cluster.ready()
    info = await api.ends(await api.create(2), 30)
    assert "memory" in info["status"]["errorMessage"]
    assert len(cloud.world.created) == 2


async def test_sizes_are_learned_from_what_tasks_took(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs |= {"fail": "memory", "total_memory": 8 << 30}
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.larger_than == 10)
    cloud.world.knobs |= {"fail": "", "total_memory": 64 << 30}
    await api.ends(uuid)
    await no_machines(cluster, cloud)
    forecasts = cluster.cluster.context.forecasts
    assert forecasts.state.sizes.memory == {"hetzner/small": 8 << 30, "hetzner/large": 64 << 30}
    await eventually(lambda: [(peak.images, peak.enough) for peak in forecasts.peaks] == [(2, False), (2, True)])
    await cluster.stop()

    api = await start(cluster, cloud)
    second = await api.create(2)
    await api.ends(second)
    assert [machine.size for machine in cloud.world.created] == ["small", "large", "large"]
    lines = "\n".join(await cluster.timeline(second))
    assert "GB of memory expected: a task of 2 images like it" in lines
    assert "as similar tasks used: large in fsn1" in lines


async def test_files_that_take_too_long_to_send_cost_the_machine_not_the_task(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, maxUploadTime=1, settings={"upload_max_speed": 40_000})
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a" * 900_000)
    await api.commit(uuid)
    await eventually(lambda: cluster.entry(uuid).task.charged == 1)
    assert any("took longer to send than its machine allows (1 s)" in line for line in await cluster.timeline(uuid))
    assert cluster.entry(uuid).task.phase in (Phase.QUEUED, Phase.DISPATCHING)


async def test_a_rung_that_failed_is_tried_again_soon_at_first_and_then_less_often(
    cluster: Rig, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_BLOCK", 0.1)
    assert cloud.world is not None
    cloud.world.quota = 0
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await eventually(lambda: len(cluster.cluster.context.lifecycle.backoff.until) == 2)
    posts = cloud.world.calls["POST"]
    await eventually(lambda: cloud.world and cloud.world.calls["POST"] > posts + 2)
    assert max(cluster.cluster.context.lifecycle.backoff._failures.values()) >= 2
    cloud.world.quota = -1
    await api.ends(uuid)


async def test_a_task_that_runs_longer_than_its_machine_may_goes_on_elsewhere(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 60
    api = await start(cluster, cloud, maxRuntime=1)
    uuid = await api.create(2)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    cloud.world.knobs["seconds"] = 0.0
    await api.ends(uuid)
    assert any("the time that it may run" in line for line in await cluster.timeline(uuid))


async def test_machines_are_kept_ready_and_the_spare_ones_go(cluster: Rig, cloud: Cloud) -> None:
    api = await start(cluster, cloud, minReady=2)
    await eventually(lambda: [machine.state for machine in machines(cluster)] == [State.READY] * 2)
    await api.ends(await api.create(2))
    await eventually(lambda: [machine.state for machine in machines(cluster)] == [State.READY] * 2)
    assert len(cloud.names()) == 2


async def test_a_machine_boots_while_files_come_in_where_that_is_wanted(cluster: Rig, cloud: Cloud) -> None:
    await cluster.add_node(max_images=2)
    api = await start(cluster, cloud, prewarm=True)
    await cluster.ready()
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a", b__jpg=b"b")
    await eventually(lambda: cluster.entry(uuid).last_activity)
    await api.upload(uuid, c__jpg=b"c")
    await eventually(lambda: [machine.state for machine in machines(cluster)] == [State.READY])
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING
    await api.commit(uuid)
    await api.ends(uuid)
    assert cloud.world is not None
    assert len(cloud.world.created) == 1
    await eventually(lambda: not cloud.names())


async def test_a_machine_that_was_ordered_for_an_upload_goes_when_the_upload_is_given_up(
    cluster: Rig, cloud: Cloud
) -> None:
    api = await start(cluster, cloud, prewarm=True)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    await eventually(lambda: [machine.state for machine in machines(cluster)] == [State.READY])
    cluster.entry(uuid).last_activity -= 1000
    await no_machines(cluster, cloud)


async def test_what_is_spent_is_known_by_owner_task_and_machine(cluster: Rig, cloud: Cloud) -> None:
    assert cloud.world is not None
    cloud.world.knobs["seconds"] = 0.3
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await api.ends(uuid)
    await no_machines(cluster, cloud)
    scaler, store = cluster.cluster.context.autoscaler, cluster.cluster.context.store
    spent = scaler.spent_this_month
    assert spent > 0
    await scaler.keep_costs()
    assert scaler.spent_this_month == pytest.approx(spent)
    name = time.strftime("%Y-%m", time.gmtime((await store.machines_gone(limit=1))[0].gone_at))
    by_task = {key: hours for key, hours, _ in await store.costs(name, "task")}
    assert by_task[uuid] * 3600 > 0.2
    assert {key for key, _, _ in await store.costs(name, "owner")} == {"local", ""}
    assert len(await store.costs(name, "machine")) == 1
