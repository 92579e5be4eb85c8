# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The owner's webhook, key by key as a real node has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from clusterodm.cluster.controller import Controller
from clusterodm.cluster.tasks import notifier
from clusterodm.core.backoff import Backoff
from clusterodm.core.nodes import make_address
from clusterodm.devnode.photos import make_photos
from tests.admin.support import start
from tests.processes import free_port
from tests.support import Rig, eventually, images, zipped

#: What NodeODM 2.2.4 and NodeODX 2.3.1 posted at the end of a task with three photos in test mode.
REAL = json.loads("""{"uuid":"3b63bc75-de75-4f6c-9bea-f642806d07fc","name":"n","dateCreated":1795747342125,
"processingTime":1308,"status":{"code":40},"options":[{"name":"dsm","value":true},{"name":"pc-ept","value":true},
{"name":"cog","value":true},{"name":"gltf","value":true}],"imagesCount":3,"progress":100,"images":[{"altitude":198.609,
"camera_make":"DJI","camera_model":"FC300S","ccd_width":6.16,"filename":"DJI_0028.JPG","focal_length":3.61,
"focal_length_px":2344.155844155844,"height":2250,"latitude":46.842521250000004,"longitude":-91.99420961111112,
"make_model":"dji fc300s","path_file":"/datasets/brighton/images/DJI_0028.JPG","width":4000}]}""")


