# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A committed task: what is shown of it, what it can be told, what it delivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.node_contract.client import UUID, Client, multipart, options
from tests.node_contract.conftest import Start
from tests.support import eventually

OWN = [{"name": name, "value": True} for name in ("pc-ept", "cog", "gltf")]


# What is shown


async def test_a_task_shows_these_things(node: Client) -> None:
    before = int(time.time() * 1000)
    uuid = await node.created(name="shown")
    info = await node.ends(uuid)
    assert set(info) == {
        "uuid", "name", "dateCreated", "processingTime", "status", "options", "imagesCount", "progress",
    }  # fmt: skip
    assert (info["uuid"], info["name"], info["status"]) == (uuid, "shown", {"code": 40})
    assert before <= info["dateCreated"] <= before + 60_000
    assert isinstance(info["processingTime"], int)
    assert (info["imagesCount"], info["progress"]) == (1, 100)


async def test_an_unknown_task_is_not_found(node: Client) -> None:
    missing = {"error": f"{UUID} not found"}
    for path in ("info", "output", "download/all.zip"):
        assert await node.get(f"/task/{UUID}/{path}") == missing
    for verb in ("cancel", "remove", "restart"):
        assert await node.post(f"/task/{verb}", {"uuid": UUID}) == {"success": False, **missing}


async def test_an_upload_that_is_not_committed_is_no_task(node: Client) -> None:
    uuid = await node.announced()
    assert await node.info(uuid) == {"error": f"{uuid} not found"}
    assert {"uuid": uuid} not in await node.get("/task/list")
    assert await node.post("/task/remove", {"uuid": uuid}) == {"success": False, "error": f"{uuid} not found"}


@pytest.mark.parametrize(("fields", "shown"), [({"name": "given"}, "given"), ({}, None), ({"name": ""}, "Task of 20")])
async def test_a_task_has_the_name_that_it_was_given(node: Client, fields: dict[str, str], shown: str | None) -> None:
    info = await node.ends(await node.created(**fields))
    assert info.get("name", "").startswith(shown or "")
    assert ("name" in info) is (shown is not None)


@pytest.mark.parametrize(("date", "shown"), [("1700000000000", 1700000000000), ("1700000000000.9x", 1700000000000)])
async def test_a_task_has_the_date_that_it_was_given(node: Client, date: str, shown: int) -> None:
    assert (await node.ends(await node.created(dateCreated=date)))["dateCreated"] == shown


async def test_a_date_that_is_none_is_today(node: Client) -> None:
    before = int(time.time() * 1000)
    assert (await node.ends(await node.created(dateCreated="yesterday")))["dateCreated"] >= before


async def test_tasks_wait_for_a_slot_in_their_order(slow: Client) -> None:
    info = await slow.get("/info")
    assert (info["maxParallelTasks"], info["taskQueueCount"]) == (1, 0)
    first = await slow.created()
    await eventually(lambda: _has_time(slow, first))
    assert (await slow.info(first))["status"] == {"code": 20}
    waiting = []
    for _ in range(2):  # a node queues a task once its files are in place, which one that came later may be first at
        waiting.append(await slow.created())
        shown = await slow.reaches(waiting[-1], 10)
        assert (shown["processingTime"], shown["progress"]) == (-1, 0)
    second, third = waiting
    assert (await slow.get("/info"))["taskQueueCount"] == 3
    assert await slow.post("/task/cancel", {"uuid": first}) == {"success": True}
    await slow.runs(second)
    assert (await slow.info(third))["status"] == {"code": 10}
    assert (await slow.get("/info"))["taskQueueCount"] == 2
    assert {"uuid": first} in await slow.get("/task/list")


async def _has_time(node: Client, uuid: str) -> bool:
    return bool((await node.info(uuid))["processingTime"] >= 0)


# The console


