# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every error, as clients, operators and the shell are told of it: one table for all of them."""

from __future__ import annotations

import sqlite3

import aiohttp
import pytest
from aiohttp import web

from clusterodm.admin.feed import Feed
from clusterodm.admin.operations import nodes
from clusterodm.admin.shell import Shell
from clusterodm.admin.web import make_admin_app
from clusterodm.core import errors
from clusterodm.core.errors import ClusterError
from clusterodm.http import answers
from clusterodm.proxy.routes import make_app
from tests.admin.support import start
from tests.support import Rig, eventually

#: The error, its status for clients and for operators, and its text for all.
TOLD: dict[type[Exception], tuple[int, int, str]] = {
    errors.ClusterError: (200, 409, "why"),
    errors.BadRequest: (200, 409, "why"),
    errors.Malformed: (200, 400, "why"),
    errors.TaskNotFound: (200, 404, "why"),
    errors.NodeNotFound: (200, 404, "why"),
    errors.MachineNotFound: (200, 404, "why"),
    errors.ResultsGone: (200, 409, "why"),
    errors.FilesLost: (200, 409, "why"),
    errors.Unauthorized: (401, 401, "why"),
    errors.ServiceDown: (200, 503, "why, try again later"),
    errors.StoreDown: (503, 503, "why"),
    errors.SpoolFull: (200, 503, "why"),
    errors.ClientGone: (408, 408, "why"),
    errors.NodeError: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.NodeUnreachable: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.NodeRefused: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.NodeForgot: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.BadResults: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.AnswerTooLarge: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.TokenRejected: (200, 502, "The node cannot be reached now (why), try again later"),
    errors.FetchFailed: (200, 502, "why"),
    errors.BadArchive: (200, 409, "why"),
    errors.StaleTask: (200, 409, "why"),
    errors.StaleMachine: (200, 409, "why"),
    errors.ProviderError: (200, 502, "why"),
    errors.OutOfCapacity: (200, 502, "why"),
    errors.Rejected: (200, 502, "why"),
    errors.Unreachable: (200, 502, "why"),
    errors.Throttled: (200, 502, "why"),
    errors.ConfigError: (200, 409, "why"),
    errors.DataFolderError: (200, 503, "why"),
    ZeroDivisionError: (200, 500, "Something went wrong here; the log says what"),
}


def error_of(kind: type[Exception]) -> Exception:
    return errors.FetchFailed("why", final=True) if kind is errors.FetchFailed else kind("why")


def test_every_error_is_in_the_table_of_this_test() -> None:
    every = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ClusterError)}
    assert every == set(TOLD) - {ZeroDivisionError}


@pytest.fixture
async def planes(cluster: Rig) -> tuple[str, str]:
    """Both planes of a cluster, each with a path that raises the error of that name."""
    await start(cluster)
    context = cluster.cluster.context

    async def fail(request: web.Request) -> web.Response:
        raise next(error_of(kind) for kind in TOLD if kind.__name__ == request.match_info["name"])

    urls = []
    for app in (make_app(context), make_admin_app(context, Feed(context))):
        app.router.add_get("/fail/{name}", fail)
        runner = web.AppRunner(app)
        await runner.setup()
        cluster.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
    return urls[0], urls[1]


async def test_both_ports_answer_every_error_as_the_table_says(planes: tuple[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        for plane, url in enumerate(planes):
            for kind, answers in TOLD.items():
                async with session.get(f"{url}/fail/{kind.__name__}") as answer:
                    assert answer.status == answers[plane], kind
                    if plane == 0 and answer.status == 401:
                        assert await answer.read() == b""  # clients of nodes know a bad token by that
                        continue
                    assert answer.content_type == "application/json"
                    assert await answer.json() == {"error": answers[2]}, kind


async def test_the_shell_says_the_same(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await start(cluster)
    for kind, (_, _, text) in TOLD.items():

        async def fail(*_: object, kind: type[Exception] = kind) -> str:
            raise error_of(kind)

        monkeypatch.setattr(nodes, "listing", fail)
        assert await Shell(cluster.cluster.context).answer("node list") == [f"FAIL: {text}"]


def test_a_client_that_need_not_try_again_is_told_so() -> None:
    assert answers.body(errors.BadRequest("why", no_retry=True)) == {"error": "why", "noRetry": True}
    assert answers.body(errors.BadRequest("why")) == {"error": "why"}


@pytest.mark.slow
async def test_a_database_that_does_not_answer_is_the_same_on_both_ports_and_for_every_verb(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api, operator = await start(cluster)
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase == "running")
    other = sqlite3.connect(cluster.folder / "data" / "clusterodm.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        cancel = await api.raw("POST", "/task/cancel", json={"uuid": uuid})
        status, refused = await operator.ask("POST", f"/api/v1/tasks/{uuid}/cancel")
    finally:
        other.close()
    assert (cancel[0], status) == (503, 503)
    assert "The database does not answer now" in refused["error"]
    assert b'"success":false' in cancel[2]
    assert refused["error"].encode() in cancel[2]


async def test_a_task_that_is_unknown_to_the_download_of_operators_is_not_found(cluster: Rig) -> None:
    _, operator = await start(cluster)
    path = "/api/v1/tasks/11111111-1111-4111-8111-111111111111/download/all.zip"
    assert (await operator.ask("GET", path))[0] == 404


async def test_a_port_that_is_no_number_is_refused_in_words_on_the_original_path(cluster: Rig) -> None:
    _, operator = await start(cluster)
    answer = await operator.ask("POST", "/r/node/add", json={"hostname": "x", "port": "many"})
    assert answer == (200, {"error": "a port is a number, not 'many'"})
