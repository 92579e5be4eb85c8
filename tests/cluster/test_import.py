# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""nodes.json and routes.json of the original."""

from __future__ import annotations

import json
import uuid as uuid_module
from typing import Any

import pytest

from clusterodm.core.errors import ConfigError
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


async def test_tasks_of_routes_json_are_followed_on_their_nodes(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=0.3)
    port = cluster.ports.pop()
    direct = Api(f"http://127.0.0.1:{port}")
    cluster.stack.push_async_callback(direct.session.close)
    uuid = await direct.create(2, name="old task")
    gone = str(uuid_module.uuid4())
    route = {"node": {"hostname": "127.0.0.1", "port": port, "token": ""}, "token": None, "accessed": 1700000000000}
    write(cluster, "routes.json", {uuid: route, gone: route, "not-a-uuid": route})
    api = await cluster.start()
    info = await api.ends(uuid)
    assert (info["name"], info["imagesCount"]) == ("old task", 2)
    assert "does not hold" not in str(info)
    lost = await api.ends(gone, 30)
    assert "its files are not held here" in lost["status"]["errorMessage"]
    assert await api.get("/task/not-a-uuid/info") == {"error": "not-a-uuid not found"}
    assert node.commits == [uuid]
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2][:2] == b"PK"


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
