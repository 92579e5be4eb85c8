# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The options that the cluster shows are those of its reference node, as they are now."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from aiohttp import web

from clusterodm.cluster.state import description
from clusterodm.core.backoff import Backoff
from clusterodm.core.nodes import make_address
from tests.support import Rig, eventually

_DSM = {"name": "dsm", "type": "bool", "value": "false", "domain": "bool", "help": "DSM"}


class Engine:
    """A node of which only `/info` and `/options` matter. Like Express it marks its answers, unless told otherwise."""

    def __init__(self, name: str, *, marks: bool = True) -> None:
        self.info = {"version": "2.2.4", "engine": name, "engineVersion": "3.5.5", "maxParallelTasks": 1}
        self.options: list[dict[str, Any]] = [_DSM]
        self.marks = marks
        self.statuses: list[int] = []
        self.fails = False
        self.runner: web.AppRunner | None = None

    async def start(self, rig: Rig) -> int:
        app = web.Application()
        app.add_routes([web.get("/info", self._info), web.get("/options", self._options)])
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        rig.stack.push_async_callback(self.runner.cleanup)
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        port = int(self.runner.addresses[0][1])
        await rig.cluster.context.registry.add(make_address("127.0.0.1", port))
        return port

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _options(self, request: web.Request) -> web.Response:
        answer = web.json_response(self.options)
        if self.fails:
            answer = web.Response(status=500)
        elif self.marks:
            assert isinstance(answer.body, bytes)
            mark = f'W/"{hashlib.sha256(answer.body).hexdigest()[:20]}"'
            answer.headers["ETag"] = mark
            if request.headers.get("If-None-Match") == mark:
                answer = web.Response(status=304)
        self.statuses.append(answer.status)
        return answer


def named(name: str) -> dict[str, Any]:
    return _DSM | {"name": name}


async def shown(cluster: Rig) -> set[str]:
    return {option["name"] for option in await cluster.api.get("/options")}


@pytest.mark.parametrize("marks", [True, False])
async def test_options_that_change_without_the_engine_are_seen_within_a_minute(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch, marks: bool
) -> None:
    assert description._FRESH < 60
    monkeypatch.setattr(description, "_FRESH", 0.05)
    await cluster.start()
    engine = Engine("odm", marks=marks)
    await engine.start(cluster)
    await eventually(lambda: len(engine.statuses) > 3)
    assert await shown(cluster) == {"dsm"}
    assert set(engine.statuses[1:]) == {304 if marks else 200}
    engine.options = [_DSM, named("new-option")]
    await cluster_shows(cluster, {"dsm", "new-option"})
    stored = await cluster.cluster.context.store.value("description")
    assert len(stored["options"]) == 2


async def cluster_shows(cluster: Rig, names: set[str]) -> None:
    async def shows() -> bool:
        return await shown(cluster) == names

    await eventually(shows)


async def test_options_are_those_of_another_engine_as_soon_as_its_node_is_the_reference(cluster: Rig) -> None:
    await cluster.start()
    odm, odx = Engine("odm"), Engine("odx")
    odx.options = [_DSM, named("only-odx")]
    await odm.start(cluster)
    await odx.start(cluster)
    await cluster.ready()
    await cluster_shows(cluster, {"dsm"})
    assert (await cluster.api.get("/info"))["engine"] == "odm"
    assert odm.runner is not None
    await odm.runner.cleanup()
    await cluster_shows(cluster, {"dsm", "only-odx"})
    assert (await cluster.api.get("/info"))["engine"] == "odx"
    assert odm.statuses == odx.statuses == [200]


async def test_options_are_those_of_another_node_of_the_same_engine_when_it_becomes_the_reference(
    cluster: Rig,
) -> None:
    await cluster.start()
    first, second = Engine("odm"), Engine("odm")
    second.options = [named("patched")]
    await first.start(cluster)
    await second.start(cluster)
    await cluster.ready()
    await cluster_shows(cluster, {"dsm"})
    assert first.runner is not None
    await first.runner.cleanup()
    await cluster_shows(cluster, {"patched"})


async def test_a_new_version_of_the_engine_is_asked_for_its_options_at_once(cluster: Rig) -> None:
    await cluster.start()
    engine = Engine("odm")
    await engine.start(cluster)
    await cluster_shows(cluster, {"dsm"})
    engine.options, engine.info["engineVersion"] = [named("newer")], "3.6.0"
    await cluster_shows(cluster, {"newer"})


async def test_a_node_that_does_not_give_its_options_is_asked_less_and_less_and_the_last_known_are_shown(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "_FRESH", 0.0)
    monkeypatch.setattr(description, "_AGAIN", Backoff(first=0.05, longest=1000.0, factor=100.0, jitter=0.0))
    await cluster.start()
    engine = Engine("odm")
    await engine.start(cluster)
    await cluster_shows(cluster, {"dsm"})
    engine.fails = True
    await eventually(lambda: engine.statuses.count(500) == 2)  # the third is to come after five seconds
    monkeypatch.setattr(description, "_FRESH", 1000.0)
    node = cluster.cluster.context.registry.nodes()[0]
    asked_at = node.asked_at
    await eventually(lambda: node.asked_at > asked_at + 0.2)
    assert engine.statuses.count(500) == 2
    assert node.online
    assert await shown(cluster) == {"dsm"}
