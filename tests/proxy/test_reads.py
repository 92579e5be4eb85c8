# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients read: always 200 with the last that is known, in the types that they expect."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.processes import free_port
from tests.support import Api, Rig, eventually, images

UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def test_info_and_options_answer_before_any_node_was_ever_seen(cluster: Rig) -> None:
    api = await cluster.start()
    info = await api.get("/info")
    assert info["version"] == "2.2.4"
    assert all(type(info[key]) is int for key in ("taskQueueCount", "maxParallelTasks", "totalMemory", "cpuCores"))
    options = await api.get("/options")
    assert len(options) == 80
    assert all(set(option) == {"name", "type", "value", "domain", "help"} for option in options)


async def test_the_description_of_a_node_survives_the_node_and_a_restart(cluster: Rig) -> None:
    await cluster.add_node(engine="odx", max_images=77)
    await cluster.start()
    await cluster.ready()
    await eventually(lambda: json.loads(cluster.cluster.context.registry.info_json(0))["engine"] == "odx")
    await eventually(lambda: cluster.cluster.context.store.value("description"))
    await cluster.stop_node(0)
    await cluster.stack.aclose()
    cluster.ports.clear()
    api = await cluster.start()
    info = await api.get("/info")
    assert (info["engine"], info["maxImages"]) == ("odx", 77)


async def test_unknown_tasks_are_told_like_on_a_node(cluster: Rig) -> None:
    api = await cluster.start()
    answer = {"error": f"{UNKNOWN} not found"}
    assert await api.get(f"/task/{UNKNOWN}/info") == answer
    assert await api.get(f"/task/{UNKNOWN}/output") == answer
    assert await api.get(f"/task/{UNKNOWN}/download/all.zip") == answer
    for verb in ("cancel", "remove", "restart"):
        assert await api.post(f"/task/{verb}", {"uuid": UNKNOWN}) == {"success": False, **answer}
        assert await api.post(f"/task/{verb}", {}) == {"error": "uuid param missing."}


async def test_a_task_is_not_known_before_its_commit(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    assert await api.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}
    assert await api.get("/task/list") == []


async def test_pollers_see_the_last_snapshot_while_the_node_is_gone(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.create()
    await eventually(cluster.nodes[0].busy)
    await eventually(lambda: cluster.entry(uuid).task.node_code == 20)
    await cluster.stop_node(0)
    await eventually(lambda: cluster.entry(uuid).unreachable_since)
    info = await api.get(f"/task/{uuid}/info")
    assert info["status"] == {"code": 20}
    assert "error" not in info


@pytest.mark.parametrize(("line", "expected"), [("0", 4), ("2", 2), ("-1", 1), ("99", 0), ("x", 4), ("-99", 4)])
async def test_console_lines_are_counted_from_the_front_or_the_back(cluster: Rig, line: str, expected: int) -> None:
    api = await cluster.start()
    uuid = await api.create()
    lines = ["first", 'quo"te', "new\nline", "ümläut"]
    await cluster.cluster.context.consoles.append(uuid, lines)
    expected_lines = lines[len(lines) - expected :]
    assert await api.get(f"/task/{uuid}/output", line=line) == expected_lines
    assert (await api.get(f"/task/{uuid}/info", with_output=line))["output"] == expected_lines
    assert "output" not in await api.get(f"/task/{uuid}/info")


async def test_the_list_has_pages(cluster: Rig) -> None:
    api = await cluster.start()
    uuids = [await api.create(1) for _ in range(5)]
    assert [entry["uuid"] for entry in await api.get("/task/list")] == uuids[::-1]
    assert [entry["uuid"] for entry in await api.get("/task/list", limit=2, offset=1)] == [uuids[3], uuids[2]]


async def test_a_token_is_wanted_when_there_is_one(cluster: Rig) -> None:
    api = await cluster.start(token="hush-client")
    assert (await api.get("/info"))["version"] == "2.2.4"
    api.query = {}
    assert (await api.raw("GET", "/info"))[::2] == (401, b"")
    assert (await api.raw("POST", "/task/new/init"))[::2] == (401, b"")
    assert (await api.raw("GET", "/info", headers={"Authorization": "Bearer hush-client"}))[0] == 200
    assert (await api.raw("GET", "/info", headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await api.raw("GET", "/auth/info"))[0] == 200
    assert (await api.raw("OPTIONS", "/info"))[0] == 204


async def test_any_token_is_ignored_when_there_is_none(cluster: Rig) -> None:
    api = await cluster.start()
    assert "version" in await api.get("/info", token="leaked")


async def test_preflight_and_origin(cluster: Rig) -> None:
    api = await cluster.start()
    headers = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    status, response_headers, body = await api.raw("OPTIONS", "/task/new/init", headers=headers)
    assert (status, body, response_headers["Access-Control-Allow-Origin"]) == (204, b"", "http://a.example")
    _, response_headers, _ = await api.raw("GET", "/info", headers=headers)
    assert response_headers["Access-Control-Allow-Origin"] == "http://a.example"
    assert "Access-Control-Allow-Credentials" not in response_headers
    assert "Access-Control-Allow-Origin" not in (await api.raw("GET", "/info"))[1]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing/here"), ("DELETE", "/info"), ("POST", "/"), ("GET", "/a/../b")]
)
async def test_unknown_paths_and_methods_are_named_in_json(cluster: Rig, method: str, path: str) -> None:
    api = await cluster.start()
    status, headers, body = await api.raw(method, path)
    assert (status, headers["Content-Type"]) == (404, "application/json; charset=utf-8")
    assert json.loads(body)["error"].startswith(f"Not found: {method} /")


async def test_the_small_endpoints(cluster: Rig) -> None:
    api = await cluster.start()
    assert await api.get("/auth/info") == {
        "message": "Authentication not available on this node",
        "loginUrl": None,
        "registerUrl": None,
    }
    assert await api.post("/auth/login", json={"username": "a", "password": "b"}) == {"error": "Not available"}
    assert await api.post("/auth/register") == {"error": "Not available"}
    assert await api.get("/cache/clear") == {"ok": True}
    callback = "/commit?" + urlencode({"task": UNKNOWN, "key": cluster.cluster.context.jobs.callback_key(UNKNOWN)})
    assert await _post(api, callback, b'{"uuid": "x"}') == {"ok": True}
    assert "error" in await _post(api, callback, b"{not json")
    for wrong in ("/commit", f"/commit?task={UNKNOWN}&key=%C3%A9", callback[:-1], callback.replace("4000", "4001")):
        assert (await api.raw("POST", wrong, data=b"{}"))[::2] == (401, b"")


async def test_a_nodes_webhook_makes_us_look_but_is_not_believed(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.3)
    api = await cluster.start(task_poll_interval=30.0)
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.nodes[0].tasks and cluster.nodes[0].tasks[uuid].code == 40)
    assert await api.code(uuid) == 20

    key = cluster.cluster.context.jobs.callback_key(uuid)

    async def completed() -> bool:
        await _post(api, f"/commit?task={uuid}&key={key}", b'{"status": {"code": 30}}')
        return await api.code(uuid) == 40

    await eventually(completed)


