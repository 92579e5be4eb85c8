# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin API, the original's paths, and who may use them."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from clusterodm.cluster.tasks import prefetch
from clusterodm.core.errors import ConfigError
from clusterodm.http import logins
from clusterodm.observe import configure_logging
from tests.admin.support import PASSWORD, Operator, login, start
from tests.cluster.test_uploads import sending
from tests.providers.support import running_cloud
from tests.support import Rig, eventually


async def test_nodes_are_added_locked_drained_and_removed(cluster: Rig) -> None:
    await cluster.add_node(slots=2, token="hush-node")
    _, operator = await start(cluster)
    assert await operator.get("nodes") == [] or len(await operator.get("nodes")) == 1
    body = {"host": "127.0.0.1", "port": cluster.ports[0], "token": "hush-node"}
    added = await operator.order("POST", "nodes", body)
    await cluster.ready()
    path = f"nodes/{added['id']}"
    node = await operator.get(path)
    assert (node["online"], node["slots"], node["closed"], node["origin"]) == (True, 2, "", "configured")
    assert (await operator.order("POST", f"{path}/lock"))["closed"] == "locked"
    assert (await operator.ask("GET", "/api/v1/nodes/best?images=3"))[0] == 409
    assert (await operator.order("POST", f"{path}/unlock"))["closed"] == ""
    assert (await operator.get("nodes/best", images=3))["id"] == added["id"]
    drained = await operator.order("POST", f"{path}/drain")
    assert (drained["closed"], drained["drained"]) == ("draining", True)
    assert "removed" in (await operator.order("DELETE", path))["text"]
    assert await operator.ask("GET", f"/api/v1/{path}") == (404, {"error": f"there is no node with id {added['id']}"})
    assert "hush" not in json.dumps([node, added, await operator.get("settings")])


