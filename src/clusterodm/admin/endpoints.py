# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations over HTTP: requests are checked against the types in the table, results encoded."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from clusterodm.admin.operations import machines, nodes, tasks
from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.parameters import AnyMachineId, MachineId, NodeId, Nothing, TaskId, UploadId
from clusterodm.admin.operations.table import ROUTES
from clusterodm.admin.plane import OperatorPlane
from clusterodm.core.errors import Malformed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: How a path names the subject of an operation.
_SUBJECTS: Final[dict[type[Any], Callable[[OperatorPlane, Any], Any]]] = {
    NodeId: lambda cluster, path: nodes.by_id(cluster, path.id),
    TaskId: lambda cluster, path: tasks.find(cluster, path.uuid),
    MachineId: lambda cluster, path: machines.find(cluster, path.machine),
    AnyMachineId: lambda cluster, path: path.machine,
    UploadId: lambda cluster, path: path.uuid,
}


def add_operations(app: web.Application, cluster: OperatorPlane) -> None:
    """Route every operation that has a route."""
    for operation in ROUTES:
        app.router.add_route(operation.method, _pattern(operation.path), _handler(cluster, operation))


def _pattern(path: str) -> str:
    """Return the path as a pattern of the router: words such as `best` are no ids."""
    return path.replace("{id}", r"{id:\d+}").replace("{uuid}", "{uuid:[0-9a-fA-F-]{4,36}}")


def _handler(cluster: OperatorPlane, operation: Operation) -> Handler:
    find = _SUBJECTS.get(operation.subject)

    async def handle(request: web.Request) -> web.Response:
        path = _checked(dict(request.match_info), operation.subject)
        query = _checked(_single(request), Nothing if operation.has_body else operation.parameters)
        parameters = decoded(await request.read(), operation.parameters) if operation.has_body else query
        subject = find(cluster, path) if find else None
        subject = await subject if inspect.isawaitable(subject) else subject
        return answer(await operation.run(cluster, *([subject] if find else []), **_fields(parameters)))

    return handle


def _fields(parameters: Any) -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in parameters.__struct_fields__}


def answer(value: Any) -> web.Response:
    """Return a response with a JSON body."""
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
    return web.Response(body=msgspec.json.encode(value), headers=headers)


def _single(request: web.Request) -> dict[str, str]:
    if len(request.query) != len(set(request.query)):
        raise Malformed("a parameter is given twice")
    return dict(request.query)


def _checked(query: dict[str, str], kind: type[Any]) -> Any:
    unknown = set(query) - set(kind.__struct_fields__)
    if unknown:
        raise Malformed(f"unknown parameter {min(unknown)[:50]}")
    try:
        return msgspec.convert(query, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None


def decoded(content: bytes, kind: type[Any]) -> Any:
    """Decode a JSON body. Raises Malformed."""
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body: {error}") from None