class Hook:
    """A server of an owner: what it was called with, and what happens before it takes the call."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[dict[str, str], Any]] = []
        self.first: Callable[[str], None] | None = None
        #: Set: calls are answered at once.
        self.open, self.reached = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.first is not None:
            first, self.first = self.first, None
            first(body["uuid"])
            return web.Response(status=500)
        self.calls.append((dict(request.headers), body))
        self.reached.set()
        await self.open.wait()
        return web.Response()


@pytest.fixture
async def hook(cluster: Rig) -> Hook:
    receiver = Hook()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    return receiver


def kinds(value: Any) -> Any:
    """The keys of a JSON value in their order, and the kinds of what they hold."""
    if isinstance(value, dict):
        return [(key, kinds(each)) for key, each in value.items()]
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def create(cluster: Rig, hook: Hook) -> str:
    await cluster.add_node()
    api = await cluster.start(webhook_allow_private=True, results="keep")
    uuid = await api.init(name="n", options='[{"name":"dsm","value":true}]', webhook=hook.url)
    for number in range(3):
        await api.post(f"/task/new/upload/{uuid}", images({f"{number}.jpg": b"photo %d" % number}))
    await api.commit(uuid)
    return uuid


async def test_the_webhook_has_every_key_of_a_real_node_with_what_is_known_of_the_photos(
    cluster: Rig, hook: Hook
) -> None:
    def leave_results(uuid: str) -> None:
        written = json.dumps(REAL["images"]).encode()
        path = cluster.folder / "data" / "results" / uuid / "all.zip"
        path.write_bytes(zipped({"odm_report/report.pdf": b"%PDF", "images.json": written}))

    hook.first = leave_results
    uuid = await create(cluster, hook)
    await eventually(lambda: hook.calls)
    [(headers, body)] = hook.calls
    assert kinds(body) == kinds(REAL)
    assert body["images"] == REAL["images"]
    assert {name: body[name] for name in ("uuid", "name", "status", "imagesCount", "progress")} == {
        "uuid": uuid,
        "name": "n",
        "status": {"code": 40},
        "imagesCount": 3,
        "progress": 100,
    }
    assert (headers["Content-Type"], headers["Accept"]) == ("application/json", "application/json")
    assert headers["User-Agent"] == "ClusterODM"


@pytest.mark.parametrize(
    "written", [None, b"[", b"{}", b"null", b"[" + b" " * (9 << 20) + b"]"], ids=["none", "cut", "map", "null", "giant"]
)
async def test_images_are_an_empty_list_where_nothing_is_known(cluster: Rig, hook: Hook, written: bytes | None) -> None:
    def leave_results(uuid: str) -> None:
        files = {"odm_report/report.pdf": b"%PDF"} | ({} if written is None else {"images.json": written})
        (cluster.folder / "data" / "results" / uuid / "all.zip").write_bytes(zipped(files))

    hook.first = leave_results
    await create(cluster, hook)
    await eventually(lambda: hook.calls)
    assert hook.calls[0][1]["images"] == []


async def test_where_results_stay_on_a_node_the_webhook_has_what_the_node_said_of_the_photos(
    cluster: Rig, hook: Hook
) -> None:
    port = free_port()
    await cluster.add_node()
    address = f"http://127.0.0.1:{port}"
    api = await cluster.start(port=port, public_address=address, webhook_allow_private=True)
    uuid = await api.init(webhook=hook.url)
    photos = {path.name: path.read_bytes() for path in make_photos(cluster.folder / "photos", 2)}
    await api.post(f"/task/new/upload/{uuid}", images(photos))
    await api.commit(uuid)
    await eventually(lambda: hook.calls)
    assert cluster.cluster.context.results.archive(uuid) is None
    [(_, body)] = hook.calls
    assert sorted(image["filename"] for image in body["images"]) == sorted(photos)
    assert (body["status"], body["imagesCount"]) == ({"code": 40}, 2)


async def test_only_a_node_that_has_a_task_says_something_of_its_photos(cluster: Rig, hook: Hook) -> None:
    api = await cluster.start(webhook_allow_private=True)
    waiting = await api.create(1, webhook=hook.url)
    context = cluster.cluster.context
    key = context.jobs.callback_key(waiting)
    info = {"images": [{"filename": "made up"}]}
    status, _, _ = await api.raw("POST", f"/commit?task={waiting}&key=wrong", json=info)
    assert status == 401
    assert (await api.raw("POST", f"/commit?task={waiting}&key={key}", json=info))[0] == 200
    await api.post("/task/cancel", {"uuid": waiting})
    await eventually(lambda: hook.calls)
    assert hook.calls[0][1]["images"] == []


async def test_a_canceled_task_is_reported_with_an_empty_list_of_images(cluster: Rig, hook: Hook) -> None:
    api = await cluster.start(webhook_allow_private=True)
    uuid = await api.create(1, webhook=hook.url)
    await api.post("/task/cancel", {"uuid": uuid})
    await eventually(lambda: hook.calls)
    assert hook.calls[0][1]["images"] == []
    assert hook.calls[0][1]["status"] == {"code": 50}


async def test_an_end_during_the_call_for_an_earlier_one_is_reported_as_well(cluster: Rig, hook: Hook) -> None:
    node = await cluster.add_node(seconds=60)
    api = await cluster.start(webhook_allow_private=True)
    uuid = await api.create(1, webhook=hook.url)
    await eventually(lambda: uuid in node.tasks and node.tasks[uuid].runs == 1)
    hook.open.clear()
    await api.post("/task/cancel", {"uuid": uuid})
    await hook.reached.wait()
    node.knobs.seconds = 0
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": True}
    await api.ends(uuid)
    hook.open.set()
    await eventually(lambda: len(hook.calls) == 2)
    assert [body["status"]["code"] for _, body in hook.calls] == [50, 40]


async def test_each_end_has_tries_of_its_own(cluster: Rig, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "_TRIES", 3)
    node = await cluster.add_node(seconds=60)
    api = await cluster.start(webhook_allow_private=True)
    [queue] = [loop for loop in cluster.cluster.loops if isinstance(loop, Controller) and loop.name == "notifier"]
    queue._backoff = Backoff(first=1.0, longest=1.0)  # the second end comes before the next try
    uuid = await api.create(1, webhook=hook.url)
    await eventually(lambda: uuid in node.tasks and node.tasks[uuid].runs == 1)
    refused: list[str] = []

    def refuse(task: str) -> None:
        refused.append(task)
        hook.first = refuse if len(refused) < 3 else None

    hook.first, node.knobs.seconds = refuse, 0
    await api.post("/task/cancel", {"uuid": uuid})
    await eventually(lambda: refused)
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": True}
    await eventually(lambda: hook.calls)
    assert len(refused) == 3
    assert hook.calls[0][1]["status"] == {"code": 40}


async def test_nobody_outside_learns_the_versions_of_what_the_cluster_is_made_of(cluster: Rig, hook: Hook) -> None:
    agents: set[tuple[str, str | None]] = set()

    async def node(request: web.Request) -> web.Response:
        agents.add((request.path.split("/")[-2 if "upload" in request.path else -1], request.headers.get("User-Agent")))
        if request.path == "/info":
            return web.json_response({"version": "2.2.4", "engine": "odm", "engineVersion": "3.5.5"})
        if request.path == "/options":
            return web.json_response([])
        await request.read()
        return web.json_response({"success": True, "uuid": request.headers.get("set-uuid", "")})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", node)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, operator = await start(cluster)
    await cluster.cluster.context.registry.add(make_address("127.0.0.1", runner.addresses[0][1]))
    await cluster.api.create(1)
    await eventually(lambda: {"upload", "init", "info", "options"} <= {call for call, _ in agents})
    assert {agent for _, agent in agents} == {"ClusterODM"}
    for url in (f"{cluster.api.url}/nothing", f"{cluster.api.url}/task/list", f"{operator.url}/api/v1/status"):
        async with operator.session.get(url) as answer:
            assert answer.headers["Server"] == "ClusterODM"
