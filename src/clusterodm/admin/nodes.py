# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators do with nodes, each verb once."""

from __future__ import annotations

from clusterodm.admin.views import Done, Lease, NodeView
from clusterodm.cluster.context import Context
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import BadRequest, ConfigError, NodeNotFound
from clusterodm.core.membership import lease_terms
from clusterodm.core.nodes import NodeAddress, Origin, is_loopback, make_address, parse_address
from clusterodm.core.placement import Needs, best, wait_reason


def listing(cluster: Context) -> list[NodeView]:
    """All nodes by number."""
    there = _tasks_by_node(cluster)
    return [_view(cluster, node, number, there) for number, node in enumerate(cluster.registry.nodes(), 1)]


def view(cluster: Context, node: Node) -> NodeView:
    """One node as operators see it."""
    number = 1 + [each.record.id for each in cluster.registry.nodes()].index(node.record.id)
    return _view(cluster, node, number, _tasks_by_node(cluster))


def _tasks_by_node(cluster: Context) -> dict[int, list[str]]:
    there: dict[int, list[str]] = {}
    for task, attempt in cluster.tasks.on_nodes():
        there.setdefault(attempt.node_id, []).append(task.uuid)
    return there


def _view(cluster: Context, node: Node, number: int, there: dict[int, list[str]]) -> NodeView:
    info, record = node.info, node.record
    return NodeView(
        id=record.id,
        number=number,
        name=str(node.address),
        url=node.address.url,
        online=node.online,
        closed=node.closed,
        locked=record.locked,
        draining=record.draining,
        drained=record.id in cluster.drainer.drained,
        origin=record.origin,
        labels=record.labels,
        slots=node.slots,
        used=info.task_queue_count,
        reserved=len(node.reserved),
        max_images=node.max_images,
        engine=info.engine,
        engine_version=info.engine_version,
        api_version=info.version,
        cpu_cores=info.cpu_cores,
        total_memory=info.total_memory,
        available_memory=info.available_memory,
        error=node.error,
        seen_at=node.seen_at,
        set_aside_until=node.set_aside_until if node.set_aside_until > cluster.clock() else 0.0,
        lease_until=record.lease_until,
        ends_at=record.ends_at,
        tasks=there.get(record.id, []),
    )


def by_number(cluster: Context, number: int) -> Node:
    """The node at a place of the list, from 1. Raises NodeNotFound."""
    nodes = cluster.registry.nodes()
    if not 1 <= number <= len(nodes):
        raise NodeNotFound(f"there is no node {number}")
    return nodes[number - 1]


def by_id(cluster: Context, node_id: int) -> Node:
    """A node by its id. Raises NodeNotFound."""
    node = cluster.registry.get(node_id)
    if node is None or node.record.removed:
        raise NodeNotFound(f"there is no node with id {node_id}")
    return node


async def add(cluster: Context, host: str, port: int = 0, token: str = "", *, insecure: bool = False) -> NodeView:
    """Take a node in; one that is known gets the new address and token. Port 0: `host` is a whole address. Raises
    ConfigError."""
    address = _address(host, port, token, insecure=insecure)
    _check_loopback(cluster, address)
    node = await cluster.registry.add(address)
    return view(cluster, node)


def _check_loopback(cluster: Context, address: NodeAddress) -> None:
    """Refuse what may be a node that is here: a program that listens on all of this machine is reached at each address
    of loopback, and would get twice as many tasks as it has slots."""
    if cluster.registry.find(address) is not None or not is_loopback(address.host):
        return
    for node in cluster.registry.nodes():
        if node.address.port == address.port and is_loopback(node.address.host):
            raise ConfigError(f"{address} may be {node.address}, which is here; remove that first")


def _address(host: str, port: int, token: str, *, insecure: bool) -> NodeAddress:
    if port:
        return make_address(host, port, token, insecure=insecure)
    whole = parse_address(host)
    return make_address(
        whole.host, whole.port, token or whole.token, tls=whole.tls, insecure=insecure or whole.insecure
    )


async def remove(cluster: Context, node: Node) -> Done:
    """Take a node out. Its tasks finish there, and its results stay reachable while it is."""
    count = len(view(cluster, node).tasks)
    await cluster.registry.remove(node)
    rest = f"; {count} of its tasks will finish there first" if count else ""
    return Done(text=f"{node.address} is removed{rest}")


async def lock(cluster: Context, node: Node) -> NodeView:
    """Give a node nothing new."""
    await cluster.registry.change(node, locked=True)
    return view(cluster, node)


async def unlock(cluster: Context, node: Node) -> NodeView:
    """Give a node work again, also one that drains or was set aside."""
    cluster.registry.health.pardon(node)
    await cluster.registry.change(node, locked=False, draining=False)
    return view(cluster, node)


async def drain(cluster: Context, node: Node) -> NodeView:
    """Give a node nothing new and bring its results here, so that it can be switched off."""
    await cluster.registry.change(node, draining=True)
    await cluster.drainer.sweep()
    return view(cluster, node)


def update(cluster: Context) -> Done:
    """Ask all nodes at once."""
    nodes = cluster.registry.nodes()
    for node in nodes:
        cluster.registry.look(node)
    return Done(text=f"{len(nodes)} nodes are asked")


def best_for(cluster: Context, images: int) -> NodeView:
    """The node that a task of so many images would go to now. Raises BadRequest that says why there is none."""
    needs, facts, now = Needs(images=images), cluster.registry.facts(), cluster.clock()
    chosen = best(facts, needs, now)
    if chosen is None:
        raise BadRequest(wait_reason(facts, needs, now))
    return view(cluster, by_id(cluster, chosen.id))


async def lease(
    cluster: Context,
    *,
    host: str,
    port: int,
    token: str = "",
    insecure: bool = False,
    labels: dict[str, str] | None = None,
    slots: int = 0,
    ttl: float = 60.0,
    ends_in: float | None = None,
    drain_before: float = 0.0,
) -> Lease:
    """A node registers itself, or renews. It gets nothing new when `ttl` seconds go by without another call, nor in
    the last `drain_before` of the `ends_in` seconds that it has left. A node that others configured keeps its terms:
    who may register nodes may not change those. Raises BadRequest."""
    address = _address(host, port, token, insecure=insecure)
    known = cluster.registry.find(address)
    if known is not None and known.record.origin is not Origin.LEASE:
        raise BadRequest(f"{address} is here already, and not by a lease")
    said = {"labels": labels or {}, "slots": slots, "ttl": ttl, "ends_in": ends_in, "drain_before": drain_before}
    terms = lease_terms(cluster.clock(), said)
    node = await cluster.registry.add(address, **terms)
    return Lease(node=view(cluster, node), ttl=ttl)


async def end_lease(cluster: Context, node: Node) -> Done:
    """A node says goodbye: its tasks finish there, its results are brought here. Raises NodeNotFound for a node that
    is not here by a lease."""
    if node.record.origin is not Origin.LEASE:
        raise NodeNotFound(f"there is no lease with id {node.record.id}")
    return await remove(cluster, node)


def line(node: NodeView) -> str:
    """A node in one line, as the original writes it."""
    state = "online" if node.online else "offline"
    there = (("L", node.locked), ("D", node.draining), ("A", node.origin == "autoscaler"))
    flags = [letter for letter, is_so in there if is_so]
    shown = f" [{','.join(flags)}]" if flags else ""
    slots = f"{node.used}/{node.slots}" if node.seen_at else "?/?"
    engine = f"<engine: {node.engine} {node.engine_version}> <API: {node.api_version}>"
    return f"{node.number}) {node.name} [{state}] [{slots}] {engine}{shown}"
