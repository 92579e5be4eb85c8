# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The development node's HTTP side; `tests/recorded` compares it with answers of a real NodeODM."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import uuid as uuid_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from clusterodm.core.cluster import API_VERSION
from clusterodm.core.errors import BadRequest, Unauthorized
from clusterodm.core.ids import parse_set_uuid
from clusterodm.core.options import check_options, exact, parse_options
from clusterodm.core.tasks import CANCELED_CODE, COMPLETED_CODE, FAILED_CODE
from clusterodm.devnode.node import DevNode, DevTask, Knobs
from clusterodm.proxy.forms import FileHandler, FileSink, read_form
from clusterodm.proxy.render import Handler, add_cors, errors, json_answer, preflight
from clusterodm.spool import Part

NODE: Final = web.AppKey("node", DevNode)
_IDLE: Final = 300.0
_MAX_FILES: Final = 100_000


def _node(request: web.Request) -> DevNode:
    return request.app[NODE]


@web.middleware
async def _behave(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Be late, hang, or ask for the token, as the knobs say."""
    node = _node(request)
    knobs = node.knobs
    if knobs.slow:
        await asyncio.sleep(knobs.slow)
    if node.happens(knobs.hang):
        await asyncio.sleep(3600)
    needs_token = knobs.token and request.method != "OPTIONS" and not _is_open(request.path)
    if "_debugUnauthorized" in request.query or (needs_token and request.query.get("token") != knobs.token):
        raise Unauthorized("no valid token")
    return await handler(request)


def _is_open(path: str) -> bool:
    return path in ("/", "/auth/info") or path.startswith("/page/")


async def _info(request: web.Request) -> web.Response:
    knobs = _node(request).knobs
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
    node = _node(request)
    fields = await _multipart_fields(request)
    given = request.headers.get("set-uuid", "")
    uuid = parse_set_uuid(given) if given else str(uuid_module.uuid4())
    if uuid in node.tasks:
        raise BadRequest(f"Invalid set-uuid: {uuid}")
    try:
        node.announced[uuid] = _task(node, uuid, fields)
    except BadRequest:  # as a node does: what it had received under this uuid goes, too
        node.announced.pop(uuid, None)
        await node.spool.drop(uuid)
        raise
    return json_answer({"uuid": uuid})


async def _multipart_fields(request: web.Request) -> dict[str, str]:
    """The fields of a multipart body; none of any other, as on a node (`multer().none()` is its only parser there)."""
    if request.content_type != "multipart/form-data":
        return {}
    fields, _ = await read_form(request, idle=_IDLE)
    return fields


def _task(node: DevNode, uuid: str, fields: dict[str, str]) -> DevTask:
    now = datetime.now(UTC)
    return DevTask(
        uuid=uuid,
        name=fields.get("name") or f"Task of {now.isoformat(timespec='milliseconds')}",
        options=check_options(parse_options(fields.get("options", "")), node.options),
        date_created=int(fields.get("dateCreated") or now.timestamp() * 1000),
        webhook=fields.get("webhook", ""),
    )


def _files(node: DevNode, uuid: str) -> FileHandler:
    def begin(name: str) -> FileSink:
        return node.spool.new_part(uuid)

    async def end(sink: FileSink, name: str) -> None:
        assert isinstance(sink, Part)  # noqa: S101 - made by `begin`
        await sink.close()
        await node.spool.publish(uuid, sink, name)

    return FileHandler(begin, end, _MAX_FILES)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _upload(request: web.Request) -> web.Response:
    node, uuid = _node(request), request.match_info["uuid"]
    if uuid not in node.announced:
        raise BadRequest("Invalid uuid (not found)")
    dropped = node.happens(node.knobs.drop)
    if dropped and node.happens(0.5):
        _cut(request)
    _, count = await read_form(request, idle=_IDLE, files=_files(node, uuid))
    if dropped:
        _cut(request)
    if not count:
        raise BadRequest("Need at least 1 file.", no_retry=True)
    return json_answer({"success": True})


async def _commit(request: web.Request) -> web.Response:
    node, uuid = _node(request), request.match_info["uuid"]
    if uuid not in node.announced:
        raise BadRequest("Invalid uuid (not found)")
    files_here = await node.spool.listing(uuid)
    if not files_here:
        raise BadRequest("Need at least 1 file.")
    if node.knobs.max_images is not None and len(files_here) > node.knobs.max_images:
        raise BadRequest(
            f"{len(files_here)} images uploaded, but this node can only process up to {node.knobs.max_images}."
        )
    await node.commit(uuid)
    return json_answer({"uuid": uuid})


async def _new(request: web.Request) -> web.Response:
    node = _node(request)
    uuid = str(uuid_module.uuid4())
    fields, count = await read_form(request, idle=_IDLE, files=_files(node, uuid))
    if not count:
        raise BadRequest("Need at least 1 file or a zip file url.")
    node.announced[uuid] = _task(node, uuid, fields)
    await node.commit(uuid)
    return json_answer({"uuid": uuid})


def _find(request: web.Request) -> DevTask:
    uuid = request.match_info["uuid"]
    if task := _node(request).tasks.get(uuid):
        return task
    raise BadRequest(f"{uuid} not found")


def _lines(request: web.Request, task: DevTask, name: str) -> list[str]:
    try:
        return task.output[int(request.query.get(name, 0)) :]
    except ValueError:
        return task.output


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
    if task.code != COMPLETED_CODE or not path.is_file():
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
    fields, _ = await read_form(request, idle=_IDLE)
    uuid = fields.get("uuid")
    if not uuid:
        raise BadRequest("uuid param missing.")
    task = node.tasks.get(uuid)
    if task is None:
        return json_answer({"success": False, "error": f"{uuid} not found"})
    match request.match_info["verb"]:
        case "cancel":
            node.cancel(task)
        case "remove":
            await node.remove(task)
        case _ if task.code in (CANCELED_CODE, COMPLETED_CODE, FAILED_CODE):
            if "options" in fields:
                task.options = check_options(parse_options(fields["options"]), node.options)
            node.restart(task)
        case _:
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
    """The web application of a development node."""
    app = web.Application(middlewares=[errors, _behave])
    app[NODE] = node
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
    """A development node that works while the block runs, and its port."""
    described: list[dict[str, Any]] = msgspec.json.decode(
        files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    )
    with tempfile.TemporaryDirectory(prefix="devnode-") as scratch:
        node = DevNode(folder or Path(scratch), knobs, described)
        runner = web.AppRunner(make_app(node), access_log=None, shutdown_timeout=0.1, read_bufsize=1 << 20)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            async with asyncio.TaskGroup() as group:
                work = group.create_task(node.run())
                yield node, runner.addresses[0][1]
                work.cancel()
        finally:
            await runner.cleanup()
