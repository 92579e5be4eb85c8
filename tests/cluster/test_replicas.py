# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several replicas on one database and one folder, each a whole cluster of its own in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clusterodm.admin.operations import machines
from clusterodm.cluster import replicas
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.tasks import dispatcher
from clusterodm.core.machines import State
from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Phase
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.files.spool import Spool
from clusterodm.server import schedule
from clusterodm.server.app import Cluster, running_cluster
from clusterodm.server.context import Context
from clusterodm.settings import load_settings
from tests.postgres import Server
from tests.providers.support import running_cloud
from tests.support import FAST, Api, eventually, images


def _online(context: Context, port: int) -> bool:
    return any(node.online and node.address.port == port for node in context.registry.nodes())


class Group:
    """Replicas and the nodes that they share."""

    def __init__(self, folder: Path, url: str, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.url = url
        self.stack = stack
        self.clusters: list[Cluster] = []
        self.apis: list[Api] = []
        self.stops: list[AsyncExitStack] = []
        self.running: list[int] = []

    async def add(self, **settings: Any) -> Cluster:
        """One more replica."""
        flags = FAST | {"data_dir": self.folder / "data", "database_url": self.url} | settings
        stop = await self.stack.enter_async_context(AsyncExitStack())
        cluster = await stop.enter_async_context(running_cluster(load_settings(flags, environ={})))
        api = Api(cluster.url)
        self.stack.push_async_callback(api.session.close)
        self.clusters.append(cluster)
        self.apis.append(api)
        self.stops.append(stop)
        self.running.append(len(self.stops) - 1)
        return cluster

    async def node(self, **knobs: Any) -> int:
        """One more node, told to the last replica; its port."""
        _, port = await self.stack.enter_async_context(running_devnode(Knobs(**({"seconds": 0.0} | knobs)), port=0))
        await self.clusters[-1].context.registry.add(make_address("127.0.0.1", port))
        await self.everywhere(lambda context: _online(context, port))
        return port

    async def end(self, number: int) -> None:
        """Stop a replica."""
        self.running.remove(number)
        await self.stops[number].aclose()

    async def everywhere(self, check: Callable[[Context], Any]) -> None:
        """Wait until something holds on every replica."""
        for number in self.running:
            await eventually(partial(check, self.clusters[number].context))

    def leaders(self) -> list[int]:
        """Which of them lead."""
        return [number for number in self.running if self.clusters[number].context.replicas.leads]


@pytest.fixture
async def group(postgres: Server, tmp_path: Path) -> AsyncIterator[Group]:
    async with AsyncExitStack() as stack:
        yield Group(tmp_path, postgres.new_database(), stack)


async def three(group: Group, **settings: Any) -> list[Api]:
    for _ in range(3):
        await group.add(**settings)
    return group.apis


async def test_any_replica_takes_any_request_of_one_task(group: Group) -> None:
    one, two, other = await three(group)
    await group.node(seconds=0.3)
    for _ in range(5):
        uuid = await one.init()
        assert await two.upload(uuid, a__jpg=b"a") == {"success": True}
        assert await other.upload(uuid, b__jpg=b"b") == {"success": True}
        assert await two.commit(uuid) == {"uuid": uuid}
        for api in (one, other, two):
            assert (await api.get(f"/task/{uuid}/info"))["imagesCount"] == 2
        await other.ends(uuid)
        for api in (one, two, other):
            status, _, body = await api.raw("GET", f"/task/{uuid}/download/all.zip")
            assert (status, body[:2]) == (200, b"PK")
        lines = [await api.get(f"/task/{uuid}/output", line=0) for api in (one, two, other)]
        assert lines[0]
        assert lines[0] == lines[1] == lines[2]


async def test_an_imported_task_is_handed_over_by_any_replica(group: Group) -> None:
    tokens = group.folder / "tokens.toml"
    tokens.write_text('[bob]\ntoken = "hush-bobby"\n')
    _, port = await group.stack.enter_async_context(running_devnode(Knobs(seconds=0.0), port=0))
    direct = Api(f"http://127.0.0.1:{port}")
    group.stack.push_async_callback(direct.session.close)
    uuid = await direct.create(1)
    node = {"hostname": "127.0.0.1", "port": port, "token": ""}
    data = group.folder / "data"
    data.mkdir()
    (data / "nodes.json").write_text(json.dumps([node]))
    (data / "routes.json").write_text(json.dumps({uuid: {"node": node, "token": "hush-alice", "accessed": 1}}))
    for _ in range(2):
        await group.add(cloud_provider="tokens", tokens_file=tokens)
    await group.everywhere(
        lambda context: (entry := context.tasks.get(uuid)) is None or entry.task.phase is Phase.FINISHED
    )
    tokens.write_text('[bob]\ntoken = "hush-bobby"\n[alice]\ntoken = "hush-alice"\n')
    for api in reversed(group.apis):
        api.query = {"token": "hush-alice"}
        await eventually(partial(_shows, api, uuid))


async def _shows(api: Api, uuid: str) -> bool:
    status, _, body = await api.raw("GET", f"/task/{uuid}/info")
    return status == 200 and b'"code":40' in body


async def test_one_leads_and_another_when_it_ends(group: Group) -> None:
    await three(group)
    assert group.leaders() == [0]
    await group.end(0)
    [leader] = await eventually(group.leaders)
    assert leader in (1, 2)
    api = group.apis[leader]
    await group.node()
    uuid = await group.apis[3 - leader].create()
    await api.ends(uuid)


async def test_who_takes_the_lead_looks_at_the_queue_at_once(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "_SWEEP", 600.0)
    await group.add()
    await group.node()
    uuid = await group.apis[0].init()
    await group.apis[0].upload(uuid, a__jpg=b"a")
    follower = await group.add()
    await eventually(lambda: follower.context.registry.nodes()[0].online)
    await group.end(0)
    await eventually(group.leaders)
    await group.apis[1].commit(uuid)
    await group.apis[1].ends(uuid)


async def test_the_files_of_a_task_are_sent_by_whichever_replica_has_room(group: Group) -> None:
    apis = await three(group, max_sending=1)
    await group.node(slots=8, slow=1.0)
    uuids = [await apis[0].create() for _ in range(6)]
    for uuid in uuids:
        await apis[1].ends(uuid)
    store = group.clusters[0].context.store
    senders = {attempt.sender for uuid in uuids for attempt in await store.attempts(uuid)}
    assert senders == {cluster.context.replicas.me.id for cluster in group.clusters}


async def test_followers_know_of_progress_within_two_seconds(group: Group) -> None:
    apis = await three(group)
    await group.node(seconds=30.0)
    uuid = await apis[2].create()

    def shown(number: int) -> float:
        entry = group.clusters[number].context.tasks.get(uuid)
        return entry.task.progress if entry else 0.0

    await eventually(lambda: shown(0) > 1)
    behind = shown(0)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: min(shown(1), shown(2)) >= behind)
    assert asyncio.get_running_loop().time() - began < 2.0


