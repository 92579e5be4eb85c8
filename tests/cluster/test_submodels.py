# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The submodels of split-merge jobs: whose they are, and their end with the attempt of their job."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from clusterodm.admin.operations import figures
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.submodels import PATIENCE
from clusterodm.core.nodes import make_address
from clusterodm.core.splitmerge import GRACE
from clusterodm.core.tasks import Outcome, Phase
from clusterodm.devnode import DevNode
from clusterodm.server.app import running_cluster
from clusterodm.settings import load_settings
from clusterodm.store import Store
from tests.support import FAST, Api, Rig, TurnedClock, eventually, zipped

SPLIT = json.dumps([{"name": "split", "value": 100}])


class Job:
    """A split-merge job on a node of its own, and its engine, which knows what that node was told."""

    def __init__(self, rig: Rig, uuid: str, home: DevNode, api: Api) -> None:
        self.rig = rig
        self.uuid = uuid
        self.home = home
        #: Calls with the token of the attempt that began the job.
        self.api = api

    @classmethod
    async def begin(cls, rig: Rig, **settings: Any) -> Job:
        """A cluster with one node, on which the job runs."""
        home = await rig.add_node(seconds=600)
        await rig.start(**settings)
        await rig.ready()
        uuid = await rig.api.create(1, options=SPLIT)
        await eventually(lambda: rig.entry(uuid).task.phase is Phase.RUNNING)
        return cls(rig, uuid, home, await engine(rig, home, uuid))

    async def submodel(self, api: Api | None = None) -> str:
        """Send a submodel; its uuid."""
        return await (api or self.api).create(1, outputs='["x"]', skipPostProcessing="true")

    async def running(self) -> str:
        """A submodel that runs; its uuid."""
        uuid = await self.submodel()
        await eventually(lambda: self.rig.entry(uuid).task.phase is Phase.RUNNING)
        return uuid


async def engine(rig: Rig, node: DevNode, node_uuid: str) -> Api:
    """A client with the address and token that a node was given."""
    [address] = [option["value"] for option in node.tasks[node_uuid].options if option["name"] == "sm-cluster"]
    base, _, token = str(address).partition("/?token=")
    assert token.startswith("job.")
    api = Api(base, token)
    rig.stack.push_async_callback(api.session.close)
    return api


async def may_send(api: Api) -> bool:
    """Whether a token is good for a new submodel."""
    status, _, content = await api.raw("POST", "/task/new/init", data={"name": "x"})
    assert status in (200, 401), content
    return status == 200


async def code(api: Api, uuid: str) -> int:
    """The status code of a submodel; 0 when it is not found."""
    info = await api.get(f"/task/{uuid}/info")
    return int(info["status"]["code"]) if "status" in info else 0


async def phase(rig: Rig, uuid: str) -> Phase | None:
    """Where a task is by the store; None when it is forgotten."""
    pair = await rig.cluster.context.store.find_task(uuid)
    return pair[0].phase if pair else None


@pytest.mark.parametrize("token", ["", "hush-client"])
async def test_submodels_belong_to_their_job_also_where_no_token_is_needed(cluster: Rig, token: str) -> None:
    job = await Job.begin(cluster, token=token)
    uuid = await job.submodel()
    task = cluster.entry(uuid).task
    assert (task.owner, task.job, task.job_attempt) == (f"local#{job.uuid}", job.uuid, 1)
    assert await job.api.get("/task/list") == [{"uuid": uuid}]
    assert await cluster.api.get("/task/list") == [{"uuid": job.uuid}]
    assert "token" not in json.dumps((await cluster.api.get(f"/task/{job.uuid}/info"))["options"])


async def test_where_no_token_is_needed_other_tokens_are_still_ignored(cluster: Rig) -> None:
    job = await Job.begin(cluster)
    for leaked in ("job.", "job.x.1.2", "another node's", job.api.query["token"] + "x"):
        api = Api(cluster.cluster.url, leaked)
        cluster.stack.push_async_callback(api.session.close)
        assert cluster.entry(await api.create(1)).task.owner == "local"


