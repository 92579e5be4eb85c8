# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The table of operations, from which the API, its OpenAPI document, the shell, HELP and the commands are made.

A new operation is one row here and one function in the module that its name begins with.
"""

from __future__ import annotations

from typing import Any, Final

from clusterodm.admin.operations.operation import Operation, Verb
from clusterodm.admin.operations.parameters import (
    AnyMachineId,
    ConsoleLines,
    Images,
    MachineId,
    Month,
    NewLease,
    NewNode,
    NodeId,
    NodeNumber,
    Page,
    Priority,
    Span,
    TaskId,
    TaskQuery,
    UploadId,
)
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
    Why,
)

_JSON = dict[str, Any]

_CLUSTER: Final = (
    Operation(
        name="figures.status",
        summary="Show the state of the cluster.",
        result=ClusterStatus,
        route="GET /status",
        command="status",
    ),
    Operation(
        name="figures.history",
        summary="Show the attempts on each node.",
        result=History,
        parameters=Span,
        route="GET /history",
    ),
    Operation(
        name="figures.charts", summary="Show hourly figures of the last 24 hours.", result=Charts, route="GET /charts"
    ),
    Operation(
        name="figures.settings",
        summary="List all settings; secrets are masked.",
        result=list[SettingView],
        route="GET /settings",
    ),
)

_NODES: Final = (
    Operation(
        name="nodes.add",
        summary="Add a node, or change the address and token of a known one.",
        result=NodeView,
        parameters=NewNode,
        route="POST /nodes",
        verb=Verb("NODE ADD", "<host> <port> [token]", "Add a node; a URL can replace host and port"),
        command="node add",
    ),
    Operation(
        name="nodes.remove",
        summary="Remove a node; its running tasks finish there.",
        result=Done,
        subject=NodeId,
        route="DELETE /nodes/{id}",
        verb=Verb("NODE DEL", "<number>"),
        command="node remove",
    ),
    Operation(name="nodes.view", summary="Show a node.", result=NodeView, subject=NodeId, route="GET /nodes/{id}"),
    Operation(
        name="original.node_info",
        summary="Show everything known about a node.",
        result=_JSON,
        subject=NodeId,
        verb=Verb("NODE INFO", "<number>", unknown="INVALID"),
    ),
    Operation(
        name="nodes.listing",
        summary="List all nodes.",
        result=list[NodeView],
        route="GET /nodes",
        verb=Verb("NODE LIST"),
        command="node list",
    ),
    Operation(
        name="nodes.lock",
        summary="Lock a node: it accepts no new tasks.",
        result=NodeView,
        subject=NodeId,
        route="POST /nodes/{id}/lock",
        verb=Verb("NODE LOCK", "<number>"),
        command="node lock",
    ),
    Operation(
        name="nodes.unlock",
        summary="Unlock a node; also ends draining and being set aside.",
        result=NodeView,
        subject=NodeId,
        route="POST /nodes/{id}/unlock",
        verb=Verb("NODE UNLOCK", "<number>"),
        command="node unlock",
    ),
    Operation(
        name="nodes.drain",
        summary="Drain a node, so that it can be switched off.",
        result=NodeView,
        subject=NodeId,
        route="POST /nodes/{id}/drain",
        verb=Verb("NODE DRAIN", "<number>"),
        command="node drain",
    ),
    Operation(
        name="nodes.update",
        summary="Poll all nodes now.",
        result=Done,
        route="POST /nodes/update",
        verb=Verb("NODE UPDATE"),
    ),
    Operation(
        name="nodes.best_for",
        summary="Find the node that a task with this many images would go to.",
        result=NodeView,
        parameters=Images,
        route="GET /nodes/best",
        verb=Verb("NODE BEST", "<images>", failure="No best node available: {}"),
        command="node best",
    ),
    Operation(
        name="nodes.lease",
        summary="Register a node by itself, or renew its lease.",
        result=Lease,
        parameters=NewLease,
        route="POST /leases",
    ),
    Operation(
        name="nodes.end_lease",
        summary="End the lease of a node; its running tasks finish there.",
        result=Done,
        subject=NodeId,
        route="DELETE /leases/{id}",
    ),
)

_TASKS: Final = (
    Operation(
        name="original.route",
        summary="Show the node of a task.",
        result=_JSON,
        subject=TaskId,
        verb=Verb("ROUTE INFO", "<task>", unknown="INVALID"),
    ),
    Operation(
        name="original.routes",
        summary="List tasks with their nodes, of all nodes or one.",
        result=_JSON,
        parameters=NodeNumber,
        verb=Verb("ROUTE LIST", "[number]", unknown="INVALID"),
    ),
    Operation(
        name="original.task_list",
        summary="List tasks, latest commit first, of all nodes or one.",
        result=list[_JSON],
        parameters=NodeNumber,
        verb=Verb("TASK LIST", "[number]", unknown="INVALID"),
    ),
    Operation(
        name="original.task_details",
        summary="Show everything known about a task.",
        result=_JSON,
        subject=TaskId,
        verb=Verb("TASK INFO", "<task>", unknown="INVALID"),
    ),
    Operation(
        name="tasks.page",
        summary="List tasks, latest commit first.",
        result=TaskPage,
        parameters=TaskQuery,
        route="GET /tasks",
        command="task list",
    ),
    Operation(
        name="tasks.active",
        summary="List tasks that are receiving files, dispatching, running or collecting.",
        result=list[TaskView],
        route="GET /tasks/active",
    ),
    Operation(
        name="tasks.show",
        summary="Show everything known about a task.",
        result=TaskDetail,
        subject=TaskId,
        route="GET /tasks/{uuid}",
        command="task show",
    ),
    Operation(
        name="tasks.output",
        summary="Show the console of a task.",
        result=list[str],
        subject=TaskId,
        parameters=ConsoleLines,
        route="GET /tasks/{uuid}/output",
        verb=Verb(
            "TASK OUTPUT", "<task> [line]", "Show the console of a task from a line on; -20: the last 20", "INVALID"
        ),
        command="task logs",
    ),
    Operation(
        name="tasks.cancel",
        summary="Cancel a task.",
        result=Done,
        subject=TaskId,
        route="POST /tasks/{uuid}/cancel",
        verb=Verb("TASK CANCEL", "<task>", unknown="INVALID"),
        command="task cancel",
    ),
    Operation(
        name="tasks.remove",
        summary="Remove a task with its files, here and on its node.",
        result=Done,
        subject=TaskId,
        route="DELETE /tasks/{uuid}",
        verb=Verb("TASK REMOVE", "<task>", unknown="INVALID"),
        command="task remove",
    ),
    Operation(
        name="tasks.retry",
        summary="Restart a finished task, or move one to another node.",
        result=Done,
        subject=TaskId,
        route="POST /tasks/{uuid}/retry",
        verb=Verb("TASK RETRY", "<task>", unknown="INVALID"),
        command="task retry",
    ),
    Operation(
        name="tasks.why",
        summary="Explain the state of a task.",
        result=Why,
        subject=TaskId,
        route="GET /tasks/{uuid}/why",
        verb=Verb("TASK WHY", "<task>", unknown="INVALID"),
        command="task why",
    ),
    Operation(
        name="tasks.timeline",
        summary="Show the timeline of a task.",
        result=list[EventView],
        subject=TaskId,
        route="GET /tasks/{uuid}/timeline",
        verb=Verb("TASK TIMELINE", "<task>", unknown="INVALID"),
    ),
    Operation(
        name="tasks.prioritize",
        summary="Set the priority of a task.",
        result=Done,
        subject=TaskId,
        parameters=Priority,
        route="POST /tasks/{uuid}/priority",
        verb=Verb(
            "TASK PRIORITY", "<task> <n>", "Set the priority of a task; higher goes first, the default is 0", "INVALID"
        ),
        command="task priority",
    ),
    Operation(
        name="tasks.queue",
        summary="List queued tasks, next first, and why they wait.",
        result=list[TaskView],
        route="GET /queue",
        verb=Verb("QUEUE LIST"),
        command="queue",
    ),
)

_UPLOADS: Final = (
    Operation(
        name="uploads.page",
        summary="List uploads that are not committed, longest idle first.",
        result=UploadPage,
        parameters=Page,
        route="GET /uploads",
        verb=Verb("UPLOAD LIST", "[count]"),
        command="upload list",
    ),
    Operation(
        name="uploads.drop",
        summary="Drop an upload with its files.",
        result=Done,
        subject=UploadId,
        route="DELETE /uploads/{uuid}",
        verb=Verb("UPLOAD DROP", "<upload>"),
        command="upload drop",
    ),
)

_MACHINES: Final = (
    Operation(
        name="machines.listing",
        summary="List machines that are not gone.",
        result=list[MachineView],
        route="GET /machines",
        verb=Verb("MACHINE LIST"),
        command="machine list",
    ),
    Operation(
        name="machines.gone",
        summary="List the last hundred machines that are gone, latest first.",
        result=list[MachineView],
        route="GET /machines/gone",
        command="machine gone",
    ),
    Operation(
        name="machines.show",
        summary="Show a machine and its history, also one that is gone.",
        result=MachineDetail,
        subject=AnyMachineId,
        route="GET /machines/{machine}",
        verb=Verb("MACHINE SHOW", "<machine>"),
        command="machine show",
    ),
    Operation(
        name="machines.costs",
        summary="Show what machines have cost in a month.",
        result=list[CostView],
        parameters=Month,
        route="GET /machines/costs",
        command="machine costs",
    ),
    Operation(
        name="machines.keep",
        summary="Keep a machine although it is idle.",
        result=Done,
        subject=MachineId,
        route="POST /machines/{machine}/keep",
        verb=Verb("MACHINE KEEP", "<machine>"),
        command="machine keep",
    ),
    Operation(
        name="machines.release",
        summary="Let a kept machine go when it is idle.",
        result=Done,
        subject=MachineId,
        route="POST /machines/{machine}/release",
        verb=Verb("MACHINE RELEASE", "<machine>"),
        command="machine release",
    ),
    Operation(
        name="machines.delete",
        summary="Delete a machine now; its tasks are retried elsewhere.",
        result=Done,
        subject=MachineId,
        route="POST /machines/{machine}/delete",
        verb=Verb("MACHINE DELETE", "<machine>"),
        command="machine delete",
    ),
    Operation(
        name="machines.plan_for",
        summary="Show which machine would be created for a task, its price, and why.",
        result=MachinePlan,
        parameters=Images,
        route="GET /machines/plan",
        verb=Verb("ASR VIEWCMD", "<images>", "Show how a machine for this many images would be created"),
        command="machine plan",
    ),
)

OPERATIONS: Final = (*_CLUSTER, *_NODES, *_TASKS, *_UPLOADS, *_MACHINES)
ROUTES: Final = tuple(operation for operation in OPERATIONS if operation.route)
VERBS: Final = {operation.verb.words: operation for operation in OPERATIONS if operation.verb}
COMMANDS: Final = {operation.command: operation for operation in OPERATIONS if operation.command}
