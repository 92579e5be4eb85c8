# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes, routes and tasks in the shapes of the original, which scripts parse, with keys added and tokens left out."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clusterodm.admin.operations import nodes, tasks
from clusterodm.admin.operations.parameters import MAX_PAGE
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import NodeView
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import NodeNotFound, TaskNotFound
from clusterodm.core.nodes import parse_address
from clusterodm.core.tasks import Attempt, Phase, task_info
from clusterodm.store import TaskFilter

#: Length of a list at most; the original's have all tasks.
LONGEST: Final = MAX_PAGE
#: Phases in which the original has a route for a task.
_ROUTED: Final[list[Phase]] = [phase for phase in Phase if phase not in (Phase.RECEIVING, Phase.REMOVED)]


def node_data(node: Node) -> dict[str, Any]:
    """Return a node with its last answer, by the original's names; times are milliseconds, 0 for an offline node."""
    return {
        "hostname": node.address.host,
        "port": node.address.port,
        "info": node.info if node.seen_at else {},
        "lastRefreshed": round(node.seen_at * 1000) if node.online else 0,
        "locked": node.record.locked,
    }


def node_info(cluster: OperatorPlane, node: Node) -> dict[str, Any]:
    """Return the answer to `NODE INFO`."""
    return node_data(node) | msgspec.structs.asdict(nodes.view(cluster, node))


def node_list(cluster: OperatorPlane) -> list[dict[str, Any]]:
    """Return the answer to `/r/node/list`."""
    return [_listed(node, view) for node, view in zip(cluster.registry.nodes(), nodes.listing(cluster), strict=True)]


def _listed(node: Node, view: NodeView) -> dict[str, Any]:
    by_autoscaler = view.origin == "autoscaler"
    return {
        "name": view.name,
        "isLocked": view.locked,
        "isAutoSpawned": by_autoscaler,
        "isOnline": view.online,
        "getTaskQueueCount": view.used if view.seen_at else "?",
        "getMaxParallelTasks": view.slots if view.seen_at else "?",
        "getEngineInfo": f"{view.engine} {view.engine_version}",
        "getVersion": view.api_version,
        "nodeData": node_data(node),
        "number": view.number,
        "hostname": node.address.host,
        "port": node.address.port,
        "taskQueueCount": view.used,
        "maxParallelTasks": view.slots,
        "maxImages": view.max_images,
        "engine": view.engine,
        "engineVersion": view.engine_version,
        "apiVersion": view.api_version,
        "version": view.api_version,
        "flags": "".join(letter for letter, is_set in (("L", view.locked), ("A", by_autoscaler)) if is_set),
    }


async def routes(cluster: OperatorPlane, *, number: int | None = None) -> dict[str, Any]:
    """Return the answer to `ROUTE LIST`: the latest tasks that were sent to any node, or to this one."""
    return {
        entry.task.uuid: _route(cluster, entry.attempt)
        for entry in await _latest(cluster, number)
        if entry.attempt is not None
    }


def route(cluster: OperatorPlane, entry: Entry) -> dict[str, Any]:
    """Return the answer to `ROUTE INFO`. Raises TaskNotFound for a task that was sent to no node yet."""
    if entry.attempt is None:
        raise TaskNotFound("the task has no node yet")
    return _route(cluster, entry.attempt)


def _route(cluster: OperatorPlane, attempt: Attempt) -> dict[str, Any]:
    node = cluster.registry.get(attempt.node_id)
    address = node.address if node is not None else parse_address(attempt.node_name)
    return {
        "node": {
            "hostname": address.host,
            "port": address.port,
            "locked": node is not None and node.record.locked,
        },
        "accessed": round(max(attempt.started_at, attempt.ended_at) * 1000),
        "nodeUuid": attempt.node_uuid,
        "attempt": attempt.number,
    }


async def task_list(cluster: OperatorPlane, *, number: int | None = None) -> list[dict[str, Any]]:
    """Return the answer to `TASK LIST`: the latest tasks, of all nodes or this one, as their clients see them."""
    return [
        task_info(entry.task)
        | {"phase": entry.task.phase, "node": entry.attempt.node_name if entry.attempt is not None else ""}
        for entry in await _latest(cluster, number)
    ]


async def task_details(cluster: OperatorPlane, entry: Entry) -> dict[str, Any]:
    """Return the answer to `TASK INFO`. No key is `error`, by which the original tells that the command failed."""
    shown = msgspec.structs.asdict((await tasks.show(cluster, entry)).task)
    del shown["error"]
    return task_info(entry.task) | {key: value for key, value in shown.items() if key not in ("status", "progress")}


async def _latest(cluster: OperatorPlane, number: int | None) -> list[Entry]:
    node_id = nodes.by_number(cluster, number).record.id if number is not None else None
    return await tasks.latest(cluster, TaskFilter(phases=_ROUTED, node_id=node_id), limit=LONGEST)


def by_number(cluster: OperatorPlane, number: Any) -> Node | None:
    """Return the node of a body's `number`; None if there is none."""
    try:
        return nodes.by_number(cluster, int(number))
    except (NodeNotFound, ValueError):
        return None