@pytest.mark.parametrize("token", ["", "hush-client"])
async def test_submodels_are_canceled_with_their_job_and_removed_from_their_nodes(cluster: Rig, token: str) -> None:
    job = await Job.begin(cluster, token=token)
    node = await cluster.add_node(seconds=600)
    await cluster.ready()
    runs, waits, uploads = await job.running(), await job.submodel(), await job.api.init()
    ordinary = await cluster.api.create(1)
    await cluster.api.post("/task/cancel", {"uuid": job.uuid})
    await eventually(lambda: {cluster.entry(uuid).task.outcome for uuid in (runs, waits)} == {Outcome.CANCELED})
    await eventually(lambda: runs not in node.tasks)
    await eventually(lambda: cluster.cluster.context.tasks.get(uploads) is None)
    assert not await may_send(job.api)

    async def ending_is_noted() -> bool:
        return "ended 3 of its submodels: the attempt that sent them is over" in await cluster.timeline(job.uuid)

    await eventually(ending_is_noted)
    assert cluster.entry(ordinary).task.outcome is None
    # ODM looks at them, and removes them, on its way out
    assert await code(job.api, runs) == await code(job.api, waits) == 50
    assert await job.api.get(f"/task/{runs}/output") is not None
    assert await job.api.post("/task/cancel", {"uuid": runs}) == {"success": True}
    assert await job.api.post("/task/remove", {"uuid": runs}) == {"success": True}
    assert await code(job.api, runs) == 0


async def test_the_late_token_is_good_for_nothing_else(cluster: Rig) -> None:
    job = await Job.begin(cluster)
    uuid = await job.submodel()
    await cluster.api.post("/task/cancel", {"uuid": job.uuid})
    await eventually(lambda: cluster.entry(uuid).task.outcome)
    for method, path in [
        ("GET", "/info"),
        ("GET", "/options"),
        ("GET", "/task/list"),
        ("GET", f"/task/{uuid}/download/all.zip"),
        ("POST", f"/task/new/upload/{uuid}"),
        ("POST", f"/task/new/commit/{uuid}"),
        ("POST", "/task/new"),
        ("POST", "/task/restart"),
    ]:
        assert (await job.api.raw(method, path))[0] == 401, path
    assert await code(job.api, job.uuid) == 0


async def test_submodels_go_with_a_removed_job_also_finished_ones_with_their_results(cluster: Rig) -> None:
    job = await Job.begin(cluster, results="keep")
    await cluster.add_node(seconds=0)
    await cluster.ready()
    done = await job.submodel()
    await job.api.ends(done)
    await cluster.add_node(seconds=600)
    await eventually(lambda: all(node.online for node in cluster.cluster.context.registry.nodes()))
    assert cluster.cluster.context.results.archive(done) is not None
    cluster.nodes[1].knobs.seconds = 600
    runs = await job.running()
    await cluster.api.post("/task/remove", {"uuid": job.uuid})
    await eventually(lambda: not any({done, runs} & set(node.tasks) for node in cluster.nodes))

    async def is_gone() -> bool:
        return all([await phase(cluster, uuid) in (Phase.REMOVED, None) for uuid in (done, runs)])

    await eventually(is_gone)
    for uuid in (done, runs):
        assert await cluster.cluster.context.spool.listing(uuid) == []
    assert cluster.cluster.context.results.archive(done) is None


async def test_submodels_end_with_the_final_failure_of_their_job(cluster: Rig) -> None:
    job = await Job.begin(cluster)
    uuid = await job.submodel()
    job.home.tasks[job.uuid].code, job.home.tasks[job.uuid].error = 30, "Cannot process dataset"
    await cluster.api.ends(job.uuid, 30)
    await eventually(lambda: cluster.entry(uuid).task.outcome is Outcome.CANCELED)


async def test_a_job_that_begins_again_elsewhere_leaves_its_submodels_behind(cluster: Rig) -> None:
    job = await Job.begin(cluster, node_lost_after=0.2)
    other = await cluster.add_node(seconds=600, slots=2)
    await cluster.ready()
    old = await job.running()
    await cluster.stop_node(0)
    await eventually(lambda: cluster.entry(old).task.outcome is Outcome.CANCELED)
    await eventually(lambda: old not in other.tasks)
    entry = cluster.entry(job.uuid)
    await eventually(lambda: entry.task.phase is Phase.RUNNING and entry.task.attempts == 2)
    assert entry.attempt is not None
    second_engine = await engine(cluster, other, entry.attempt.node_uuid)
    assert not await may_send(job.api)
    assert await code(job.api, old) == 50
    new = await job.submodel(second_engine)
    await eventually(lambda: cluster.entry(new).task.phase is Phase.RUNNING)
    assert cluster.entry(new).task.job_attempt == 2
    await cluster.cluster.context.submodels.sweep()
    await cluster.cluster.context.submodels._end(job.uuid)
    assert cluster.entry(new).task.phase is Phase.RUNNING


