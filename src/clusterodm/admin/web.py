# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin port: the API, the original's `/r/`, the page, events, metrics, health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from clusterodm import __version__
from clusterodm.admin import openapi
from clusterodm.admin.endpoints import Handler, add_operations, answer, decoded
from clusterodm.admin.feed import Feed
from clusterodm.admin.guard import HEADERS, Guard
from clusterodm.admin.metrics import exposition
from clusterodm.admin.operations import nodes, original, tasks
from clusterodm.admin.plane import OperatorPlane
from clusterodm.aio import Clock
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError, ConfigError
from clusterodm.http import answers
from clusterodm.http.kit import KIT, Kit
from clusterodm.observe import access_logger

_log = structlog.get_logger("admin")
_access = access_logger()

Middleware = Callable[..., Awaitable[web.StreamResponse]]
_MAX_BODY: Final = 1 << 20
#: Seconds without an event after which a watcher is sent a heartbeat.
_BEAT: Final = 15.0
_KINDS: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "json": "application/json",
}


def make_admin_app(cluster: OperatorPlane, feed: Feed) -> web.Application:
    """Make the web application of the admin port. Raises ConfigError for an unsafe combination of settings."""
    guard = Guard(cluster.settings, cluster.clock)
    middlewares = [_guarding(guard)]
    if cluster.settings.access_log:
        middlewares.insert(0, _logging(guard, cluster.clock))
    app = web.Application(middlewares=middlewares, client_max_size=_MAX_BODY)
    app[KIT] = Kit(cluster.clock, fast_paths=cluster.settings.fast_paths == "on")
    app.on_response_prepare.append(_harden)
    add_operations(app, cluster)
    _add_others(app, cluster, feed)
    return app


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _logging(guard: Guard, clock: Clock) -> Middleware:
    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Write the access log, without queries."""
        began = clock.steady()
        response = await handler(request)
        seconds = round(clock.steady() - began, 4)
        fields = {"method": request.method, "path": request.path, "status": response.status}
        _access.info("request", **fields, seconds=seconds, remote=guard.client(request))
        return response

    return log


def _guarding(guard: Guard) -> Middleware:
    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the caller, handle the request, turn errors into answers: one of the three edges."""
        try:
            return await guard.refuse(request) or await handler(request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - one of the three edges: HTTP
            return _answer_to(error, request)

    return enter


def _answer_to(error: Exception, request: web.Request) -> web.Response:
    if isinstance(error, web.HTTPException):
        response = _error(error.status, error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    if not isinstance(error, ClusterError):
        _log.error("request failed", method=request.method, path=request.path, exc_info=error)
    return web.json_response(answers.body(error), status=answers.row(error).operators)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _add_others(app: web.Application, cluster: OperatorPlane, feed: Feed) -> None:
    described = msgspec.json.encode(openapi.document())

    async def document(request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=exposition(cluster), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def events(request: web.Request) -> web.StreamResponse:
        return await _send_events(request, feed)

    async def download(request: web.Request) -> web.StreamResponse:
        entry = await tasks.find(cluster, request.match_info["uuid"])
        return await cluster.delivery.deliver(request, entry, request.match_info["asset"])

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app.add_routes(
        [
            web.get("/api/v1/openapi.json", document),
            web.get("/api/v1/events", events),
            web.get("/api/v1/tasks/{uuid}/download/{asset:.+}", download),
            web.get("/metrics", metrics),
            web.get("/healthz", alive),
            web.get("/readyz", alive),
            web.get("/", _page),
            web.get("/{name:[a-z]+\\.(?:js|css|svg|json)}", _page),
        ]
    )
    _add_original(app, cluster)


async def _send_events(request: web.Request, feed: Feed) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    response.headers["X-Accel-Buffering"] = "no"
    await response.prepare(request)
    async with feed.watching() as waiting:
        try:
            while True:
                try:
                    async with asyncio.timeout(_BEAT):
                        sent = await waiting.get()
                except TimeoutError:
                    sent = b": heartbeat\n\n"
                await response.write(sent)
        except ConnectionError:
            return response


async def _page(request: web.Request) -> web.Response:
    name = request.match_info.get("name") or "index.html"
    source = files("clusterodm.admin").joinpath("page", name)
    if not source.is_file():
        raise web.HTTPNotFound
    kind = _KINDS[name.rpartition(".")[2]]
    return web.Response(
        body=source.read_bytes(), headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"}
    )


# The original's paths


def _add_original(app: web.Application, cluster: OperatorPlane) -> None:
    async def info(request: web.Request) -> web.Response:
        return answer({"name": PROGRAM, "version": __version__})

    async def listing(request: web.Request) -> web.Response:
        return answer(original.node_list(cluster))

    async def add(request: web.Request) -> web.Response:
        fields = await _fields(request)
        host, port, token = (fields.get(name, "") for name in ("hostname", "port", "token"))
        try:
            await nodes.add(cluster, host=host, port=int(port or 0), token=token)
        except ConfigError as error:
            return answer({"error": str(error)})
        except ValueError:
            return answer({"error": f"a port is a number, not {port[:50]!r}"})
        return answer({"success": True})

    async def change(request: web.Request) -> web.Response:
        number = (await _fields(request)).get("number", "")
        if number in ("", "0"):
            return _error(403, "the body has no `number` of a node")
        node = original.by_number(cluster, number)
        if node is not None:
            verbs = {"lock": nodes.lock, "unlock": nodes.unlock}
            await verbs.get(request.match_info.get("verb", ""), nodes.remove)(cluster, node)
        return answer(node is not None)

    app.add_routes(
        [
            web.get("/r/info", info),
            web.get("/r/node/list", listing),
            web.post("/r/node/add", add),
            web.post("/r/node/{verb:lock|unlock}", change),
            web.delete("/r/node", change),
        ]
    )


async def _fields(request: web.Request) -> dict[str, str]:
    """Return the fields of a body, which is JSON or a form."""
    if request.content_type == "application/json":
        value = decoded(await request.read() or b"{}", dict[str, Any])
    else:
        value = dict(await request.post())
    return {**dict(request.query), **{str(key): "" if item is None else str(item) for key, item in value.items()}}
