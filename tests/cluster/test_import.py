# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""nodes.json and routes.json of the original."""

from __future__ import annotations

import json
import uuid as uuid_module
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.core.tasks import Phase
from clusterodm.devnode import DevNode
from tests.support import Api, Rig, eventually


def write(rig: Rig, name: str, content: Any) -> None:
    folder = rig.folder / "data"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


async def test_nodes_are_taken_over_with_token_and_lock(cluster: Rig) -> None:
    await cluster.add_node(token="hush-node")
    port = cluster.ports.pop()
    entries = [
        {"hostname": "127.0.0.1", "port": port, "token": "hush-node"},
        {"hostname": "https://node.example", "port": "8443", "token": None, "locked": True},
    ]
    write(cluster, "nodes.json", entries)
    await cluster.start()
    first, second = cluster.cluster.context.registry.nodes()
    await eventually(lambda: first.online)
    assert (second.address.url, second.record.locked) == ("https://node.example:8443", True)
    assert (cluster.folder / "data" / "nodes.json").exists()


async def running_task(rig: Rig, *tokens: str | None) -> tuple[DevNode, list[str]]:
    """A node with a task for each of these tokens, and the original's files about it."""
    node = await rig.add_node(seconds=0.3, slots=10)
    address = {"hostname": "127.0.0.1", "port": rig.ports.pop(), "token": ""}
    direct = Api(f"http://127.0.0.1:{address['port']}")
    rig.stack.push_async_callback(direct.session.close)
    routes = {}
    for token in tokens:
        uuid = await direct.create(2, name="old task")
        token_field = {} if token is None else {"token": token}  # the original leaves out what it was not given
        routes[uuid] = {"node": address, **token_field, "accessed": 1700000000000}
    write(rig, "nodes.json", [address])
    write(rig, "routes.json", routes)
    return node, list(routes)


def client(rig: Rig, token: str) -> Api:
    api = Api(rig.cluster.url, token)
    rig.stack.push_async_callback(api.session.close)
    return api


def tokens_of(rig: Rig, **owners: str) -> Path:
    path = rig.folder / "tokens.toml"
    path.write_text("".join(f'[{owner}]\ntoken = "{token}"\n' for owner, token in owners.items()))
    return path


async def test_tasks_of_routes_json_are_followed_on_their_nodes(cluster: Rig) -> None:
    node, [uuid] = await running_task(cluster, None)
    path = cluster.folder / "data" / "routes.json"
    routes = json.loads(path.read_text())
    unreachable = str(uuid_module.uuid4())
    path.write_text(json.dumps(routes | {unreachable: routes[uuid], "not-a-uuid": routes[uuid]}))
    api = await cluster.start()
    info = await api.ends(uuid)
    assert (info["name"], info["imagesCount"]) == ("old task", 2)
    assert "does not hold" not in str(info)
    outcome = await api.ends(unreachable, 30)
    assert "its files are not held here" in outcome["status"]["errorMessage"]
    assert await api.get("/task/not-a-uuid/info") == {"error": "not-a-uuid not found"}
    assert node.commits == [uuid]
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2][:2] == b"PK"


async def test_a_task_stays_with_the_owner_of_its_token(cluster: Rig) -> None:
    _, [first, second] = await running_task(cluster, "hush-alice", "hush-bobby")
    file = tokens_of(cluster, alice="hush-alice", bob="hush-bobby")
    alice = await cluster.start(cloud_provider="tokens", tokens_file=file, client_token="hush-alice")
    bob = client(cluster, "hush-bobby")
    assert await alice.get("/task/list") == [{"uuid": first}]
    assert await alice.get(f"/task/{second}/info") == {"error": f"{second} not found"}
    assert (await bob.ends(second))["name"] == "old task"
    assert (await alice.raw("GET", f"/task/{first}/download/all.zip"))[0] == 200
    assert cluster.entry(first).task.owner == "alice"


