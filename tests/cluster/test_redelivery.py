# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A task that is finished but for its results, which its node could not deliver."""

from __future__ import annotations

import re

import pytest

from clusterodm.admin.operations import figures, tasks
from clusterodm.core import retry
from clusterodm.core.backoff import Backoff
from clusterodm.core.tasks import Phase
from tests.cluster.machines import machines, no_machines, start
from tests.providers.support import Cloud
from tests.support import Rig, eventually

UNDELIVERED = "could not deliver the results (Cannot upload file to S3: Access Denied (AccessDenied), retrying... 6)"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts come soon."""
    monkeypatch.setattr(retry, "RESTART_BACK_OFF", Backoff(first=0.05, longest=0.05))


async def _waits(cluster: Rig, uuid: str) -> None:
    await eventually(lambda: cluster.entry(uuid).attempt and cluster.entry(uuid).task.not_before)


async def _later(cluster: Rig, uuid: str) -> None:
    """The wait for the first restart is over."""
    cluster.clock.ahead += 61
    cluster.cluster.context.tracker.look(uuid)


async def test_a_node_that_delivers_at_the_second_try_keeps_the_task(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery", max_images=5)  # it is chosen first
    other = await cluster.add_node(max_images=50)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create(2, options='[{"name": "dsm", "value": true}]')
    await _waits(cluster, uuid)
    node.knobs.fail = ""
    await _later(cluster, uuid)
    info = await api.ends(uuid)
    task = cluster.entry(uuid).task
    assert (task.attempts, task.charged, task.avoid, len(other.commits)) == (1, 0, [], 0)
    assert [option["name"] for option in info["options"]][:1] == ["dsm"]
    timeline = await cluster.timeline(uuid)
    [undelivered] = [line for line in timeline if UNDELIVERED in line]
    assert re.search(r"; restarting the task there in \d+ s \(1 of 3\)$", undelivered)
    assert any(line.startswith("restarted on 127.0.0.1") for line in timeline)
    console = await api.get(f"/task/{uuid}/output")
    [restart_line] = [number for number, line in enumerate(console) if line.startswith("[clusterodm] restarted")]
    assert console[restart_line + 1].startswith("Development node"), "the node's lines follow, from its first"
    assert sum(line.startswith("Development node") for line in console) == node.tasks[uuid].runs == 2
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert content.startswith(b"PK")


async def test_after_three_restarts_the_results_are_fetched_through_the_node(cluster: Rig, short: None) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await api.ends(uuid)
    assert node.tasks[uuid].runs == 4
    assert (cluster.entry(uuid).task.attempts, cluster.entry(uuid).task.charged) == (1, 0)
    timeline = await cluster.timeline(uuid)
    assert [f"({number} of 3)" in "".join(timeline) for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert any(f"{UNDELIVERED}; fetching them through the node: 3 restarts did not help" in line for line in timeline)
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert content.startswith(b"PK")


async def test_only_a_node_that_does_not_have_the_results_either_has_failed(cluster: Rig, short: None) -> None:
    ill = await cluster.add_node(fail="results", max_images=5)
    await cluster.add_node(max_images=50)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create(2)
    await api.ends(uuid)
    assert ill.commits == [uuid]
    task = cluster.entry(uuid).task
    assert (task.attempts, task.charged, len(task.avoid)) == (2, 1, 1)
    timeline = await cluster.timeline(uuid)
    assert any("could not deliver the results (Compressing all.zip)" in line for line in timeline)
    assert any("ended: the node processed the task, but could not pack or deliver" in line for line in timeline)


async def test_the_archive_of_an_earlier_run_is_never_taken_for_that_of_a_run_that_could_not_be_packed(
    cluster: Rig, short: None
) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create(2)
    await api.ends(uuid)
    node.knobs.fail = "results"
    await api.post("/task/restart", {"uuid": uuid, "options": '[{"name": "dsm", "value": true}]'})
    info = await api.ends(uuid, 30)
    assert "could not pack or deliver the results" in info["status"]["errorMessage"]
    assert node.archive(uuid).exists()


async def test_while_a_restart_is_awaited_a_client_sees_the_task_running_and_operators_see_why(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    assert await api.code(uuid) == 20
    assert "restart 1 of 3 on the same node, in" in (await tasks.why(cluster.cluster.context, cluster.entry(uuid))).why
    [problem] = (await figures.status(cluster.cluster.context)).problems
    assert problem.startswith("a finished task waits until the node can deliver the results")
    waiting = await api.create(1)
    await eventually(lambda: "busy" in cluster.entry(waiting).wait)
    assert node.commits == [uuid], "its slot is kept for it"


async def test_a_task_that_is_begun_again_is_shown_running_while_its_node_has_it_wait(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    node.knobs.slots, node.knobs.fail = 0, ""
    await _later(cluster, uuid)
    await eventually(lambda: cluster.entry(uuid).task.processing_time == -1)
    assert (node.tasks[uuid].code, await api.code(uuid)) == (10, 20)


async def test_an_owner_may_cancel_while_a_restart_is_awaited(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    assert await api.code(uuid) == 50
    await eventually(lambda: node.tasks[uuid].code == 50)
    assert node.tasks[uuid].runs == 1


async def test_a_restart_of_the_cluster_forgets_neither_the_time_nor_the_count(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    due = cluster.entry(uuid).task.not_before
    await cluster.stop()
    api = await cluster.start()
    assert cluster.entry(uuid).task.not_before == due
    assert node.tasks[uuid].runs == 1
    await _later(cluster, uuid)
    await eventually(lambda: node.tasks[uuid].runs == 2)

    async def counted() -> bool:
        return "restart 2 of 3" in (await tasks.why(cluster.cluster.context, cluster.entry(uuid))).why

    await eventually(counted)


async def test_a_restart_that_was_carried_out_without_an_answer_is_not_ordered_twice(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    node.knobs.fail = ""
    assert node.restart(node.tasks[uuid], None)  # as by a process that died before it could write that down
    await _later(cluster, uuid)
    await api.ends(uuid)
    assert node.tasks[uuid].runs == 2


async def test_a_node_that_is_gone_when_the_restart_is_due_has_lost_the_task(cluster: Rig) -> None:
    await cluster.add_node(fail="delivery", max_images=5)
    await cluster.add_node(max_images=50)
    api = await cluster.start(node_lost_after=0.3)
    await cluster.ready()
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    await cluster.stop_node(0)
    await _later(cluster, uuid)
    await api.ends(uuid)
    assert cluster.entry(uuid).task.attempts == 2


async def test_a_node_that_goes_away_soon_is_not_restarted_but_asked_for_the_results(cluster: Rig) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start(results="keep")
    registry = cluster.cluster.context.registry
    await cluster.ready()
    await registry.change(registry.nodes()[0], ends_at=cluster.clock() + 100)
    uuid = await api.create(2)
    await api.ends(uuid)
    assert node.tasks[uuid].runs == 1
    assert any(
        "fetching them through the node: its node is about to go away" in line for line in await cluster.timeline(uuid)
    )
    assert cluster.entry(uuid).task.phase is Phase.FINISHED


async def test_a_restart_by_the_owner_begins_to_count_anew(cluster: Rig, short: None) -> None:
    node = await cluster.add_node(fail="delivery")
    api = await cluster.start()
    uuid = await api.create(2)
    await api.ends(uuid)
    await api.post("/task/restart", {"uuid": uuid})
    await api.ends(uuid)
    assert node.tasks[uuid].runs == 8


async def test_a_machine_that_goes_waits_until_finished_results_are_here(
    cluster: Rig, cloud: Cloud, prioritise: None
) -> None:
    assert cloud.world is not None
    cloud.world.knobs["fail"] = "delivery"
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    [machine] = machines(cluster)
    await cluster.cluster.context.lifecycle.delete(machine, "by an operator")
    assert cluster.entry(uuid).task.phase is Phase.FINISHED
    await api.ends(uuid)
    assert cluster.entry(uuid).task.attempts == 1
    assert cluster.cluster.context.results.archive(uuid) is not None
    assert any("before its machine goes" in line for line in await cluster.timeline(uuid))
    await no_machines(cluster, cloud)


async def test_a_machine_that_goes_does_not_wait_for_results_that_cannot_be_had(
    cluster: Rig, cloud: Cloud, prioritise: None
) -> None:
    assert cloud.world is not None
    cloud.world.knobs["fail"] = "results"
    api = await start(cluster, cloud)
    uuid = await api.create(2)
    await _waits(cluster, uuid)
    cloud.world.knobs["fail"] = ""
    [machine] = machines(cluster)
    await cluster.cluster.context.lifecycle.delete(machine, "by an operator")
    await api.ends(uuid)
    assert cluster.entry(uuid).task.attempts == 2