async def test_the_console_begins_at_any_line(node: Client) -> None:
    uuid = await node.completed()
    lines = await node.get(f"/task/{uuid}/output")
    assert len(lines) >= 3
    for line in (0, 1, 2, len(lines), len(lines) + 5):
        assert await node.get(f"/task/{uuid}/output", line=line) == lines[line:]
        assert (await node.info(uuid, with_output=line))["output"] == lines[line:]
    for line in (-1, -2, -len(lines) - 5):
        assert await node.get(f"/task/{uuid}/output", line=line) == lines[line:]
        assert (await node.info(uuid, with_output=line))["output"] == lines[line:]
    for garbage in ("", "garbage"):
        assert await node.get(f"/task/{uuid}/output", line=garbage) == lines
        assert (await node.info(uuid, with_output=garbage))["output"] == lines
    assert "output" not in await node.info(uuid)


# Orders


@pytest.mark.parametrize("verb", ["cancel", "remove", "restart"])
async def test_orders_are_not_read_from_multipart(node: Client, verb: str) -> None:
    uuid = await node.completed()
    for body in (multipart({"uuid": uuid}), None, {"other": "x"}):
        assert await node.post(f"/task/{verb}", body) == {"error": "uuid param missing."}
    assert (await node.info(uuid))["status"] == {"code": 40}


async def test_orders_are_read_from_json(slow: Client) -> None:
    uuid = await slow.created()
    assert await slow.post("/task/cancel", json={"uuid": uuid}) == {"success": True}
    assert await slow.post("/task/restart", json={"uuid": uuid}) == {"success": True}
    assert await slow.post("/task/remove", json={"uuid": uuid}) == {"success": True}
    assert await slow.post("/task/cancel", json=["uuid"]) == {"error": "uuid param missing."}


@pytest.mark.parametrize("body", [b"{", b'{"uuid": "' + b"x" * 110_000 + b'"}'], ids=["no JSON", "too large"])
async def test_orders_that_cannot_be_read_are_an_error(node: Client, body: bytes) -> None:
    assert set(await node.post("/task/cancel", body, headers={"Content-Type": "application/json"})) == {"error"}


async def test_a_task_is_canceled_while_it_runs_and_while_it_waits_and_twice(slow: Client) -> None:
    running, waiting = await slow.created(), await slow.created()
    await slow.runs(running)
    for uuid in (waiting, running):
        assert await slow.post("/task/cancel", {"uuid": uuid}) == {"success": True}
        info = await slow.info(uuid)
        assert (info["status"], info["processingTime"]) == ({"code": 50}, -1)
        assert await slow.post("/task/cancel", {"uuid": uuid}) == {"success": True}


async def test_a_completed_task_is_canceled_and_keeps_its_results(node: Client) -> None:
    uuid = await node.completed()
    assert await node.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    assert (await node.info(uuid))["status"] == {"code": 50}
    assert await node.archive(uuid)


async def test_a_removed_task_leaves_nothing(node: Client) -> None:
    uuid = await node.completed()
    assert await node.post("/task/remove", {"uuid": uuid}) == {"success": True}
    assert await node.info(uuid) == {"error": f"{uuid} not found"}
    assert {"uuid": uuid} not in await node.get("/task/list")
    assert not (node.program.data / uuid).exists()


async def test_a_running_task_is_removed(slow: Client) -> None:
    running, waiting = await slow.created(), await slow.created()
    await slow.runs(running)
    assert await slow.post("/task/remove", {"uuid": running}) == {"success": True}
    assert await slow.info(running) == {"error": f"{running} not found"}
    await slow.runs(waiting)


async def test_a_task_that_runs_or_waits_is_not_restarted(slow: Client) -> None:
    running, waiting = await slow.created(), await slow.created()
    await slow.runs(running)
    await slow.reaches(waiting, 10)
    for uuid in (running, waiting):
        answer = await slow.post("/task/restart", {"uuid": uuid})
        assert answer == {"success": False, "error": "Task cannot be restarted"}


