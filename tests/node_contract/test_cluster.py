# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole cluster in front of a node: what its clients say arrives there."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.cluster.tasks import prefetch
from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Phase, Task
from clusterodm.nodeodm import NodeClient
from tests.node_contract.client import UUID, Client, options
from tests.node_contract.conftest import Start
from tests.processes import free_port
from tests.support import Rig, eventually, images

OWN = [{"name": name, "value": True} for name in ("pc-ept", "cog", "gltf")]
CREATED = 1_700_000_000_000


@pytest.fixture
async def before(cluster: Rig, node: Client) -> Rig:
    """A cluster that is to be started before the node whose tasks take no time."""
    cluster.ports.append(node.program.port)
    return cluster


async def test_what_a_client_says_of_a_task_is_what_its_node_says_of_it(before: Rig, node: Client) -> None:
    api = await before.start()
    requested = {"dsm": True, "boundary": '{"type": "Polygon"}', "end-with": "odm_dem", "primary-band": "red"}
    uuid = await api.create(
        3,
        name="Čertovy schody",
        options=json.dumps([{"name": name, "value": value} for name, value in requested.items()]),
        skipPostProcessing="true",
        dateCreated=str(CREATED),
    )
    shown = await api.ends(uuid)
    info = await node.info(uuid)
    for body in (shown, info):
        assert (body["name"], body["dateCreated"], body["imagesCount"]) == ("Čertovy schody", CREATED, 3)
        assert {option["name"]: option["value"] for option in body["options"]} == requested


async def test_a_task_is_as_old_on_its_node_as_it_is_there(cluster: Rig, node: Client) -> None:
    """Results are deleted some time after that date: the days that a task waited for its node do not count."""
    api = await cluster.start()
    uuid = await api.create(1)
    committed = (await api.get(f"/task/{uuid}/info"))["dateCreated"]
    await cluster.cluster.context.registry.add(make_address("127.0.0.1", node.program.port))
    assert (await api.ends(uuid))["dateCreated"] == committed
    assert (await node.info(uuid))["dateCreated"] > committed


async def test_a_node_adds_its_own_options_unless_it_is_told_not_to(before: Rig, node: Client) -> None:
    api = await before.start()
    uuid = await api.create(1, options=options(dtm="true"))
    await api.ends(uuid)
    assert (await node.info(uuid))["options"] == [{"name": "dtm", "value": True}, *OWN]


async def test_outputs_decide_what_is_in_the_archive_that_a_client_gets(before: Rig, node: Client) -> None:
    everything = await node.archive(await node.completed())
    output = min(name for name in everything if "/" in name)
    api = await before.start()
    uuid = await api.create(1, outputs=json.dumps([output]))
    await api.ends(uuid)
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    names = {name for name in zipfile.ZipFile(io.BytesIO(content)).namelist() if not name.endswith("/")}
    assert names == await node.archive(uuid) == {output}


async def test_a_discarded_prefetch_leaves_nothing_on_the_node(
    before: Rig, node: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "WORTH", 1)
    api = await before.start()
    await before.ready()
    uuid = await api.init(name="in vain")
    await api.post(f"/task/new/upload/{uuid}", images({"a.jpg": b"a" * 1_000_000}))
    sent = node.program.uploads / uuid
    await eventually((sent / "a.jpg").exists)
    await before.cluster.context.control.remove(before.entry(uuid))
    await eventually(lambda: not sent.exists())


async def test_the_end_of_a_task_is_heard_by_the_nodes_webhook(cluster: Rig, start: Start) -> None:
    node = start("--test-seconds", "1")
    cluster.ports.append(node.program.port)
    port = free_port()
    api = await cluster.start(port=port, public_address=f"http://127.0.0.1:{port}", task_poll_interval=600)
    await api.ends(await api.create(1))


async def test_a_number_among_the_options_arrives_as_one(before: Rig, node: Client) -> None:
    if node.program.kind == "NODEODM":
        pytest.xfail("NodeODM ends with any number among a task's options")
    api = await before.start()
    uuid = await api.create(1, options=options(orthophoto_resolution=2.5, matcher_neighbors="8"))
    await api.ends(uuid)
    values = {option["name"]: option["value"] for option in (await node.info(uuid))["options"]}
    assert (values["orthophoto-resolution"], values["matcher-neighbors"]) == (2.5, 8)


async def test_a_number_where_a_node_wants_text_is_sent_as_text(before: Rig, node: Client) -> None:
    """NodeODM ends with one that is not."""
    api = await before.start()
    uuid = await api.create(1, options=options(primary_band=5))
    await api.ends(uuid)
    assert {"name": "primary-band", "value": "5"} in (await node.info(uuid))["options"]


async def test_every_value_of_an_option_is_sent_as_text() -> None:
    sent: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        sent.append(json.loads(str((await request.post())["options"])))
        return web.json_response({"uuid": UUID, "success": True})

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    options = [{"name": str(value), "value": value} for value in (2.5, 8, True, False, "text", '{"a": 1}')]
    address = make_address("127.0.0.1", runner.addresses[0][1])
    async with aiohttp.ClientSession() as session:
        client = NodeClient(session)
        await client.init(address, Task(uuid=UUID, owner="", phase=Phase.DISPATCHING, options=options), UUID, "")
        await client.restart(address, UUID, options)
    await runner.cleanup()
    texts = ["2.5", "8", "true", "false", "text", '{"a": 1}']
    assert [[option["value"] for option in each] for each in sent] == [texts, texts]