async def test_orders_to_a_follower_are_carried_out(group: Group) -> None:
    apis = await three(group)
    await group.node(seconds=30.0)
    uuid = await apis[1].create()
    leader = group.clusters[0].context.tasks

    def runs() -> bool:
        entry = leader.get(uuid)
        return entry is not None and entry.task.phase is Phase.RUNNING

    await eventually(runs)
    assert await apis[2].post("/task/cancel", {"uuid": uuid}) == {"success": True}
    assert await apis[1].post("/task/restart", {"uuid": uuid}) == {"success": True}
    await eventually(runs)
    assert await apis[2].post("/task/cancel", {"uuid": uuid}) == {"success": True}
    for api in apis:
        await api.ends(uuid, 50)
    assert await apis[1].post("/task/remove", {"uuid": uuid}) == {"success": True}
    for api in apis:
        await eventually(partial(_gone, api, uuid))
    # the leader has it removed on its node, and then forgets it
    store = group.clusters[1].context.store
    await eventually(lambda: _clean(store))


async def test_one_replica_at_a_time_commands_a_task_on_its_node(group: Group) -> None:
    await three(group)
    one, other, third = (cluster.context.tasks for cluster in group.clusters)
    order: list[str] = []

    held = asyncio.Event()

    async def hold() -> None:
        await held.wait()
        order.append("released")

    async def note(text: str) -> None:
        order.append(text)

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(one.locks.command("a task", hold))
        await eventually(lambda: _is_commanded(group))
        waiting = [tasks.create_task(other.locks.command("a task", lambda: note("waited"))) for _ in range(3)]
        await third.locks.command("another", lambda: note("another task"))
        first.cancel()  # what is on its way to a node is waited for
        await asyncio.wait([first, *waiting], timeout=0.5)
        held.set()
    assert order == ["another task", "released", *["waited"] * 3]
    assert first.cancelled()


async def _is_commanded(group: Group) -> bool:
    return not await group.clusters[2].context.store.take("command a task", "a test", 0.0)