async def _post(api: Api, path: str, body: bytes) -> Any:
    async with api.session.post(api.url + path, data=body, headers={"Content-Type": "application/json"}) as answer:
        return await answer.json()


async def test_nodes_get_a_webhook_with_a_key_and_call_it(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=0.3)
    port = free_port()
    api = await cluster.start(port=port, public_address=f"http://127.0.0.1:{port}", task_poll_interval=60.0)
    await cluster.ready()
    uuid = await api.create()
    await api.ends(uuid, seconds=10)
    assert node.tasks[uuid].webhook.startswith(f"http://127.0.0.1:{port}/commit?task={uuid}&key=")


async def test_without_a_node_the_page_says_so(cluster: Rig) -> None:
    api = await cluster.start()
    status, headers, body = await api.raw("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"No processing node is online" in body
    assert (await api.raw("GET", "/page/style.css"))[0] == 404


async def test_the_page_of_the_reference_node_comes_through(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    _, _headers, body = await api.raw("GET", "/")
    assert b"Development node" in body
    assert (await api.raw("GET", "/page/style.css"))[1]["Content-Type"].startswith("text/css")


async def test_downloads_can_be_sent_to_s3(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start(downloads_from_s3="https://bucket.example/odm")
    uuid = await api.create()
    await api.ends(uuid)
    status, headers, _ = await api.raw("GET", f"/task/{uuid}/download/all.zip", allow_redirects=False)
    assert (status, headers["Location"]) == (302, f"https://bucket.example/odm/{uuid}/all.zip")


async def test_garbage_on_the_wire_gets_an_answer_and_harms_nobody(cluster: Rig) -> None:
    api = await cluster.start()
    host, port = api.url.removeprefix("http://").split(":")
    for text in (
        b"\0\1\2\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /task/new/init HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, text)
            assert b"400" in await asyncio.wait_for(loop.sock_recv(connection, 1000), 5)
    assert "version" in await api.get("/info")


async def test_an_options_body_of_any_kind_never_breaks_init(cluster: Rig) -> None:
    api = await cluster.start()
    bodies: list[Any] = [b"[" * 200_000, b'{"options": {"a": 1}}', b"null", b"5"]
    for body in bodies:
        answer = await api.post("/task/new/init", body, headers={"Content-Type": "application/json"})
        assert set(answer) in ({"error"}, {"uuid"})
    assert "uuid" in await api.post("/task/new/init", images({}, {"options": "5"}))