async def test_an_engine_that_outlived_its_attempt_sends_nothing_more(cluster: Rig) -> None:
    """It was let in while its attempt lived, and came to an end of its upload after."""
    job = await Job.begin(cluster)
    uuid = await job.api.init(outputs='["x"]')
    await job.api.upload(uuid, a__jpg=b"a")
    late = cluster.cluster.context
    grant = await late.submodels.grant(late.jobs.job(job.api.query["token"]), late=False)  # type: ignore[arg-type]
    assert grant is not None
    with suppress(Exception):
        await late.intake.commit(uuid, grant)
    await cluster.api.post("/task/cancel", {"uuid": job.uuid})
    await eventually(lambda: cluster.entry(uuid).task.outcome is Outcome.CANCELED)


async def test_a_restart_begins_without_the_submodels_of_before(cluster: Rig) -> None:
    job = await Job.begin(cluster)
    await cluster.add_node(seconds=0)
    await cluster.ready()
    done = await job.submodel()
    await job.api.ends(done)
    await cluster.api.post("/task/cancel", {"uuid": job.uuid})
    await eventually(lambda: job.home.tasks[job.uuid].code == 50)
    options = json.dumps([{"name": "split", "value": 50}, {"name": "sm-cluster", "value": "http://theirs"}])
    assert await cluster.api.post("/task/restart", {"uuid": job.uuid, "options": options}) == {"success": True}
    assert await phase(cluster, done) in (Phase.REMOVED, None)
    assert {option["name"]: option["value"] for option in cluster.entry(job.uuid).task.options} == {
        "split": 50,
        "sm-cluster": cluster.api.url,
    }
    api = await engine(cluster, job.home, job.uuid)
    assert await may_send(api)


async def test_a_task_that_is_split_only_when_it_begins_again_gets_the_address_then(cluster: Rig) -> None:
    home = await cluster.add_node(seconds=0)
    api = await cluster.start()
    uuid = await api.create(1)
    await api.ends(uuid)
    home.knobs.seconds = 600
    await api.post("/task/restart", {"uuid": uuid, "options": SPLIT})
    assert await may_send(await engine(cluster, home, uuid))


async def test_what_was_not_ended_before_a_crash_is_ended_after_it(cluster: Rig) -> None:
    job = await Job.begin(cluster)
    waits, uploads = await job.submodel(), await job.api.init()
    await cluster.stop()
    store = await Store.open(f"sqlite+aiosqlite:///{cluster.folder / 'data' / 'clusterodm.db'}")
    pair = await store.find_task(job.uuid)
    assert pair is not None
    now = time.time()
    await store.advance(pair[0], Phase.FINISHED, at=now, text="canceled", outcome=Outcome.CANCELED, finished_at=now)
    await store.close()
    await cluster.start()

    async def over() -> bool:
        return await phase(cluster, waits) is Phase.FINISHED and await phase(cluster, uploads) in (Phase.REMOVED, None)

    await eventually(over)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exit_stack:
        yield exit_stack


async def test_ten_minutes_after_their_job_left_submodels_are_removed_and_the_token_is_worthless(
    cluster: Rig, tmp_path: Path, stack: AsyncExitStack
) -> None:
    home = await cluster.add_node(seconds=600)
    clock = TurnedClock()
    settings = load_settings(FAST | {"data_dir": tmp_path / "aged"}, environ={})
    running = await stack.enter_async_context(running_cluster(settings, clock=clock))
    cluster._cluster, cluster._api = running, Api(running.url)
    stack.push_async_callback(cluster.api.session.close)
    await running.context.registry.add(make_address("127.0.0.1", cluster.ports[0]))
    uuid = await cluster.api.create(1, options=SPLIT)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    api = await engine(cluster, home, uuid)
    await cluster.add_node(seconds=0)
    done = await api.create(1, outputs='["x"]')
    await api.ends(done)
    cluster.nodes[1].knobs.seconds = 600
    runs = await api.create(1, outputs='["x"]')
    home.archive(uuid).parent.mkdir(parents=True, exist_ok=True)
    home.archive(uuid).write_bytes(zipped({"a": b"a"}))
    home.tasks[uuid].code = 40
    await cluster.api.ends(uuid)
    submodels = running.context.submodels
    await submodels._end(uuid)
    assert await code(api, done) == 40  # a job that completed leaves them as they are
    assert await code(api, runs) == 20
    assert not await may_send(api)
    clock.ahead += GRACE - 5
    await submodels._end(uuid)
    assert await code(api, done) == 40
    clock.ahead += 10
    assert (await api.raw("GET", f"/task/{done}/info"))[0] == 401
    await submodels._end(uuid)
    assert await phase(cluster, done) in (Phase.REMOVED, None)
    assert await phase(cluster, runs) in (Phase.REMOVED, None)