async def test_a_restart_begins_the_console_and_the_date_anew(node: Client) -> None:
    uuid = await node.completed(dateCreated="1700000000000", options=options(dsm="true"))
    lines = await node.get(f"/task/{uuid}/output")
    before = int(time.time() * 1000)
    assert await node.post("/task/restart", {"uuid": uuid}) == {"success": True}
    info = await node.ends(uuid)
    assert info["dateCreated"] >= before
    assert info["options"] == [{"name": "dsm", "value": True}, *OWN]
    assert len(await node.get(f"/task/{uuid}/output")) == len(lines)


async def test_a_restarted_task_waits_as_a_new_one_and_its_old_results_stay(start: Start) -> None:
    node = start("--test-seconds", "2", "-q", "1")
    uuid = await node.completed()
    names = await node.archive(uuid)
    assert await node.post("/task/restart", {"uuid": uuid}) == {"success": True}
    info = await node.info(uuid, with_output=0)
    assert info["status"]["code"] in (10, 20)
    assert info["progress"] < 100
    assert await node.archive(uuid) == names
    await node.ends(uuid)


async def test_a_restart_with_options_replaces_them(node: Client) -> None:
    uuid = await node.completed(options=options(dsm="true"))
    assert await node.post("/task/restart", {"uuid": uuid, "options": options(dtm="true")}) == {"success": True}
    assert (await node.ends(uuid))["options"] == [{"name": "dtm", "value": True}, *OWN]


async def test_a_restart_with_wrong_options_is_refused_and_changes_nothing(node: Client) -> None:
    uuid = await node.completed(options=options(dsm="true"))
    answer = await node.post("/task/restart", {"uuid": uuid, "options": options(dsm="maybe")})
    assert answer == {"error": '[{"name":"dsm","error":"Cannot convert maybe to boolean"}]'}
    info = await node.info(uuid)
    assert (info["status"], info["options"]) == ({"code": 40}, [{"name": "dsm", "value": True}, *OWN])


async def test_a_canceled_task_is_restarted(slow: Client) -> None:
    running, waiting = await slow.created(), await slow.created()
    await slow.runs(running)
    await slow.reaches(waiting, 10)
    assert await slow.post("/task/cancel", {"uuid": waiting}) == {"success": True}
    assert await slow.post("/task/restart", {"uuid": waiting}) == {"success": True}
    assert (await slow.info(waiting))["status"] == {"code": 10}


# Results


async def test_results_are_delivered_whole_and_never_in_ranges(node: Client) -> None:
    uuid = await node.completed()
    path = f"/task/{uuid}/download/all.zip"
    for headers in ({}, {"Range": "bytes=0-9"}):
        status, answer, body = await node.raw("GET", path, headers=headers)
        assert (status, answer["Content-Type"]) == (200, "application/zip")
        assert answer["Content-Disposition"] == "attachment; filename=all.zip"
        assert int(answer["Content-Length"]) == len(body)
        assert not {"Accept-Ranges", "Content-Range", "ETag"} & set(answer)


async def test_there_is_no_asset_but_the_archive_and_none_before_the_end(slow: Client) -> None:
    uuid = await slow.created()
    assert await slow.get(f"/task/{uuid}/download/all.zip") == {"error": "Asset not ready"}
    assert await slow.get(f"/task/{uuid}/download/orthophoto.tif") == {"error": "Invalid asset"}


async def test_outputs_decide_what_is_in_the_archive(node: Client) -> None:
    everything = await node.archive(await node.completed())
    output = min(name for name in everything if "/" in name)
    folder = output.split("/")[0]
    whole_folder = {name for name in everything if name.startswith(f"{folder}/")}
    for outputs, expected in (
        (f'["{output}"]', {output}),
        (f'["{folder}", "no/such/thing"]', whole_folder),
        (f'["../../{folder}"]', whole_folder),
        ("[]", everything),
        ("no list", everything),
        ('["no/such/thing"]', set()),
    ):
        assert await node.archive(await node.completed(outputs=outputs)) == expected, outputs


async def test_a_task_without_results_has_failed_without_a_word(start: Start) -> None:
    node = start("--test-fail-tasks", "--test-seconds", "0")
    uuid = await node.created()
    info = await node.ends(uuid, 30)
    assert (info["status"], info["progress"]) == ({"code": 30}, 100)
    assert await node.get(f"/task/{uuid}/download/all.zip") == {"error": "Asset not ready"}


