# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The development node's HTTP side; `tests/recorded` compares it with responses of a real NodeODM."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import uuid as uuid_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from clusterodm.core.cluster import API_VERSION
from clusterodm.core.errors import BadRequest, Unauthorized
from clusterodm.core.ids import is_task_id
from clusterodm.core.options import exact
from clusterodm.devnode.forms import NodeForm, open_form, read_fields, read_order, skip_body
from clusterodm.devnode.knobs import Knobs
from clusterodm.devnode.node import DevNode
from clusterodm.devnode.tasks import DevTask
from clusterodm.http.kit import KIT, Kit
from clusterodm.http.render import Handler, add_cors, errors, json_answer, preflight

NODE: Final = web.AppKey("node", DevNode)
_ORDERS: Final = ("/task/cancel", "/task/remove", "/task/restart")


def _node(request: web.Request) -> DevNode:
    return request.app[NODE]


@web.middleware
async def _behave(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Delay or hang as the knobs say, and check the token."""
    node = _node(request)
    knobs = node.knobs
    if knobs.slow:
        await asyncio.sleep(knobs.slow)
    if node.happens(knobs.hang):
        await asyncio.sleep(3600)
    try:
        if request.method != "OPTIONS" and not _is_open(request.path):
            _authorize(request)
        return await handler(request)
    except (BadRequest, web.HTTPException):
        await skip_body(request)
        raise


def _authorize(request: web.Request) -> None:
    """Refuse a wrong token as a node does: not with a 401."""
    token = _node(request).knobs.token
    if token and request.query.get("token") != token:
        raise BadRequest("Invalid authentication token: token does not match.")


def _is_open(path: str) -> bool:
    """Return True if a path needs no token, or checks it once the body is read."""
    return path == "/" or path.startswith(("/page/", "/auth/")) or path in _ORDERS


async def _info(request: web.Request) -> web.Response:
    knobs = _node(request).knobs
    if "_debugUnauthorized" in request.query:
        raise Unauthorized("no valid token")
    return json_answer(
        {
            "version": API_VERSION,
            "taskQueueCount": _node(request).busy(),
            "totalMemory": knobs.total_memory,
            "availableMemory": knobs.total_memory // 2,
            "cpuCores": 4,
            "maxImages": knobs.max_images,
            "maxParallelTasks": knobs.slots,
            "engineVersion": "development",
            "engine": knobs.engine,
        }
    )


async def _options(request: web.Request) -> web.Response:
    return json_answer(exact(_node(request).options))


async def _auth_info(request: web.Request) -> web.Response:
    message = "Authentication not available on this node"
    return json_answer({"message": message, "loginUrl": None, "registerUrl": None})


async def _auth(request: web.Request) -> web.Response:
    raise BadRequest("Not available")


async def _init(request: web.Request) -> web.Response:
    node, uuid = _node(request), _new_uuid(request)
    fields = await read_fields(request)
    try:
        node.check(fields.get("options") or None)
    except BadRequest:  # as a node does: files that it had received under this uuid are deleted, too
        node.folders.drop_upload(uuid)
        raise
    node.folders.announce(uuid, fields)
    return json_answer({"uuid": uuid})


def _new_uuid(request: web.Request) -> str:
    """Return the uuid of a new task: the one that its client set, letter by letter, or a new one."""
    uuid = request.headers.get("set-uuid", "")
    if not uuid:
        return str(uuid_module.uuid4())
    if not is_task_id(uuid.lower()) or uuid in _node(request).tasks:
        raise BadRequest(f"Invalid set-uuid: {uuid[:100]}")
    return uuid


def _cut(request: web.Request) -> web.Response:
    """Abort the connection; the response goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _upload(request: web.Request) -> web.Response:
    node, uuid = _node(request), request.match_info["uuid"]
    if not node.folders.is_announced(uuid):
        raise BadRequest("Invalid uuid (not found)")
    if node.happens(node.knobs.refuse):
        raise web.HTTPInternalServerError
    dropped = node.happens(node.knobs.drop)
    if dropped and node.happens(0.5):
        return _cut(request)
    count = (await _receive(request, uuid)).file_count
    if dropped:
        return _cut(request)
    if not count:
        raise BadRequest("Need at least 1 file.", no_retry=True)
    return json_answer({"success": True})


async def _commit(request: web.Request) -> web.Response:
    node, uuid = _node(request), request.match_info["uuid"]
    if not node.folders.is_announced(uuid):
        raise BadRequest("Invalid uuid (not found)")
    return _start(node, uuid, node.folders.take_announcement(uuid), "Need at least 1 file.")


async def _new(request: web.Request) -> web.Response:
    node, uuid = _node(request), _new_uuid(request)
    form = await _receive(request, uuid)
    max_images = node.knobs.max_images
    if max_images and form.file_count > max_images:
        node.folders.drop_upload(uuid)
        raise BadRequest(f"{form.file_count} images uploaded, but this node can only process up to {max_images}.")
    return _start(node, uuid, form.fields, "Need at least 1 file or a zip file url.")


async def _receive(request: web.Request, uuid: str) -> NodeForm:
    """Receive a form with files into the folder of an upload."""
    async with open_form(request) as form:
        async for name, blocks in form:
            await _node(request).folders.receive(uuid, name, blocks)
    return form


def _start(node: DevNode, uuid: str, fields: dict[str, str], no_file: str) -> web.Response:
    try:
        node.commit(uuid, fields, no_file)
    except BadRequest:
        node.folders.drop_upload(uuid)
        raise
    return json_answer({"uuid": uuid})


def _find(request: web.Request) -> DevTask:
    uuid = request.match_info["uuid"]
    if task := _node(request).tasks.get(uuid):
        return task
    raise BadRequest(f"{uuid} not found")


def _lines(request: web.Request, task: DevTask, name: str) -> list[str]:
    """Return the console from a line on, counted from the end if negative; all of it if the line is no number."""
    try:
        start = int(float(request.query.get(name, 0)))
    except (ValueError, OverflowError):
        start = 0
    return task.output[start:]


async def _task_info(request: web.Request) -> web.Response:
    task = _find(request)
    output = {"output": _lines(request, task, "with_output")} if "with_output" in request.query else {}
    return json_answer(task.info() | output)


async def _task_output(request: web.Request) -> web.Response:
    return json_answer(_lines(request, _find(request), "line"))


async def _download(request: web.Request) -> web.StreamResponse:
    task = _find(request)
    if request.match_info["asset"] != "all.zip":
        raise BadRequest("Invalid asset")
    path = _node(request).archive(task.uuid)
    if not path.is_file():
        raise BadRequest("Asset not ready")
    response = web.StreamResponse(
        headers={"Content-Type": "application/zip", "Content-Disposition": "attachment; filename=all.zip"}
    )
    response.content_length = path.stat().st_size
    await response.prepare(request)
    with path.open("rb") as file:
        while content := await asyncio.to_thread(file.read, 1 << 20):
            await response.write(content)
    await response.write_eof()
    return response


async def _list(request: web.Request) -> web.Response:
    return json_answer([{"uuid": uuid} for uuid in _node(request).tasks])


async def _order(request: web.Request) -> web.Response:
    node = _node(request)
    fields = await read_order(request)
    _authorize(request)
    uuid, verb = fields.get("uuid"), request.match_info["verb"]
    if not uuid:
        raise BadRequest("uuid param missing.")
    options = node.check(fields["options"]) if verb == "restart" and fields.get("options") else None
    task = node.tasks.get(str(uuid))
    if task is None:
        return json_answer({"success": False, "error": f"{uuid} not found"})
    if verb == "cancel":
        node.cancel(task)
    elif verb == "remove":
        await node.remove(task)
    elif not node.restart(task, options):
        return json_answer({"success": False, "error": "Task cannot be restarted"})
    return json_answer({"success": True})


async def _page(request: web.Request) -> web.Response:
    name = request.match_info.get("name") or "index.html"
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
    kind = kinds.get(name.rpartition(".")[2])
    source = files("clusterodm.devnode").joinpath("page", name)
    if kind is None or "/" in name or not source.is_file():
        raise web.HTTPNotFound
    return web.Response(text=source.read_text(encoding="utf-8"), content_type=kind)


def make_app(node: DevNode) -> web.Application:
    """Return the web application of a development node."""
    app = web.Application(middlewares=[errors, _behave])
    app[NODE] = node
    app[KIT] = Kit(node.clock, node.knobs.fast_paths)
    app.on_response_prepare.append(add_cors)
    app.add_routes(
        [
            web.get("/info", _info),
            web.get("/options", _options),
            web.get("/auth/info", _auth_info),
            web.post("/auth/{action:login|register}", _auth),
            web.post("/task/new/init", _init),
            web.post("/task/new/upload/{uuid}", _upload),
            web.post("/task/new/commit/{uuid}", _commit),
            web.post("/task/new", _new),
            web.get("/task/list", _list),
            web.get("/task/{uuid}/info", _task_info),
            web.get("/task/{uuid}/output", _task_output),
            web.get("/task/{uuid}/download/{asset:.+}", _download),
            web.post("/task/{verb:cancel|remove|restart}", _order),
            web.get("/", _page),
            web.get("/page/{name}", _page),
            web.route("OPTIONS", "/{path:.*}", preflight),
        ]
    )
    return app


@asynccontextmanager
async def running_devnode(
    knobs: Knobs,
    *,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[DevNode, int]]:
    """Run a development node while the block runs; yield it and its port."""
    described: list[dict[str, Any]] = msgspec.json.decode(
        files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    )
    with tempfile.TemporaryDirectory(prefix="devnode-") as scratch:
        node = DevNode(folder or Path(scratch), knobs, described)
        runner = web.AppRunner(make_app(node), access_log=None, shutdown_timeout=0.1, read_bufsize=1 << 20)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            async with node.working():
                yield node, runner.addresses[0][1]
        finally:
            await runner.cleanup()