async def test_an_address_that_no_node_elsewhere_can_reach_is_told_to_owner_and_operator(
    cluster: Rig, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    await cluster.add_node(seconds=600)
    api = await cluster.start(log_file=str(log))
    await cluster.ready()
    near = await api.create(1, options=SPLIT)
    assert not [line for line in await cluster.timeline(near) if "cannot send" in line]
    problems = (await figures.status(cluster.cluster.context)).problems
    assert problems == []
    await cluster.cluster.context.registry.add(make_address("192.0.2.1", 3000))
    far = await api.create(1, options=SPLIT)
    await api.create(1, options=SPLIT)
    expected = (
        f"split-merge jobs cannot send their submodels to {api.url}: nodes on other hosts cannot reach it "
        "(see --public-address)"
    )
    assert expected in await cluster.timeline(far)
    assert (await figures.status(cluster.cluster.context)).problems.count(expected) == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    warnings = [line for line in lines if line["event"] == expected and line["task"] == far]
    assert [line["level"] for line in warnings] == ["warning"]


async def test_a_public_address_that_the_engine_cannot_use_is_a_problem_before_the_first_job(cluster: Rig) -> None:
    await cluster.start(public_address="https://maps.example:3443")
    [problem] = [each for each in (await figures.status(cluster.cluster.context)).problems if "split-merge" in each]
    assert "the engine speaks HTTPS on port 443 only, not on 3443" in problem


async def test_ordinary_tasks_say_nothing_about_addresses(cluster: Rig) -> None:
    api = await cluster.start()
    await cluster.cluster.context.registry.add(make_address("192.0.2.1", 3000))
    assert not [line for line in await cluster.timeline(await api.create(1)) if "cannot send" in line]


async def test_submodels_for_which_no_slot_can_come_free_go_back_to_their_job(
    cluster: Rig, tmp_path: Path, stack: AsyncExitStack
) -> None:
    home = await cluster.add_node(seconds=600)
    clock = TurnedClock()
    settings = load_settings(FAST | {"data_dir": tmp_path / "aged"}, environ={})
    running = await stack.enter_async_context(running_cluster(settings, clock=clock))
    cluster._cluster, cluster._api = running, Api(running.url)
    stack.push_async_callback(cluster.api.session.close)
    await running.context.registry.add(make_address("127.0.0.1", cluster.ports[0]))
    uuid = await cluster.api.create(1, options=SPLIT)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    api = await engine(cluster, home, uuid)
    first, second = await api.create(1, outputs='["x"]'), await api.create(1, outputs='["x"]')
    submodels = running.context.submodels
    await submodels.give_back()
    assert (await code(api, first), await code(api, second)) == (20, 20)
    assert not submodels.stuck
    clock.ahead += PATIENCE
    third = await api.create(1, outputs='["x"]')
    await submodels.give_back()
    assert [await code(api, each) for each in (first, second, third)] == [10, 10, 20]
    assert (await cluster.timeline(first))[-1].startswith("shown as queued")
    assert any("hold all slots" in problem for problem in (await figures.status(running.context)).problems)
    await cluster.add_node(seconds=600)
    await eventually(lambda: any(entry.task.phase is Phase.RUNNING and entry.task.job for entry in _active(cluster)))
    clock.ahead += PATIENCE
    await submodels.give_back()
    assert await code(api, third) == 20  # it gets the slot of the one that runs
    assert not submodels.stuck


def _active(rig: Rig) -> list[Entry]:
    return list(rig.cluster.context.tasks.active())