async def _gone(api: Api, uuid: str) -> bool:
    return "error" in await api.get(f"/task/{uuid}/info")


async def _clean(store: Any) -> bool:
    return not await store.attempts_to_clean()


async def test_a_uuid_is_taken_once_however_many_replicas_are_asked_for_it(group: Group) -> None:
    apis = await three(group)
    await group.node(seconds=30.0)
    uuid = "aaaaaaaa-1111-4111-8111-aaaaaaaaaaaa"

    async def new(number: int) -> Any:
        form = images({f"{number}.jpg": b"x" * 200_000})
        return await apis[number % 3].post("/task/new", form, headers={"set-uuid": uuid})

    answers = await asyncio.gather(*(new(number) for number in range(6)))
    assert sorted("error" in answer for answer in answers) == [False] + [True] * 5
    entry = await eventually(lambda: group.clusters[0].context.tasks.get(uuid))
    await eventually(lambda: entry.task.phase is not Phase.RECEIVING)
    assert entry.task.image_count == 1


async def test_nothing_is_uploaded_after_a_commit_that_another_replica_took(group: Group) -> None:
    apis = await three(group)
    for _ in range(20):
        uuid = await apis[0].init()
        await apis[1].upload(uuid, first__jpg=b"1")
        late, committed = await asyncio.gather(apis[1].upload(uuid, late__jpg=b"2"), apis[2].commit(uuid))
        assert committed == {"uuid": uuid}
        count = (await apis[0].get(f"/task/{uuid}/info"))["imagesCount"]
        assert count == (2 if "success" in late else 1)
        assert len(await group.clusters[0].context.spool.listing(uuid)) == count


def _received(spool: Spool, uuid: str) -> bool:
    return not spool.receives(uuid)


async def test_an_upload_that_comes_in_at_one_replica_is_ended_through_another(group: Group) -> None:
    apis = await three(group)
    spool = group.clusters[0].context.spool
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for _ in range(5):
        uuid = await apis[2].init()
        await apis[1].upload(uuid, first__jpg=b"1" * 1000)
        go_on = asyncio.Event()

        async def body(go_on: asyncio.Event = go_on) -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n' + b"s" * 600_000
            await go_on.wait()
            yield b"s" * 600_000 + b"\r\n--x--\r\n"

        async with asyncio.TaskGroup() as tasksof_two:
            sent = tasksof_two.create_task(apis[0].post(f"/task/new/upload/{uuid}", body(), headers=headers))
            await eventually(lambda: spool.room.held > 1000)
            assert await apis[1].post("/task/cancel", {"uuid": uuid}) == {"success": True}
            await eventually(partial(_received, spool, uuid))
            go_on.set()
        assert sent.result() == {"error": "Invalid uuid (not found)"}
        await eventually(lambda: not list((group.folder / "data" / "spool").iterdir()))
    for cluster in group.clusters:
        await cluster.context.spool.measure()
        assert cluster.context.spool.room.held == 0


async def test_nodes_are_known_and_locked_everywhere(group: Group) -> None:
    await three(group)
    port = await group.node()
    follower = group.clusters[2].context.registry
    [node] = follower.nodes()
    await follower.change(node, locked=True)
    await group.everywhere(lambda context: context.registry.nodes()[0].record.locked)
    uuid = await group.apis[0].create()
    await eventually(lambda: "locked" in group.clusters[1].context.tasks.get(uuid).wait)  # type: ignore[union-attr]
    await follower.change(node, locked=False)
    await group.apis[1].ends(uuid)
    await follower.remove(node)
    await group.everywhere(lambda context: not context.registry.nodes())
    assert port