# Webhooks


class Hook:
    """Notes what it is told, and refuses the first call of each path with 500."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[str, Any]] = []

    async def called(self, request: web.Request) -> web.Response:
        self.calls.append((request.raw_path, await request.json()))
        first = [path for path, _ in self.calls].count(request.raw_path) == 1
        return web.Response(status=500 if first else 200)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    receiver = Hook()
    app = web.Application()
    app.router.add_post("/{path}", receiver.called)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    await runner.cleanup()


async def test_webhooks_are_told_the_info_and_the_images_until_they_answer_with_200(start: Start, hook: Hook) -> None:
    node = start("--webhook", f"{hook.url}/nodes", "--test-seconds", "0")
    uuid = await node.completed(webhook=f"{hook.url}/task?signed=a%2Fb%20c")
    await eventually(lambda: len(hook.calls) >= 4)
    signed = "/task?signed=a%2Fb%20c"  # as it was written
    assert sorted(path for path, _ in hook.calls) == ["/nodes", "/nodes", signed, signed]
    info = await node.info(uuid)
    for _, body in hook.calls:
        images = body.pop("images")
        assert isinstance(images, list)
        assert body == info


async def test_webhooks_are_told_of_failures_but_not_of_files_that_were_never_taken(start: Start, hook: Hook) -> None:
    node = start("--test-fail-tasks", "--test-seconds", "0", "--max-images", "1")
    refused = await node.created(("a.jpg", b"a"), ("b.jpg", b"b"), webhook=f"{hook.url}/refused")
    await node.ends(refused, 30)
    failed = await node.created(webhook=f"{hook.url}/failed")
    await node.ends(failed, 30)
    await eventually(lambda: len(hook.calls) >= 2)
    assert {path for path, _ in hook.calls} == {"/failed"}


# Who may ask


async def test_another_token_is_refused_in_words_and_not_with_a_status(start: Start) -> None:
    node = start("--token", "right")
    refused = {"error": "Invalid authentication token: token does not match."}
    for wrong in ("", "wrong"):
        node.token = wrong
        for path in ("/info", "/options", "/task/list", f"/task/{UUID}/info", f"/task/{UUID}/output"):
            assert await node.get(path) == refused
        assert await node.init() == refused
        assert await node.upload(UUID, ("a.jpg", b"a")) == refused
        assert await node.post("/task/cancel", {"uuid": UUID}) == refused
        assert set(await node.get("/auth/info")) == {"message", "loginUrl", "registerUrl"}
    node.token = "right"
    uuid = await node.completed()
    status, _, _ = await node.raw("GET", f"/task/{uuid}/download/all.zip", headers={"Authorization": "Bearer wrong"})
    assert status == 200


async def test_a_node_can_pretend_that_a_token_is_wrong(node: Client) -> None:
    status, _, body = await node.raw("GET", "/info", params={"_debugUnauthorized": "1"})
    assert (status, body) == (401, b"")


async def test_what_a_node_says_of_itself(node: Client) -> None:
    info = await node.get("/info")
    assert set(info) == {
        "version", "taskQueueCount", "totalMemory", "availableMemory", "cpuCores", "maxImages", "maxParallelTasks",
        "engineVersion", "engine",
    }  # fmt: skip
    assert (info["maxImages"], info["maxParallelTasks"]) == (None, 2)
    for number in ("taskQueueCount", "totalMemory", "availableMemory", "cpuCores"):
        assert isinstance(info[number], int)
    for path in ("/auth/login", "/auth/register"):
        assert await node.post(path, {"username": "a", "password": "b"}) == {"error": "Not available"}


async def test_many_may_ask_at_once(node: Client) -> None:
    uuids = await asyncio.gather(*(node.completed((f"{number}.jpg", b"x")) for number in range(6)))
    assert len(set(uuids)) == 6
