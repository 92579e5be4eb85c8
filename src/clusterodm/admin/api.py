# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`/api/v1`: one table of routes, from which requests are checked, answers encoded and the OpenAPI document made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

import msgspec

from clusterodm.admin import figures, machines, nodes, tasks, uploads
from clusterodm.admin.views import (
    Charts,
    ClusterStatus,
    CostView,
    Done,
    EventView,
    History,
    Lease,
    MachineDetail,
    MachinePlan,
    MachineView,
    NodeView,
    SettingView,
    TaskDetail,
    TaskPage,
    TaskView,
    UploadPage,
    View,
    Why,
)
from clusterodm.cluster.context import Context

_IPV6: Final = "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
_NAME: Final = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?"
_AFTER: Final = r"(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?"
_HOST: Final = rf"^(https?://)?{_NAME}{_AFTER}$|^{_IPV6}$|^https?://\[{_IPV6}\]{_AFTER}$"
_STATE: Final = f"({'|'.join(tasks.STATES)})"
_STATES: Final = f"^({_STATE}(,{_STATE})*)?$"

Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3e7)]
Label = Annotated[str, msgspec.Meta(max_length=200)]


class Nothing(View):
    """No parameters."""


class NodeId(View):
    """Parameters of a path."""

    id: Number


class MachineId(View):
    """Parameters of a path: an id, or its end when that is unique."""

    machine: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]{4,100}$")]


class Month(View):
    """Which costs."""

    #: As 2026-11; empty: this month.
    month: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{4}-[0-9]{2})?$")] = ""
    by: Literal["owner", "task", "machine"] = "owner"


class TaskId(View):
    """Parameters of a path: a uuid, or its beginning when that is unique."""

    uuid: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F-]{4,36}$")]


class NewNode(View):
    """A node to take in."""

    #: A name or an address, or a whole `http://host:port`; `https://` in front for a node that speaks TLS.
    host: Annotated[str, msgspec.Meta(pattern=_HOST, max_length=300)]
    #: 0: it stands in `host`, or is the usual one.
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    token: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    #: Which certificate it may show, where it speaks TLS.
    certificate: Literal["verified", "any"] = "verified"


class NewLease(NewNode):
    """A node that registers itself, or renews. Durations are seconds."""

    labels: Annotated[dict[Label, Label], msgspec.Meta(max_length=50)] = msgspec.field(default_factory=dict)
    #: Tasks at a time; 0: as many as it says itself.
    slots: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    ttl: Annotated[float, msgspec.Meta(ge=5, le=86400)] = 60.0
    #: When it will be switched off, if that is known.
    ends_in: Annotated[float, msgspec.Meta(ge=0, le=3e7)] | None = None
    #: It gets nothing new so long before its end.
    drain_before: Annotated[float, msgspec.Meta(ge=0, le=3e7)] = 0.0


class Images(View):
    """How many images a task has."""

    images: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]


class TaskQuery(View):
    """Which tasks, and which page of them."""

    #: Phases and outcomes, separated by commas; empty: all.
    state: Annotated[str, msgspec.Meta(pattern=_STATES)] = ""
    owner: Annotated[str, msgspec.Meta(max_length=200)] = ""
    #: The beginning of a uuid, or a part of a name.
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=tasks.MAX_PAGE)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0


class Page(View):
    """Which page."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=uploads.MAX_PAGE)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0


class ConsoleLines(View):
    """Console lines from this number on; negative: the last ones."""

    line: Annotated[int, msgspec.Meta(ge=-(10**9), le=10**9)] = 0


class Priority(View):
    """Higher goes first; 0 is usual."""

    priority: Annotated[int, msgspec.Meta(ge=tasks.LOWEST, le=tasks.HIGHEST)]


class Span(View):
    """How far to look back."""

    hours: Annotated[float, msgspec.Meta(gt=0, le=24 * 31)] = 24.0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `run(cluster, path, query, body)` gets what was checked against the three types."""

    method: str
    path: str
    summary: str
    answer: Any
    run: Callable[[Context, Any, Any, Any], Awaitable[Any]]
    path_type: type[View] = Nothing
    query_type: type[View] = Nothing
    body_type: type[View] | None = None


async def _status(cluster: Context, path: Nothing, query: Nothing, body: None) -> ClusterStatus:
    return await figures.status(cluster)