async def test_a_webhook_is_called_once_although_the_lead_changes(group: Group) -> None:
    calls: list[str] = []

    async def take(request: web.Request) -> web.Response:
        calls.append((await request.json())["uuid"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    group.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    apis = await three(group, webhook_allow_private=True)
    await group.node(slots=9, seconds=0.2)
    uuids = [await apis[number % 3].create(webhook=hook) for number in range(9)]
    await group.end(0)
    for uuid in uuids:
        await apis[1].ends(uuid)
    await eventually(lambda: len(calls) >= 9)
    assert sorted(calls) == sorted(uuids)


async def test_a_folder_that_replicas_share_is_refused_to_a_cluster_with_its_own_database(
    group: Group, tmp_path: Path
) -> None:
    await group.add()
    with pytest.raises(Exception, match="is used by another clusterodm"):
        async with running_cluster(load_settings(FAST | {"data_dir": tmp_path / "data"}, environ={})):
            pass


async def test_a_leader_that_cannot_reach_the_database_steps_down_and_is_elected_again(
    group: Group, postgres: Server
) -> None:
    apis = await three(group)
    await group.node(seconds=0.2)
    uuid = await apis[0].create()
    for api in apis:
        assert (await api.get(f"/task/{uuid}/info"))["uuid"] == uuid
    await asyncio.to_thread(postgres.control, "stop", "-m", "immediate")
    try:
        await eventually(lambda: not group.leaders())
        for api in apis:
            assert (await api.get(f"/task/{uuid}/info"))["uuid"] == uuid
    finally:
        await asyncio.to_thread(postgres.start)
    await eventually(lambda: len(group.leaders()) == 1)
    # nobody could give a sign of life, so nobody is taken for dead
    [leader] = group.leaders()
    replicas = [cluster.context.replicas for cluster in group.clusters]
    assert all(replicas[leader].alive(each.me.id) for each in replicas)
    await apis[2].ends(uuid)
    second = await apis[1].create()
    await apis[0].ends(second)


async def test_machines_are_seen_everywhere_and_looked_after_by_whoever_leads(
    group: Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(schedule, "_SCALE", 0.05)
    async with running_cloud("hetzner", seconds=1.0) as cloud:
        path = tmp_path / "asr.json"
        path.write_text(json.dumps({**cloud.entry, "idleTimeout": 0.5}))
        apis = await three(group, asr=path, machine_poll_interval=0.1)
        first = await apis[1].create()
        await group.everywhere(lambda context: len(context.machines.alive()) == 1)
        await group.end(0)
        await apis[1].ends(first)
        await eventually(lambda: not cloud.names())
        second = await apis[2].create()
        await group.everywhere(lambda context: any(each.state is State.READY for each in context.machines.alive()))
        [follower] = [number for number in group.running if number not in group.leaders()]
        context = group.clusters[follower].context
        [machine] = [each for each in context.machines.alive() if each.state is State.READY]
        await machines.delete(context, machine)
        await group.everywhere(lambda context: machine.id not in [each.id for each in context.machines.alive()])
        await apis[1].ends(second)
        await eventually(lambda: not cloud.names())
        assert cloud.world is not None
        assert len(cloud.world.created) == len({each.name for each in cloud.world.created})


async def test_a_replica_that_heard_nothing_reads_everything_again(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_RELOAD", 0.2)
    monkeypatch.setattr(Replicas, "_heard", lambda self, kind, key: None)
    await group.add()
    follower = await group.add()
    uuid = await group.apis[0].create()
    await eventually(lambda: uuid in follower.context.tasks)


async def test_all_replicas_know_what_owners_used_of_the_nodes(group: Group) -> None:
    one, two, _ = await three(group)
    await group.node(seconds=0.1)
    uuid = await two.create()
    await one.ends(uuid)
    await group.everywhere(lambda context: any(seconds > 0.1 for seconds in context.fair.usage().ended.values()))
    await group.everywhere(lambda context: not context.fair.usage().began)
    (account,) = await group.clusters[0].context.store.accounts()
    other_context = group.clusters[1].context
    await other_context.fair.load()
    assert set(other_context.fair.usage().ended) == {account.owner}


async def test_submodels_end_whichever_replica_took_them_and_whichever_ended_their_job(group: Group) -> None:
    one, two, other = await three(group)
    await group.node(seconds=600.0)
    job = await one.create(1, options='[{"name": "split", "value": 1}]')
    await group.everywhere(lambda context: _phase(context, job) is Phase.RUNNING)
    token = group.clusters[0].context.jobs.token(job, 1)
    engines = [Api(cluster.url, token) for cluster in group.clusters]
    for engine in engines:
        group.stack.push_async_callback(engine.session.close)
    submodels = [await engine.create(1) for engine in engines]
    await two.post("/task/cancel", {"uuid": job})

    async def canceled() -> bool:
        infos = [await engines[2].get(f"/task/{uuid}/info") for uuid in submodels]
        return [info["status"]["code"] for info in infos] == [50, 50, 50]

    await eventually(canceled)
    assert (await engines[1].raw("POST", "/task/new/init"))[0] == 401
    await group.end(0)
    await eventually(group.leaders)
    await other.post("/task/remove", {"uuid": job})

    async def is_gone() -> bool:
        return "error" in await engines[2].get(f"/task/{submodels[0]}/info")

    await eventually(is_gone)


def _phase(context: Context, uuid: str) -> Phase | None:
    entry = context.tasks.get(uuid)
    return entry.task.phase if entry else None
