# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that come and go by themselves, and nodes that are to be switched off."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusterodm.core.nodes import NodeAddress, Origin, parse_address
from tests.admin.support import Operator, start
from tests.support import Rig, eventually


def names(rig: Rig) -> list[str]:
    return [str(node.address) for node in rig.cluster.context.registry.nodes()]


async def sweep(rig: Rig) -> None:
    """Look at the lists now; the loop does it every two seconds."""
    await discovery(rig).sweep()


def discovery(rig: Rig) -> Any:
    """What the loop calls."""
    return next(loop.work.__self__ for loop in rig.cluster.loops if loop.name == "discovery")  # type: ignore[union-attr]


async def test_a_watched_file_adds_and_removes_its_nodes_and_no_others(cluster: Rig) -> None:
    await cluster.add_node()
    file = cluster.folder / "nodes.txt"
    file.write_text("# our nodes\nfirst.example:3001   # the large one\nhttps://second.example/?token=hush-x\n")
    await cluster.start(nodes_file=file)
    own = f"127.0.0.1:{cluster.ports[0]}"
    assert names(cluster) == [own, "first.example:3001", "second.example:443"]
    file.write_text(json.dumps([{"hostname": "second.example", "port": 443, "token": "hush-y"}]))
    await sweep(cluster)
    assert names(cluster) == [own, "second.example:443"]
    second = cluster.cluster.context.registry.nodes()[1]
    assert (second.address.token, second.record.origin) == ("hush-y", Origin.FILE)


@pytest.mark.parametrize("content", ["[{", '[{"hostname": "x"}]', "bad host:1\n", "a:99999\n", "\udcff"])
async def test_a_file_that_cannot_be_understood_changes_nothing(cluster: Rig, content: str) -> None:
    file = cluster.folder / "nodes.txt"
    file.write_text("first.example:3001\n")
    await cluster.start(nodes_file=file)
    file.write_bytes(content.encode(errors="surrogateescape"))
    await sweep(cluster)
    assert names(cluster) == ["first.example:3001"]
    file.unlink()
    await sweep(cluster)
    assert names(cluster) == ["first.example:3001"]


async def test_every_address_of_a_name_is_a_node_and_flickering_removes_none(cluster: Rig, monkeypatch: Any) -> None:
    await cluster.start(nodes_dns="localhost:3999")
    await sweep(cluster)
    assert "127.0.0.1:3999" in names(cluster)
    monkeypatch.setattr(discovery(cluster), "_name", NodeAddress(host="ip6-nothing.invalid", port=3999))
    await sweep(cluster)
    assert "127.0.0.1:3999" in names(cluster)
    monkeypatch.setattr(discovery(cluster), "_name", NodeAddress(host="127.0.0.2", port=3999))
    for _ in range(2):
        await sweep(cluster)
        assert {"127.0.0.1:3999", "127.0.0.2:3999"} <= set(names(cluster))
    await sweep(cluster)
    assert names(cluster) == ["127.0.0.2:3999"]


async def test_a_node_registers_itself_renews_and_is_shown_no_more_when_it_stops(cluster: Rig) -> None:
    await cluster.add_node(slots=4)
    port = cluster.ports.pop()
    api, operator = await start(cluster, lease_token="hush-lease", admin_pass="hush-admin")
    node = Operator(operator.url)
    cluster.stack.push_async_callback(node.session.close)
    node.session.headers["Authorization"] = "Bearer hush-lease"
    terms = {"host": "127.0.0.1", "port": port, "slots": 2, "ttl": 30, "labels": {"partition": "gpu"}}
    status, lease = await node.ask("POST", "/api/v1/leases", json=terms)
    assert (status, lease["ttl"], lease["node"]["labels"]) == (200, 30, {"partition": "gpu"})
    assert (await node.ask("GET", "/api/v1/nodes"))[0] == 401
    await cluster.ready()
    assert (await operator.get("nodes"))[0]["slots"] == 2
    uuid = await api.create()
    await api.ends(uuid)
    clock = cluster.cluster.context.clock
    registry = cluster.cluster.context.registry
    await registry.change(registry.nodes()[0], lease_until=clock() - 1)
    assert (await operator.get("nodes"))[0]["closed"] == "without a lease"
    assert (await node.ask("POST", "/api/v1/leases", json=terms))[1]["node"]["closed"] == ""
    await registry.change(registry.nodes()[0], lease_until=clock() - 1000)
    await sweep(cluster)
    assert names(cluster) == []
    await node.ask("POST", "/api/v1/leases", json=terms)
    assert (await node.ask("DELETE", f"/api/v1/leases/{lease['node']['id']}"))[0] == 200
    assert names(cluster) == []