async def _nodes(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[NodeView]:
    return nodes.listing(cluster)


async def _add_node(cluster: Context, path: Nothing, query: Nothing, body: NewNode) -> NodeView:
    return await nodes.add(cluster, body.host, body.port, body.token, insecure=body.certificate == "any")


async def _node(cluster: Context, path: NodeId, query: Nothing, body: None) -> NodeView:
    return nodes.view(cluster, nodes.by_id(cluster, path.id))


async def _remove_node(cluster: Context, path: NodeId, query: Nothing, body: None) -> Done:
    return await nodes.remove(cluster, nodes.by_id(cluster, path.id))


async def _lock(cluster: Context, path: NodeId, query: Nothing, body: None) -> NodeView:
    return await nodes.lock(cluster, nodes.by_id(cluster, path.id))


async def _unlock(cluster: Context, path: NodeId, query: Nothing, body: None) -> NodeView:
    return await nodes.unlock(cluster, nodes.by_id(cluster, path.id))


async def _drain(cluster: Context, path: NodeId, query: Nothing, body: None) -> NodeView:
    return await nodes.drain(cluster, nodes.by_id(cluster, path.id))


async def _update(cluster: Context, path: Nothing, query: Nothing, body: None) -> Done:
    return nodes.update(cluster)


async def _best(cluster: Context, path: Nothing, query: Images, body: None) -> NodeView:
    return nodes.best_for(cluster, query.images)


async def _lease(cluster: Context, path: Nothing, query: Nothing, body: NewLease) -> Lease:
    terms = msgspec.structs.asdict(body)
    return await nodes.lease(cluster, insecure=terms.pop("certificate") == "any", **terms)


async def _end_lease(cluster: Context, path: NodeId, query: Nothing, body: None) -> Done:
    return await nodes.end_lease(cluster, nodes.by_id(cluster, path.id))


async def _machines(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[MachineView]:
    return machines.listing(cluster)


async def _machines_gone(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[MachineView]:
    return await machines.gone(cluster)


async def _machine_plan(cluster: Context, path: Nothing, query: Images, body: None) -> MachinePlan:
    return machines.plan_for(cluster, query.images)


async def _machine_costs(cluster: Context, path: Nothing, query: Month, body: None) -> list[CostView]:
    return await machines.costs(cluster, query.month, query.by)


async def _machine(cluster: Context, path: MachineId, query: Nothing, body: None) -> MachineDetail:
    return await machines.show(cluster, path.machine)


async def _keep(cluster: Context, path: MachineId, query: Nothing, body: None) -> Done:
    return await machines.keep(cluster, machines.find(cluster, path.machine))


async def _release(cluster: Context, path: MachineId, query: Nothing, body: None) -> Done:
    return await machines.release(cluster, machines.find(cluster, path.machine))


async def _delete_machine(cluster: Context, path: MachineId, query: Nothing, body: None) -> Done:
    return await machines.delete(cluster, machines.find(cluster, path.machine))


async def _tasks(cluster: Context, path: Nothing, query: TaskQuery, body: None) -> TaskPage:
    states = [state for state in query.state.split(",") if state]
    wanted = tasks.filter_of(states, owner=query.owner, text=query.text)
    return await tasks.page(cluster, wanted, limit=query.limit, offset=query.offset)


async def _queue(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[TaskView]:
    return await tasks.queue(cluster)


async def _active(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[TaskView]:
    return await tasks.active(cluster)


async def _task(cluster: Context, path: TaskId, query: Nothing, body: None) -> TaskDetail:
    return await tasks.show(cluster, await tasks.find(cluster, path.uuid))


async def _timeline(cluster: Context, path: TaskId, query: Nothing, body: None) -> list[EventView]:
    return await tasks.timeline(cluster, await tasks.find(cluster, path.uuid))


async def _output(cluster: Context, path: TaskId, query: ConsoleLines, body: None) -> list[str]:
    return await tasks.output(cluster, await tasks.find(cluster, path.uuid), query.line)


async def _why(cluster: Context, path: TaskId, query: Nothing, body: None) -> Why:
    return await tasks.why(cluster, await tasks.find(cluster, path.uuid))


async def _cancel(cluster: Context, path: TaskId, query: Nothing, body: None) -> Done:
    return await tasks.cancel(cluster, await tasks.find(cluster, path.uuid))


async def _retry(cluster: Context, path: TaskId, query: Nothing, body: None) -> Done:
    return await tasks.retry(cluster, await tasks.find(cluster, path.uuid))


async def _remove_task(cluster: Context, path: TaskId, query: Nothing, body: None) -> Done:
    return await tasks.remove(cluster, await tasks.find(cluster, path.uuid))


async def _prioritize(cluster: Context, path: TaskId, query: Nothing, body: Priority) -> Done:
    return await tasks.prioritize(cluster, await tasks.find(cluster, path.uuid), body.priority)


async def _uploads(cluster: Context, path: Nothing, query: Page, body: None) -> UploadPage:
    return uploads.page(cluster, limit=query.limit, offset=query.offset)


async def _drop_upload(cluster: Context, path: TaskId, query: Nothing, body: None) -> Done:
    return await uploads.drop(cluster, path.uuid)


async def _history(cluster: Context, path: Nothing, query: Span, body: None) -> History:
    return await figures.history(cluster, query.hours)


async def _charts(cluster: Context, path: Nothing, query: Nothing, body: None) -> Charts:
    return await figures.charts(cluster)


async def _settings(cluster: Context, path: Nothing, query: Nothing, body: None) -> list[SettingView]:
    return figures.settings(cluster)


def _route(method: str, path: str, summary: str, answer: Any, run: Any, **types: Any) -> Route:
    if "{id}" in path:
        types["path_type"] = NodeId
    if "{machine}" in path:
        types["path_type"] = MachineId
    if "{uuid}" in path:
        types["path_type"] = TaskId
    return Route(method=method, path=f"/api/v1{path}", summary=summary, answer=answer, run=run, **types)


ROUTES: Final = (
    _route("GET", "/status", "The cluster at a glance.", ClusterStatus, _status),
    _route("GET", "/nodes", "All nodes.", list[NodeView], _nodes),
    _route("POST", "/nodes", "Take a node in.", NodeView, _add_node, body_type=NewNode),
    _route("POST", "/nodes/update", "Ask all nodes at once.", Done, _update),
    _route("GET", "/nodes/best", "The node that a task would go to.", NodeView, _best, query_type=Images),
    _route("GET", "/nodes/{id}", "One node.", NodeView, _node),
    _route("DELETE", "/nodes/{id}", "Take a node out; its tasks finish there.", Done, _remove_node),
    _route("POST", "/nodes/{id}/lock", "Give a node nothing new.", NodeView, _lock),
    _route("POST", "/nodes/{id}/unlock", "Give a node work again, also one that was set aside.", NodeView, _unlock),
    _route("POST", "/nodes/{id}/drain", "Empty a node, so that it can be switched off.", NodeView, _drain),
    _route("POST", "/leases", "A node registers itself, or renews.", Lease, _lease, body_type=NewLease),
    _route("DELETE", "/leases/{id}", "A node says goodbye.", Done, _end_lease),
    _route("GET", "/machines", "Machines that are not gone.", list[MachineView], _machines),
    _route("GET", "/machines/gone", "The last machines that are gone.", list[MachineView], _machines_gone),
    _route("GET", "/machines/plan", "What would be created for a task.", MachinePlan, _machine_plan, query_type=Images),
    _route("GET", "/machines/costs", "What machines have cost.", list[CostView], _machine_costs, query_type=Month),
    _route("GET", "/machines/{machine}", "One machine with its history.", MachineDetail, _machine),
    _route("POST", "/machines/{machine}/keep", "Have a machine stay though it is idle.", Done, _keep),
    _route("POST", "/machines/{machine}/release", "Let a machine go again when it is idle.", Done, _release),
    _route(
        "POST", "/machines/{machine}/delete", "Delete a machine now; its tasks go elsewhere.", Done, _delete_machine
    ),
    _route("GET", "/tasks", "A page of tasks, latest commit first.", TaskPage, _tasks, query_type=TaskQuery),
    _route("GET", "/tasks/active", "Tasks that are received, sent, run or are collected.", list[TaskView], _active),
    _route("GET", "/queue", "Tasks that wait, next first.", list[TaskView], _queue),
    _route("GET", "/tasks/{uuid}", "One task with all that is known of it.", TaskDetail, _task),
    _route("GET", "/tasks/{uuid}/timeline", "What happened to a task.", list[EventView], _timeline),
    _route("GET", "/tasks/{uuid}/output", "Console lines.", list[str], _output, query_type=ConsoleLines),
    _route("GET", "/tasks/{uuid}/why", "Why a task is as it is.", Why, _why),
    _route("POST", "/tasks/{uuid}/cancel", "Cancel a task.", Done, _cancel),
    _route("POST", "/tasks/{uuid}/retry", "Begin a task again, or give it to another node.", Done, _retry),
    _route("POST", "/tasks/{uuid}/priority", "Give a task another priority.", Done, _prioritize, body_type=Priority),
    _route("DELETE", "/tasks/{uuid}", "Remove a task with its files.", Done, _remove_task),
    _route("GET", "/uploads", "A page of uploads, longest idle first.", UploadPage, _uploads, query_type=Page),
    _route("DELETE", "/uploads/{uuid}", "Drop an upload that is not committed.", Done, _drop_upload),
    _route("GET", "/history", "What each node did.", History, _history, query_type=Span),
    _route("GET", "/charts", "Figures of the last day by the hour.", Charts, _charts),
    _route("GET", "/settings", "All settings; secrets are masked.", list[SettingView], _settings),
)