async def test_a_token_that_nobody_has_yet_gets_its_tasks_when_it_comes(cluster: Rig) -> None:
    _, [uuid] = await running_task(cluster, "hush-alice")
    file = tokens_of(cluster, bob="hush-bobby")
    bob = await cluster.start(cloud_provider="tokens", tokens_file=file, client_token="hush-bobby")
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.FINISHED)
    assert await bob.get("/task/list") == []
    assert await bob.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}
    await cluster.stop()

    file = tokens_of(cluster, bob="hush-bobby", alice="hush-alice")
    alice = await cluster.start(cloud_provider="tokens", tokens_file=file, client_token="hush-alice")
    assert await alice.code(uuid) == 40
    assert await alice.get("/task/list") == [{"uuid": uuid}]
    bob = client(cluster, "hush-bobby")
    assert await bob.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}


@pytest.mark.parametrize("settings", [{}, {"token": "hush-new"}])
async def test_where_everybody_is_one_owner_all_tasks_are_everybodys(cluster: Rig, settings: dict[str, str]) -> None:
    _, uuids = await running_task(cluster, "hush-old", None)
    api = await cluster.start(**settings)
    for uuid in uuids:
        assert (await api.ends(uuid))["name"] == "old task"
    assert {each["uuid"] for each in await api.get("/task/list")} == set(uuids)


async def test_a_task_without_a_token_belongs_to_the_first_who_knows_it(cluster: Rig) -> None:
    _, [uuid] = await running_task(cluster, None)
    file = tokens_of(cluster, alice="hush-alice", bob="hush-bobby")
    alice = await cluster.start(cloud_provider="tokens", tokens_file=file, client_token="hush-alice")
    bob, nobody = client(cluster, "hush-bobby"), client(cluster, "hush-nobody")
    assert await alice.get("/task/list") == []
    assert (await nobody.raw("GET", f"/task/{uuid}/info"))[0] == 401
    assert (await bob.ends(uuid))["name"] == "old task"
    assert await bob.get("/task/list") == [{"uuid": uuid}]
    assert await alice.get(f"/task/{uuid}/info") == {"error": f"{uuid} not found"}


async def test_a_route_to_a_node_that_is_gone_adds_no_node(cluster: Rig) -> None:
    node = {"hostname": "127.0.0.1", "port": "9", "token": ""}
    write(cluster, "nodes.json", [{"hostname": "other", "port": 3000}])
    write(cluster, "routes.json", {str(uuid_module.uuid4()): {"node": node, "token": "", "accessed": 1}})
    api = await cluster.start()
    assert [str(node.address) for node in cluster.cluster.context.registry.nodes()] == ["other:3000"]
    assert await api.get("/task/list") == []


async def test_a_node_on_a_machine_of_the_original_is_taken_in_locked(cluster: Rig) -> None:
    machine = {"name": "clusterodm-1", "created": 1, "maxRuntime": -1, "maxUploadTime": -1}
    write(cluster, "nodes.json", [{"hostname": "n", "port": "3000", "token": "", "dockerMachine": machine}])
    await cluster.start()
    [node] = cluster.cluster.context.registry.nodes()
    assert node.record.locked


async def test_the_same_file_is_imported_once(cluster: Rig) -> None:
    write(cluster, "nodes.json", [{"hostname": "n", "port": 1}])
    write(cluster, "routes.json", {})
    await cluster.start()
    await cluster.stack.aclose()
    await cluster.start()
    assert len(list(cluster.cluster.context.registry.nodes())) == 1


@pytest.mark.parametrize("content", ["{", '[{"hostname": "n"}]', '{"a": 1}'])
async def test_a_file_that_cannot_be_read_stops_the_start(cluster: Rig, content: str) -> None:
    folder = cluster.folder / "data"
    folder.mkdir()
    (folder / "nodes.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be imported"):
        await cluster.start()
    assert (folder / "nodes.json").read_text() == content
