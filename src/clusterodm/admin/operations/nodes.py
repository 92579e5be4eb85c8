# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations on nodes."""

from __future__ import annotations

from clusterodm.admin.operations.parameters import Certificate
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import Done, Lease, NodeView
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import BadRequest, ConfigError, NodeNotFound
from clusterodm.core.membership import lease_terms
from clusterodm.core.nodes import NodeAddress, Origin, is_loopback, make_address, parse_address
from clusterodm.core.placement import Needs, best, wait_reason


def listing(cluster: OperatorPlane) -> list[NodeView]:
    """List all nodes."""
    tasks = _tasks_by_node(cluster)
    return [_view(cluster, node, number, tasks) for number, node in enumerate(cluster.registry.nodes(), 1)]


def view(cluster: OperatorPlane, node: Node) -> NodeView:
    """Show a node."""
    number = 1 + [each.record.id for each in cluster.registry.nodes()].index(node.record.id)
    return _view(cluster, node, number, _tasks_by_node(cluster))


def _tasks_by_node(cluster: OperatorPlane) -> dict[int, list[str]]:
    tasks: dict[int, list[str]] = {}
    for task, attempt in cluster.tasks.on_nodes():
        tasks.setdefault(attempt.node_id, []).append(task.uuid)
    return tasks


def _view(cluster: OperatorPlane, node: Node, number: int, tasks: dict[int, list[str]]) -> NodeView:
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
        tasks=tasks.get(record.id, []),
    )


def by_number(cluster: OperatorPlane, number: int) -> Node:
    """Return the node at a place in the list, from 1. Raises NodeNotFound."""
    nodes = cluster.registry.nodes()
    if not 1 <= number <= len(nodes):
        raise NodeNotFound(f"there is no node {number}")
    return nodes[number - 1]


def by_id(cluster: OperatorPlane, node_id: int) -> Node:
    """Return a node by its id. Raises NodeNotFound."""
    node = cluster.registry.get(node_id)
    if node is None or node.record.removed:
        raise NodeNotFound(f"there is no node with id {node_id}")
    return node


async def add(
    cluster: OperatorPlane, *, host: str, port: int = 0, token: str = "", certificate: Certificate = "verified"
) -> NodeView:
    """Add a node; a known one gets the new address and token. Port 0: `host` is a whole address. Raises
    ConfigError."""
    address = _address(host, port, token, certificate)
    _check_loopback(cluster, address)
    node = await cluster.registry.add(address)
    return view(cluster, node)


def _check_loopback(cluster: OperatorPlane, address: NodeAddress) -> None:
    """Refuse an address that may be another one's node: a server that listens on all interfaces is reached at each
    loopback address, and would get twice as many tasks as it has slots."""
    if cluster.registry.find(address) is not None or not is_loopback(address.host):
        return
    for node in cluster.registry.nodes():
        if node.address.port == address.port and is_loopback(node.address.host):
            raise ConfigError(f"{address} may be the same node as {node.address}; remove that first")


def _address(host: str, port: int, token: str, certificate: Certificate) -> NodeAddress:
    insecure = certificate == "any"
    if port:
        return make_address(host, port, token, insecure=insecure)
    whole = parse_address(host)
    return make_address(
        whole.host, whole.port, token or whole.token, tls=whole.tls, insecure=insecure or whole.insecure
    )


async def remove(cluster: OperatorPlane, node: Node) -> Done:
    """Remove a node. Its running tasks finish there, and its results stay available as long as it is reachable."""
    count = len(view(cluster, node).tasks)
    await cluster.registry.remove(node)
    text, tasks = f"{node.address} removed", f"{count} running {'task' if count == 1 else 'tasks'}"
    if count and node.online:
        text += f"; {tasks} will finish there"
    elif count:
        text += (
            f"; it does not answer, and {tasks} will move once it counts as lost (`task retry` moves a task at once)"
        )
    return Done(text=text)


async def lock(cluster: OperatorPlane, node: Node) -> NodeView:
    """Lock a node: it accepts no new tasks."""
    await cluster.registry.change(node, locked=True)
    return view(cluster, node)


async def unlock(cluster: OperatorPlane, node: Node) -> NodeView:
    """Let a node accept tasks again, also one that is draining or set aside."""
    cluster.registry.health.pardon(node)
    await cluster.registry.change(node, locked=False, draining=False)
    return view(cluster, node)


async def drain(cluster: OperatorPlane, node: Node) -> NodeView:
    """Stop giving tasks to a node and fetch its results, so that it can be switched off."""
    await cluster.registry.change(node, draining=True)
    await cluster.drainer.sweep()
    return view(cluster, node)


def update(cluster: OperatorPlane) -> Done:
    """Poll all nodes now."""
    nodes = cluster.registry.nodes()
    for node in nodes:
        cluster.registry.look(node)
    return Done(text=f"polling {len(nodes)} nodes")


def best_for(cluster: OperatorPlane, images: int) -> NodeView:
    """Find the node that a task with this many images would go to now. Raises BadRequest with the reason if there is
    none."""
    needs, facts, now = Needs(images=images), cluster.registry.facts(), cluster.clock()
    chosen = best(facts, needs, now)
    if chosen is None:
        raise BadRequest(wait_reason(facts, needs, now))
    return view(cluster, by_id(cluster, chosen.id))


async def lease(
    cluster: OperatorPlane,
    *,
    host: str,
    port: int,
    token: str = "",
    certificate: Certificate = "verified",
    labels: dict[str, str] | None = None,
    slots: int = 0,
    ttl: float = 60.0,
    ends_in: float | None = None,
    drain_before: float = 0.0,
) -> Lease:
    """Register a node by itself, or renew its lease. It accepts no new tasks once `ttl` seconds pass without another
    call, nor in the last `drain_before` of the `ends_in` seconds that it has left. A node that was configured otherwise
    keeps its terms: the right to register nodes does not include changing those. Raises BadRequest."""
    address = _address(host, port, token, certificate)
    existing = cluster.registry.find(address)
    if existing is not None and existing.record.origin is not Origin.LEASE:
        raise BadRequest(f"{address} is a configured node, not one with a lease")
    terms = {"labels": labels or {}, "slots": slots, "ttl": ttl, "ends_in": ends_in, "drain_before": drain_before}
    node = await cluster.registry.add(address, **lease_terms(cluster.clock(), terms))
    return Lease(node=view(cluster, node), ttl=ttl)


async def end_lease(cluster: OperatorPlane, node: Node) -> Done:
    """End the lease of a node: its running tasks finish there, and its results are fetched. Raises NodeNotFound for a
    node without a lease."""
    if node.record.origin is not Origin.LEASE:
        raise NodeNotFound(f"there is no lease with id {node.record.id}")
    return await remove(cluster, node)


def line(node: NodeView) -> str:
    """Return a node as one line, in the format of the original."""
    state = "online" if node.online else "offline"
    letters = (("L", node.locked), ("D", node.draining), ("A", node.origin == "autoscaler"))
    flags = [letter for letter, is_set in letters if is_set]
    shown = f" [{','.join(flags)}]" if flags else ""
    slots = f"{node.used}/{node.slots}" if node.seen_at else "?/?"
    engine = f"<engine: {node.engine} {node.engine_version}> <API: {node.api_version}>"
    return f"{node.number}) {node.name} [{state}] [{slots}] {engine}{shown}"
