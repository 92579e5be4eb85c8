# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an address says of a node is kept, whichever way the node comes in."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from clusterodm.admin.shell import Shell
from clusterodm.commands.node import _add
from clusterodm.core.nodes import NodeAddress
from tests.admin.support import Operator, start
from tests.support import Rig

#: Nobody answers there. Every field differs from its default.
WANTED = NodeAddress(host="127.0.0.1", port=3999, token="hush-t", tls=True, insecure=True)
URL = "https://127.0.0.1:3999/?token=hush-t&insecure=true"
ENTRY = {"hostname": "https://127.0.0.1", "port": 3999, "token": "hush-t", "insecure": True}
UUID = "11111111-1111-4111-8111-111111111111"


async def by_setting(cluster: Rig) -> None:
    await cluster.start(node=[URL])


async def by_file_of_addresses(cluster: Rig) -> None:
    (cluster.folder / "nodes.txt").write_text(URL)
    await cluster.start(nodes_file=cluster.folder / "nodes.txt")


async def by_file_of_json(cluster: Rig) -> None:
    (cluster.folder / "nodes.txt").write_text(json.dumps([ENTRY]))
    await cluster.start(nodes_file=cluster.folder / "nodes.txt")


async def by_name(cluster: Rig) -> None:
    await cluster.start(nodes_dns=URL.replace("127.0.0.1", "localhost"))
    await next(loop.work() for loop in cluster.cluster.loops if loop.name == "discovery")  # type: ignore[call-arg]


async def by_nodes_of_the_original(cluster: Rig) -> None:
    (cluster.folder / "data").mkdir()
    (cluster.folder / "data" / "nodes.json").write_text(json.dumps([ENTRY]))
    await cluster.start()


async def by_nodes_and_then_routes_of_the_original(cluster: Rig) -> None:
    await by_nodes_of_the_original(cluster)
    await cluster.stop()
    route = {"node": {"hostname": "127.0.0.1", "port": 3999, "token": "hush-t"}}
    (cluster.folder / "data" / "routes.json").write_text(json.dumps({UUID: route}))
    await cluster.start()


async def by_api(cluster: Rig) -> None:
    _, operator = await start(cluster)
    body = {"host": "https://127.0.0.1", "port": 3999, "token": "hush-t", "certificate": "any"}
    await operator.order("POST", "nodes", body)


async def by_lease(cluster: Rig) -> None:
    _, operator = await start(cluster, lease_token="hush-lease", admin_pass="hush-admin")
    node = Operator(operator.url)
    cluster.stack.push_async_callback(node.session.close)
    node.session.headers["Authorization"] = "Bearer hush-lease"
    body = {"host": "https://127.0.0.1", "port": 3999, "token": "hush-t", "certificate": "any"}
    await node.order("POST", "leases", body)


async def by_the_original_path(cluster: Rig) -> None:
    _, operator = await start(cluster)
    body = {"hostname": "https://127.0.0.1/?insecure=true", "port": 3999, "token": "hush-t"}
    assert await operator.ask("POST", "/r/node/add", json=body) == (200, {"success": True})


async def by_shell(cluster: Rig) -> None:
    await start(cluster)
    line = "NODE ADD https://127.0.0.1/?token=hush-t&insecure=true 3999"
    assert await Shell(cluster.cluster.context).answer(line) == ["OK"]


async def by_reading_again_what_another_replica_added(cluster: Rig) -> None:
    await by_setting(cluster)
    registry = cluster.cluster.context.registry
    registry._drop(registry.nodes()[0].record.id)
    assert registry.nodes() == []
    await registry.reload()


@pytest.mark.parametrize(
    "way",
    [
        by_setting,
        by_file_of_addresses,
        by_file_of_json,
        by_name,
        by_nodes_of_the_original,
        by_nodes_and_then_routes_of_the_original,
        by_api,
        by_lease,
        by_the_original_path,
        by_shell,
        by_reading_again_what_another_replica_added,
    ],
)
async def test_every_field_of_an_address_is_kept(cluster: Rig, way: Callable[[Rig], Awaitable[None]]) -> None:
    await way(cluster)
    addresses = [node.address for node in cluster.cluster.context.registry.nodes()]
    assert WANTED in addresses
    assert {address.insecure and address.tls and bool(address.token) for address in addresses} == {True}


async def test_the_command_adds_a_node_with_https_at_an_ipv6_address(cluster: Rig) -> None:
    await start(cluster)
    await _add("https://[::1]:3999/?token=hush-t&insecure=true", "", cluster.cluster.admin_url, "", json=True)
    assert [node.address for node in cluster.cluster.context.registry.nodes()] == [
        NodeAddress(host="::1", port=3999, token="hush-t", tls=True, insecure=True)
    ]