async def test_a_task_is_shown_with_all_that_is_known_and_taken_elsewhere(cluster: Rig) -> None:
    await cluster.add_node(seconds=60, max_images=10)
    other = await cluster.add_node(seconds=0.2, max_images=20)
    api, operator = await start(cluster, results="keep")
    await cluster.ready()
    uuid = await api.create(3, name="seen", options='[{"name":"dsm","value":true}]')
    await eventually(lambda: cluster.entry(uuid).task.phase == "running")
    detail = await operator.get(f"tasks/{uuid[:10]}")
    assert (detail["task"]["name"], detail["task"]["images"], detail["task"]["phase"]) == ("seen", 3, "running")
    assert detail["options"][:1] == [{"name": "dsm", "value": True}]
    assert [file["name"] for file in detail["held_files"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert detail["why"].startswith(f"running on 127.0.0.1:{cluster.ports[0]}")
    await operator.order("POST", f"tasks/{uuid}/retry")
    await api.ends(uuid)
    detail = await operator.get(f"tasks/{uuid}")
    assert [each["reason"] for each in detail["attempts"]] == ["an operator moved it", "completed"]
    assert [task.code for task in other.tasks.values()] == [40]
    assert {"README.txt", "report/report.html"} <= {file["name"] for file in detail["results"]}
    assert detail["results_at"] == "here"
    timeline = await operator.get(f"tasks/{uuid}/timeline")
    assert any(event["text"].startswith("completed") for event in timeline)
    assert (await operator.get(f"tasks/{uuid}/output", line=-1)) == ["Compressing all.zip\n"]
    async with operator.session.get(f"{operator.url}/api/v1/tasks/{uuid}/download/README.txt") as answer:
        assert b"photogrammetry" in await answer.read()
    history = await operator.get("history", hours=1)
    states = {bar["state"] for lane in history["lanes"] for bar in lane["bars"]}
    assert states == {"lost", "completed"}
    charts = await operator.get("charts")
    assert sum(hour["completed"] for hour in charts["hours"]) == 1
    assert len(charts["hours"]) == 24


async def test_an_upload_is_shown_with_its_files(cluster: Rig) -> None:
    api, operator = await start(cluster)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"photo", gcp_list__txt=b"point")
    task = (await operator.get(f"tasks/{uuid}"))["task"]
    assert (task["files"], task["images"], task["bytes"]) == (2, 1, 10)


async def test_uploads_are_shown_with_what_they_hold_and_dropped(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH", 1)
    await cluster.add_node(seconds=60)
    api, operator = await start(cluster, node_lost_after=3600)
    await cluster.ready()
    first, second = await api.init(name="first"), await api.init(name="second")
    await api.upload(first, a__jpg=b"photo", gcp_list__txt=b"point")
    await eventually(lambda: cluster.entry(first).attempt)
    cluster.clock.ahead += 660
    await api.upload(second, b__jpg=b"b")
    page = await operator.get("uploads")
    assert (page["total"], page["bytes"]) == (2, 11)
    one, two = page["uploads"]
    shown = {name: one[name] for name in ("uuid", "name", "owner", "files", "bytes", "state", "node")}
    assert shown == {
        "uuid": first, "name": "first", "owner": "local", "files": 2, "bytes": 10, "state": "abandoned",
        "node": f"127.0.0.1:{cluster.ports[0]}",
    }  # fmt: skip
    assert 660 <= one["idle_seconds"] < 700
    assert one["created_at"] <= one["active_at"] < two["active_at"]
    assert (two["uuid"], two["state"]) == (second, "idle")
    assert [each["uuid"] for each in (await operator.get("uploads", limit=1, offset=1))["uploads"]] == [second]
    status = await operator.get("status")
    assert (status["receiving"], status["receiving_bytes"]) == (2, 11)
    assert await operator.order("DELETE", f"uploads/{first}") == {"text": f"{first} dropped"}
    assert await api.upload(first, c__jpg=b"c") == {
        "error": "Invalid uuid (not found): the upload was dropped by an operator; begin again",
        "noRetry": True,
    }
    await api.commit(second)
    status, refused = await operator.ask("DELETE", f"/api/v1/uploads/{second}")
    assert (status, refused) == (409, {"error": "the upload is committed; cancel or remove the task instead"})
    assert (await operator.ask("DELETE", f"/api/v1/uploads/{first}"))[0] == 404
    third = await api.init()
    await operator.order("POST", f"tasks/{third}/cancel")
    assert (await operator.get("uploads"))["total"] == 0


async def test_what_comes_in_with_one_request_is_among_the_uploads_and_can_be_dropped(cluster: Rig) -> None:
    api, operator = await start(cluster)
    async with sending(cluster, api, "/task/new") as request:
        page = await operator.get("uploads")
        assert (page["total"], page["bytes"]) == (1, page["uploads"][0]["bytes"])
        [upload] = page["uploads"]
        assert (upload["state"], upload["owner"], upload["name"], upload["files"]) == ("receiving", "local", "", 0)
        assert upload["bytes"] > 0
        status = await operator.get("status")
        assert (status["receiving"], status["receiving_bytes"]) == (1, upload["bytes"])
        dropped = await operator.order("DELETE", f"uploads/{upload['uuid']}")
        assert dropped == {"text": f"{upload['uuid']} dropped"}
        assert "Invalid uuid (not found)" in (await request.end())["error"]
    assert (await operator.get("uploads"))["total"] == 0
    assert await cluster.cluster.context.spool.tasks() == []
    assert (await operator.get("tasks"))["total"] == 0


async def test_pages_of_tasks_are_filtered_and_bounded(cluster: Rig) -> None:
    api, operator = await start(cluster)
    uuids = [await api.create(1, name=f"field {number}") for number in range(4)]
    await operator.order("POST", f"tasks/{uuids[0]}/cancel")
    page = await operator.get("tasks", state="queued", limit=2)
    assert (len(page["tasks"]), page["total"]) == (2, 3)
    assert [task["name"] for task in page["tasks"]] == ["field 3", "field 2"]
    assert (await operator.get("tasks", state="canceled"))["tasks"][0]["uuid"] == uuids[0]
    assert (await operator.get("tasks", text="FIELD 2"))["total"] == 1
    assert [task["position"] for task in await operator.get("queue")] == [1, 2, 3]
    await operator.order("POST", f"tasks/{uuids[3]}/priority", {"priority": 5})
    assert (await operator.get("queue"))[0]["uuid"] == uuids[3]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "tasks?limit=9999", {}, 400),
        ("GET", "tasks?state=flying", {}, 400),
        ("GET", "tasks?limit=1&limit=2", {}, 400),
        ("GET", "tasks?what=1", {}, 400),
        ("GET", "tasks/zz", {}, 404),
        ("GET", "tasks/0000abcd", {}, 404),
        ("GET", "nodes/99", {}, 404),
        ("GET", "nodes/x", {}, 404),
        ("POST", "nodes", {"data": b"{"}, 400),
        ("POST", "nodes", {"json": {"port": 1}}, 400),
        ("POST", "nodes", {"json": {"host": "a b", "port": 1}}, 400),
        ("POST", "nodes/99/lock", {}, 404),
        ("POST", "nodes", {"data": b"[" * 100_000}, 400),
        ("POST", "nodes", {"data": io.BytesIO(b"x" * (2 << 20))}, 413),
        ("PUT", "nodes", {}, 405),
        ("GET", "nothing", {}, 404),
    ],
)
async def test_bad_requests_get_a_clear_error(cluster: Rig, method: str, path: str, options: Any, status: int) -> None:
    _, operator = await start(cluster)
    code, value = await operator.ask(method, f"/api/v1/{path}", **options)
    assert code == status
    assert list(value) == ["error"]
    assert value["error"]