async def test_who_may_register_nodes_may_not_touch_those_of_others(cluster: Rig) -> None:
    await cluster.add_node()
    _, operator = await start(cluster)
    [configured] = await operator.get("nodes")
    terms = {"host": "127.0.0.1", "port": cluster.ports[0], "token": "hush-other"}
    status, answer = await operator.ask("POST", "/api/v1/leases", json=terms)
    assert status == 409
    assert answer["error"] == f"127.0.0.1:{cluster.ports[0]} is a configured node, not one with a lease"
    assert (await operator.ask("DELETE", f"/api/v1/leases/{configured['id']}"))[0] == 404
    assert cluster.cluster.context.registry.nodes()[0].address.token == ""


async def test_a_node_that_ends_soon_is_drained_and_its_results_are_collected(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.2)
    port = cluster.ports.pop()
    api, operator = await start(cluster)
    terms = {"host": "127.0.0.1", "port": port, "ends_in": 3600, "drain_before": 60}
    lease = await operator.order("POST", "leases", terms)
    await cluster.ready()
    uuid = await api.create()
    await api.ends(uuid)
    assert cluster.cluster.context.results.archive(uuid) is None
    renewed = await operator.order("POST", "leases", terms | {"ends_in": 50})
    assert (renewed["node"]["id"], renewed["node"]["closed"]) == (lease["node"]["id"], "about to end")
    await cluster.cluster.context.drainer.sweep()
    assert cluster.cluster.context.results.archive(uuid) is not None
    assert (await operator.get("nodes"))[0]["drained"] is True
    await cluster.stop_node(0)
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2][:2] == b"PK"


async def test_a_removed_node_finishes_what_it_has_and_keeps_its_results_reachable(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=0.5)
    api, operator = await start(cluster)
    await cluster.ready()
    uuid, waiting = await api.create(), await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase == "running")
    shown = (await operator.get("nodes"))[0]
    assert "1 running task will finish there" in (await operator.order("DELETE", f"nodes/{shown['id']}"))["text"]
    assert await operator.get("nodes") == []
    await api.ends(uuid)
    assert node.commits == [uuid]
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2][:2] == b"PK"
    assert await api.code(waiting) == 10
    await eventually(lambda: cluster.entry(waiting).wait == "no node is configured")
    await operator.order("POST", "nodes", {"host": "127.0.0.1", "port": cluster.ports[0]})
    await api.ends(waiting)


async def test_one_node_written_in_two_ways_is_one_node_and_goes_on(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=0)
    port = cluster.ports[0]
    api = await cluster.start()
    registry = cluster.cluster.context.registry
    first = registry.nodes()[0].record.id
    for text in (f"localhost:{port}", f"http://LOCALHOST.:{port}", f"127.0.0.1:{port}"):
        added = await registry.add(parse_address(text))
        assert added.record.id == first
        assert [str(registered.address) for registered in registry.nodes()] == [str(parse_address(text))]
    uuid = await api.create()
    await api.ends(uuid)
    assert node.commits == [uuid]
    await cluster.stop()
    await cluster.start(node=[f"localhost:{port}", f"127.0.0.1:{port}"])
    assert [registered.record.id for registered in cluster.cluster.context.registry.nodes()] == [first]
