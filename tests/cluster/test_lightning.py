# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The service that knows owners, spoken to over a real socket: tokens, approvals, reports, and what happens when it is
down."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from clusterodm.auth import lightning
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ConfigError
from clusterodm.core.tasks import Phase
from clusterodm.http import logins
from tests.proxy.test_intake import zip_server
from tests.support import Api, Rig, eventually, form, images, zipped

TOKEN, OTHER = "hush-flash-1", "hush-flash-2"


class Service:
    """Speaks the protocol of the service; what it was asked is in `calls`."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {TOKEN: {}}
        self.calls: list[tuple[str, Any]] = []
        #: Paths that fail now, and how often still.
        self.down: dict[str, int] = {}
        self.refusal = ""
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/r")
        fields = dict(await request.post()) if path == "/auth/getToken" else await request.json()
        self.calls.append((path, fields))
        if self.down.get(path, 0):
            self.down[path] -= 1
            return web.Response(status=502, text="<html>bad gateway</html>")
        match path:
            case "/tokens/validate":
                limits = self.tokens.get(str(fields["token"]))
                return web.json_response({"valid": limits is not None, "limits": limits})
            case "/tasks/approve":
                return web.json_response({"approved": not self.refusal, "error": self.refusal or None})
            case "/auth/getToken":
                valid = fields == {"username": "ann", "password": "hush-word"}
                return web.json_response({"token": TOKEN} if valid else {"error": "no"})
        return web.json_response({"ok": True})

    def count(self, path: str) -> int:
        return sum(called == path for called, _ in self.calls)

    def reports(self) -> list[Any]:
        return [json.loads(body["taskInfo"]) for path, body in self.calls if path == "/tasks/finished"]


@pytest.fixture
async def service(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(lightning, "_BACKOFF", Backoff(first=0.01, longest=0.01))
    service = Service()
    app = web.Application()
    app.router.add_post("/r/{path:.*}", service.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/r"
    return service


async def start(cluster: Rig, service: Service, **settings: Any) -> Api:
    return await cluster.start(
        cloud_provider="lightningdev", lightning_url=service.url, **({"client_token": TOKEN} | settings)
    )


async def another(cluster: Rig, token: str) -> Api:
    api = Api(cluster.api.url, token)
    cluster.stack.push_async_callback(api.session.close)
    return api


async def test_a_token_is_asked_about_once_and_its_limits_hold(cluster: Rig, service: Service) -> None:
    service.tokens[TOKEN] = {"maxImages": 1, "maxConcurrentTasks": None, "options": {"dsm": {"remove": True}}}
    api = await start(cluster, service)
    for _ in range(3):
        assert "dsm" not in [option["name"] for option in await api.get("/options")]
    assert service.calls == [("/tokens/validate", {"token": TOKEN})]
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    assert "at most 1" in (await api.upload(uuid, b__jpg=b"b"))["error"]


async def test_an_unknown_token_is_refused_and_not_asked_about_at_every_request(cluster: Rig, service: Service) -> None:
    await start(cluster, service)
    stranger = await another(cluster, OTHER)
    for _ in range(3):
        assert (await stranger.raw("GET", "/info"))[::2] == (401, b"")
    assert service.count("/tokens/validate") == 1


async def test_clients_learn_where_tokens_are_had_and_can_log_in(cluster: Rig, service: Service) -> None:
    api = await start(cluster, service)
    assert (await api.get("/auth/info"))["loginUrl"] == f"{service.url}/auth/getToken"
    assert await api.post("/auth/login", {"username": "ann", "password": "hush-word"}) == {"token": TOKEN}
    assert "error" in await api.post("/auth/login", {"username": "ann", "password": "hush-other"})


async def test_an_address_that_guesses_passwords_is_refused_before_the_service_is_asked(
    cluster: Rig, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "FEW", 2)
    monkeypatch.setattr(logins, "DELAY", 0.5)
    api = await start(cluster, service)
    wrong = {"username": "ann", "password": "hush-other"}
    answers = await asyncio.gather(*(api.post("/auth/login", wrong) for _ in range(5)))
    assert sorted("too many wrong passwords" in answer["error"] for answer in answers) == [False] * 2 + [True] * 3
    assert service.count("/auth/getToken") == 2


async def test_the_first_question_is_asked_again_until_it_is_answered(cluster: Rig, service: Service) -> None:
    service.down["/tokens/validate"] = 9
    api = await start(cluster, service)
    assert "version" in await api.get("/info")
    assert service.count("/tokens/validate") == 10
    service.down["/tokens/validate"] = 10
    stranger = await another(cluster, OTHER)
    status, _, body = await stranger.raw("GET", "/info")
    assert status == 200, "not a refusal: nobody knows whether the token is good"
    assert "try again later" in json.loads(body)["error"]
    service.down["/tokens/validate"] = 10
    upload = "/task/new/upload/00000000-0000-4000-8000-000000000000"
    status, _, body = await stranger.raw("POST", upload, data=images({"a.jpg": b"a"}))
    assert status == 403, "the page of a node would take 200 for success, and commit without the file"
    assert "try again later" in json.loads(body)["error"]


async def test_a_known_token_goes_on_while_the_service_is_down_also_after_a_restart(
    cluster: Rig, service: Service
) -> None:
    api = await start(cluster, service)
    assert "version" in await api.get("/info")
    service.down["/tokens/validate"] = 1000
    cluster.clock.ahead += 901.0
    for _ in range(3):
        assert "version" in await api.get("/info")
    assert service.count("/tokens/validate") == 2, "once at first, once when the answer was old"
    await cluster.stop()
    restarted = await start(cluster, service)
    assert "version" in await restarted.get("/info")


async def test_a_token_that_was_revoked_is_deleted_from_disk(cluster: Rig, service: Service) -> None:
    api = await start(cluster, service)
    assert "version" in await api.get("/info")
    owners = list((cluster.folder / "data" / "owners").iterdir())
    assert [path.stat().st_mode & 0o777 for path in owners] == [0o600]
    service.tokens.clear()
    cluster.clock.ahead += 901.0
    assert (await api.raw("GET", "/info"))[0] == 401
    assert not list((cluster.folder / "data" / "owners").iterdir())


async def test_a_task_is_approved_and_reported_exactly_once(cluster: Rig, service: Service) -> None:
    service.down["/tasks/finished"] = 2
    await cluster.add_node()
    api = await start(cluster, service)
    uuid = await api.create(3)
    await api.commit(uuid)
    await api.ends(uuid)
    await eventually(lambda: not cluster.entry(uuid).task.billing_due)
    approvals = [body for path, body in service.calls if path == "/tasks/approve"]
    assert approvals == [{"token": TOKEN, "imagesCount": 3}]
    assert [(report["uuid"], report["status"]["code"]) for report in service.reports()] == [(uuid, 40)] * 3
    assert service.count("/tasks/finished") == 3, "two that failed, one that was taken"


async def test_a_refused_task_is_not_committed_and_can_be_once_it_may(cluster: Rig, service: Service) -> None:
    service.refusal = "Not enough credits"
    await cluster.add_node()
    api = await start(cluster, service)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    assert await api.commit(uuid) == {"error": "Not enough credits", "noRetry": True}
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING
    service.refusal = ""
    assert await api.commit(uuid) == {"uuid": uuid}
    await api.ends(uuid)


async def test_a_task_that_cannot_be_approved_now_is_accepted_and_waits(cluster: Rig, service: Service) -> None:
    service.down["/tasks/approve"] = 1000
    await cluster.add_node()
    api = await start(cluster, service)
    accepted, refused = await api.create(1), await api.create(1)
    await eventually(lambda: "has not approved it yet" in cluster.entry(accepted).wait)
    assert await api.code(accepted) == 10
    service.down.clear()
    await api.ends(accepted)
    await api.ends(refused)


async def test_a_task_that_is_refused_later_fails_with_the_reason_and_is_not_reported(
    cluster: Rig, service: Service
) -> None:
    service.down["/tasks/approve"] = 1
    service.refusal = "Not enough credits"
    await cluster.add_node()
    api = await start(cluster, service)
    info = await api.ends(await api.create(1), 30)
    assert info["status"]["errorMessage"] == "Not enough credits"
    assert service.reports() == []


async def test_fetched_images_are_approved_once_they_are_here(cluster: Rig, service: Service) -> None:
    url = await zip_server(cluster, zipped({"a.jpg": b"a", "b.jpg": b"b", "notes.txt": b"c"}))
    await cluster.add_node()
    api = await start(cluster, service, zipurl_allow_private=True)
    uuid = (await api.post("/task/new", form({"zipurl": f"{url}/a.zip"})))["uuid"]
    await api.ends(uuid)
    approvals = [body["imagesCount"] for path, body in service.calls if path == "/tasks/approve"]
    assert approvals == [2]


async def test_the_parts_of_a_split_merge_job_are_neither_approved_nor_reported(cluster: Rig, service: Service) -> None:
    await cluster.add_node(seconds=60, slots=2)
    api = await start(cluster, service)
    job = await api.create(2)
    await eventually(lambda: cluster.entry(job).task.phase is Phase.RUNNING)
    node = await another(cluster, cluster.cluster.context.jobs.token(job, 1))
    part = await node.create(1)
    await eventually(lambda: cluster.entry(part).task.phase is Phase.RUNNING)
    await node.post("/task/cancel", {"uuid": part})
    await api.post("/task/cancel", {"uuid": job})
    await eventually(service.reports)
    assert [report["uuid"] for report in service.reports()] == [job]
    assert service.count("/tasks/approve") == 1


async def test_a_task_that_its_owner_removed_after_its_end_is_reported_all_the_same(
    cluster: Rig, service: Service
) -> None:
    service.down["/tasks/finished"] = 1
    await cluster.add_node()
    api = await start(cluster, service)
    uuid = await api.create(1)
    await api.ends(uuid)
    assert await api.post("/task/remove", {"uuid": uuid}) == {"success": True}
    await eventually(lambda: len(service.reports()) == 2)
    assert service.reports()[-1]["status"] == {"code": 40}
    store = cluster.cluster.context.store
    assert await eventually(lambda: _forgotten(cluster, uuid))
    assert await store.unreported() == []


async def _forgotten(cluster: Rig, uuid: str) -> bool:
    return uuid in dict(await cluster.cluster.context.store.removed(limit=10))


async def test_what_was_not_reported_before_a_restart_is_reported_after_it(cluster: Rig, service: Service) -> None:
    service.down["/tasks/finished"] = 1000
    await cluster.add_node()
    api = await start(cluster, service)
    uuid = await api.create(1)
    await api.ends(uuid)
    await eventually(service.reports)
    await cluster.stop()
    service.down.clear()
    before = len(service.reports())
    await start(cluster, service)
    await eventually(lambda: len(service.reports()) == before + 1)
    assert service.reports()[-1]["uuid"] == uuid


def imported(cluster: Rig, port: int, uuids: list[str]) -> None:
    """Files that the original left of tasks on a node, all of one token."""
    node = {"hostname": "127.0.0.1", "port": str(port), "token": ""}
    folder = cluster.folder / "data"
    folder.mkdir()
    (folder / "nodes.json").write_text(json.dumps([node]))
    routes = {uuid: {"node": node, "token": TOKEN, "accessed": 1_700_000_000_000} for uuid in uuids}
    (folder / "routes.json").write_text(json.dumps(routes))


async def test_an_imported_task_stays_with_its_owner_while_the_service_does_not_answer(
    cluster: Rig, service: Service
) -> None:
    await cluster.add_node(seconds=0.0, slots=2)
    port = cluster.ports.pop()
    direct = Api(f"http://127.0.0.1:{port}")
    cluster.stack.push_async_callback(direct.session.close)
    ended = await direct.create(1)
    await direct.ends(ended)
    imported(cluster, port, [ended])
    service.down["/tokens/validate"] = 1000
    api = await start(cluster, service)
    assert "error" in await api.get(f"/task/{ended}/info")
    await cluster.stop()

    service.down.clear()
    api = await start(cluster, service)
    assert await api.code(ended) == 40
    assert await api.get("/task/list") == [{"uuid": ended}]
    assert service.reports() == [], "it was over, and reported, before it was imported"
    stranger = await another(cluster, OTHER)
    service.tokens[OTHER] = {}
    assert "not found" in (await stranger.get(f"/task/{ended}/info"))["error"]


async def test_an_imported_task_that_ends_with_us_is_reported(cluster: Rig, service: Service) -> None:
    await cluster.add_node(seconds=60)
    port = cluster.ports.pop()
    direct = Api(f"http://127.0.0.1:{port}")
    cluster.stack.push_async_callback(direct.session.close)
    uuid = await direct.create(1)
    imported(cluster, port, [uuid])
    api = await start(cluster, service)
    assert await api.code(uuid) == 20
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    await eventually(lambda: [each["uuid"] for each in service.reports()] == [uuid])


async def test_the_service_to_develop_with_needs_an_address(cluster: Rig) -> None:
    with pytest.raises(ConfigError, match="lightning-url"):
        await cluster.start(cloud_provider="lightningdev")


async def test_clearing_the_cache_has_the_callers_token_asked_about_anew(cluster: Rig, service: Service) -> None:
    service.tokens |= {TOKEN: {"maxImages": 1}, OTHER: {"maxImages": 1}}
    api = await start(cluster, service)
    stranger = await another(cluster, OTHER)
    assert "error" not in await stranger.get("/info")
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    service.tokens |= {TOKEN: {"maxImages": 2}, OTHER: {"maxImages": 2}}
    assert "at most 1" in (await api.upload(uuid, b__jpg=b"b"))["error"]
    assert await api.get("/cache/clear") == {"ok": True}
    assert await api.upload(uuid, b__jpg=b"b") == {"success": True}
    assert service.count("/tokens/validate") == 3, "the stranger's goes on"
    await api.get("/cache/clear")
    service.down["/tokens/validate"] = 1000
    answer = await api.upload(uuid, c__jpg=b"c")
    assert "at most 2" in answer["error"], "while the service is away its last word counts"


async def test_a_cleared_cache_stays_cleared_after_a_restart(cluster: Rig, service: Service) -> None:
    service.tokens[TOKEN] = {"maxImages": 1}
    api = await start(cluster, service)
    assert await api.get("/cache/clear") == {"ok": True}
    await cluster.stop()
    service.tokens[TOKEN] = {"maxImages": 2}
    api = await start(cluster, service)
    uuid = await api.init()
    for name in "ab":
        assert await api.upload(uuid, **{f"{name}__jpg": name.encode()}) == {"success": True}


async def test_clearing_the_cache_has_a_token_asked_about_again_that_was_not_valid(
    cluster: Rig, service: Service
) -> None:
    await start(cluster, service)
    stranger = await another(cluster, OTHER)
    assert (await stranger.raw("GET", "/info"))[0] == 401
    service.tokens[OTHER] = {}  # a plan was bought
    assert (await stranger.raw("GET", "/info"))[0] == 401, "it is not asked about at every request"
    assert await stranger.get("/cache/clear") == {"ok": True}
    assert "version" in await stranger.get("/info")
    nobody = await another(cluster, "")
    assert (await nobody.raw("GET", "/cache/clear"))[0] == 401


@pytest.mark.parametrize("valid", [True, False])
async def test_clearing_the_cache_again_and_again_does_not_keep_the_service_busy(
    cluster: Rig, service: Service, valid: bool
) -> None:
    if valid:
        service.tokens[OTHER] = {}
    await start(cluster, service)
    stranger = await another(cluster, OTHER)
    for _ in range(20):
        assert await stranger.get("/cache/clear") == {"ok": True}
        assert (await stranger.raw("GET", "/info"))[0] == (200 if valid else 401)
    assert service.count("/tokens/validate") <= 3
    cluster.clock.ahead += 3.0
    service.tokens[OTHER] = {"options": {"dsm": {"remove": True}}}
    assert await stranger.get("/cache/clear") == {"ok": True}
    assert "dsm" not in [option["name"] for option in await stranger.get("/options")]