async def test_without_the_password_only_health_is_answered(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "DELAY", 0.01)
    _, operator = await start(cluster, admin_pass=PASSWORD)
    nobody = Operator(operator.url)
    cluster.stack.push_async_callback(nobody.session.close)
    for path in (
        "/",
        "/api/v1/nodes",
        "/r/node/list",
        "/metrics",
        "/api/v1/openapi.json",
        "/main.js",
        "/api/v1/events",
    ):
        assert (await nobody.ask("GET", path))[0] == 401
    for wrong in (login("hush-wrong"), login(PASSWORD, "root"), {"Authorization": "Basic !"}, {"Authorization": "x"}):
        assert (await nobody.ask("GET", "/api/v1/nodes", headers=wrong))[0] == 401
    assert (await operator.ask("GET", "/api/v1/nodes"))[0] == 200
    for path in ("/healthz", "/readyz"):
        async with nobody.session.get(operator.url + path) as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Host": "evil.example"},
    ],
)
async def test_other_pages_and_other_names_cannot_change_anything(cluster: Rig, headers: dict[str, str]) -> None:
    _, operator = await start(cluster)
    for path in ("/api/v1/nodes", "/r/node/add"):
        body = {"host": "h", "port": 1, "hostname": "h"}
        status, _ = await operator.ask("POST", path, json=body, headers=headers)
        assert status == 403
    assert await operator.get("nodes") == []


async def test_answers_forbid_what_browsers_would_allow(cluster: Rig) -> None:
    _, operator = await start(cluster)
    async with operator.session.get(operator.url + "/", headers={"Origin": "https://evil.example"}) as answer:
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_ports_that_others_reach_need_a_password(cluster: Rig) -> None:
    with pytest.raises(ConfigError, match="--admin-pass is needed"):
        await start(cluster, admin_host="0.0.0.0")


async def test_events_tell_of_tasks_nodes_and_places_in_the_queue(cluster: Rig) -> None:
    await cluster.add_node(seconds=1.0)
    api, operator = await start(cluster)
    await cluster.ready()
    events: dict[str, list[Any]] = {}

    async def watch() -> None:
        async with operator.session.get(f"{operator.url}/api/v1/events") as answer:
            assert answer.content_type == "text/event-stream"
            kind = ""
            async for line in answer.content:
                name, _, value = line.decode().strip().partition(": ")
                kind = value if name == "event" else kind
                if name == "data":
                    events.setdefault(kind, []).append(json.loads(value))

    watching = asyncio.create_task(watch())  # noqa: TID251 - canceled below
    await eventually(lambda: "nodes" in events)
    uuids = [await api.create(1) for _ in range(2)]
    await eventually(lambda: any(place["position"] == 1 for queue in events.get("queue", []) for place in queue))
    for uuid in uuids:
        await api.ends(uuid)
    await eventually(lambda: {"completed"} <= {task["outcome"] for task in events["task"]})
    await eventually(lambda: events["status"][-1]["completed"] == 2)
    assert any(node["used"] == 1 for node in events["node"])
    watching.cancel()


async def test_a_watcher_that_does_not_read_must_reload(cluster: Rig) -> None:
    _, operator = await start(cluster)
    from clusterodm.admin.feed import Feed

    feed = Feed(cluster.cluster.context)
    async with feed.watching() as waiting:
        for number in range(2000):
            feed._send(b"x%d" % number)
        queued = [waiting.get_nowait() for _ in range(waiting.qsize())]
    assert len(queued) <= 500
    assert b"reload" in b"".join(queued)
    assert queued[-1] == b"x1999"
    assert (await operator.get("status"))["health"] == "degraded"


#: Of labels with these names nothing is known at the start: nodes come and go.
COME_LATER = {"node"}


async def labelled(operator: Operator) -> set[tuple[str, tuple[str, ...]]]:
    """Every counter, gauge and histogram with each set of values of its labels."""
    async with operator.session.get(f"{operator.url}/metrics") as answer:
        text = await answer.text()
    return {
        (family.name, tuple(value for name, value in sorted(sample.labels.items()) if name != "le"))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not COME_LATER & sample.labels.keys()
    }


async def test_every_metric_has_all_values_of_its_labels_from_the_start(cluster: Rig, tmp_path: Path) -> None:
    webhook = "http://127.0.0.1:9/"
    async with running_cloud("hetzner") as cloud:
        file = tmp_path / "asr.json"
        file.write_text(json.dumps({"providers": [cloud.entry]}))
        api, operator = await start(cluster, asr=file, machine_poll_interval=0.05, webhook_allow_private=True)
        registry = cluster.cluster.context.metrics.registry
        metrics = [vars(metric) for metric in registry._collector_to_names]
        empty = [metric["_name"] for metric in metrics if metric.get("_labelnames") and not metric["_metrics"]]
        assert empty == []
        first = await labelled(operator)
        await api.ends(await api.create(webhook=webhook))
        await api.post("/task/cancel", {"uuid": await api.init()})
        await api.raw("GET", "/nowhere")
        assert cluster.cluster.context.machines.alive()
        assert await labelled(operator) - first == set()


async def test_metrics_agree_with_the_cluster(cluster: Rig) -> None:
    await cluster.add_node(slots=3)
    api, operator = await start(cluster)
    await cluster.ready()
    uuid = await api.create(2)
    await api.ends(uuid)
    await api.raw("GET", f"/task/{uuid}/download/all.zip")
    await api.post("/task/cancel", {"uuid": await api.init()})
    await api.upload(await api.init(), a__jpg=b"here")
    async with operator.session.get(f"{operator.url}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}

    def value(name: str, **labels: str) -> float:
        family = families[name.removesuffix("_total").removesuffix("_count")]
        return next(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())

    assert value("clusterodm_tasks", phase="receiving") == 1
    assert [value("clusterodm_uploads", state=state) for state in ("receiving", "idle", "abandoned")] == [0, 1, 0]
    assert value("clusterodm_upload_bytes") == 4
    assert value("clusterodm_uploads_dropped_total", why="removed") == 1
    assert value("clusterodm_attempts_total", outcome="completed") == 1
    assert value("clusterodm_received_bytes_total") == 18
    assert value("clusterodm_sent_bytes_total") == 14
    assert value("clusterodm_delivered_bytes_total") > 100
    assert value("clusterodm_node_slots", state="free") == 3
    assert value("clusterodm_nodes", origin="configured") == 1
    assert value("clusterodm_request_seconds_count", route="/task/{uuid}/download/{asset}") == 1
    assert value("clusterodm_wait_seconds_count") == 1


async def test_the_access_log_tells_what_was_asked_and_no_secret(cluster: Rig) -> None:
    with structlog.testing.capture_logs() as logged:  # before anything is masked
        api, operator = await start(cluster, access_log="-", token="hush-client", admin_pass=PASSWORD)
        assert "version" in await api.get("/info")
        await operator.get("status")
    requests = {(line["path"], line["status"]) for line in logged if line["event"] == "request"}
    assert {("/info", 200), ("/api/v1/status", 200)} <= requests
    assert "hush" not in str(logged)


async def test_the_access_log_may_be_a_file_of_its_own_and_the_level_has_no_say_in_it(
    cluster: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("error")
    try:
        api, operator = await start(cluster, access_log="logs/access.jsonl", log_file="logs/all.jsonl")
        await api.get("/info?token=hush-elsewhere")
        await operator.get("status")
        await cluster.stop()
    finally:
        structlog.reset_defaults()
    logs = cluster.folder / "data" / "logs"
    lines = [json.loads(line) for line in (logs / "access.jsonl").read_text().splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/info", 200),
        ("GET", "/api/v1/status", 200),
    ]
    assert "hush" not in str(lines)
    assert "/info" not in (logs / "all.jsonl").read_text() + capsys.readouterr().err
