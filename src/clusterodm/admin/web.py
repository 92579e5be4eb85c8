# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin port: the API, the original's `/r/`, the page, events, metrics, health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from clusterodm import __version__
from clusterodm.admin import nodes, openapi, original, tasks
from clusterodm.admin.api import ROUTES, Route
from clusterodm.admin.feed import Feed
from clusterodm.admin.guard import HEADERS, Guard
from clusterodm.admin.metrics import exposition
from clusterodm.cluster.context import Context
from clusterodm.cluster.delivery import deliver
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError, ConfigError, Malformed
from clusterodm.http import answers
from clusterodm.http.kit import KIT, Kit
from clusterodm.observe import access_logger

_log = structlog.get_logger("admin")
_access = access_logger()

Middleware = Callable[..., Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MAX_BODY: Final = 1 << 20
#: Seconds between two signs of life to a watcher to whom nothing happened.
_BEAT: Final = 15.0
_KINDS: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "json": "application/json",
}


def make_admin_app(cluster: Context, feed: Feed) -> web.Application:
    """The web application that operators talk to. Raises ConfigError for an unsafe combination of settings."""
    guard = Guard(cluster.settings)
    middlewares = [_guarding(guard)]
    if cluster.settings.access_log:
        middlewares.insert(0, _logging(guard))
    app = web.Application(middlewares=middlewares, client_max_size=_MAX_BODY)
    app[KIT] = Kit(cluster.clock, fast_paths=cluster.settings.fast_paths == "on")
    app.on_response_prepare.append(_harden)
    for route in ROUTES:
        app.router.add_route(route.method, _pattern(route.path), _handler(cluster, route))
    _add_others(app, cluster, feed)
    return app


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _logging(guard: Guard) -> Middleware:
    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        """The access log, without queries."""
        begun = time.monotonic()
        response = await handler(request)
        seconds = round(time.monotonic() - begun, 4)
        said = {"method": request.method, "path": request.path, "status": response.status}
        _access.info("request", **said, seconds=seconds, remote=guard.client(request))
        return response

    return log


def _guarding(guard: Guard) -> Middleware:
    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check, carry out, turn errors into answers: one of the three edges."""
        try:
            return await guard.refuse(request) or await handler(request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - one of the three edges: HTTP
            return _answer_to(error, request)

    return enter


def _answer_to(error: Exception, request: web.Request) -> web.Response:
    if isinstance(error, web.HTTPException):
        answer = _error(error.status, error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    if not isinstance(error, ClusterError):
        _log.error("a request failed", method=request.method, path=request.path, exc_info=error)
    return web.json_response(answers.body(error), status=answers.row(error).operators)


def _pattern(path: str) -> str:
    """A path of the table as the router takes it: words such as `best` are no ids."""
    return path.replace("{id}", r"{id:\d+}").replace("{uuid}", "{uuid:[0-9a-fA-F-]{4,36}}")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _json(value: Any) -> web.Response:
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
    return web.Response(body=msgspec.json.encode(value), headers=headers)


def _handler(cluster: Context, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        path = _checked(dict(request.match_info), route.path_type)
        query = _checked(_single(request), route.query_type)
        body = _decoded(await request.read(), route.body_type) if route.body_type else None
        return _json(await route.run(cluster, path, query, body))

    return handle


def _single(request: web.Request) -> dict[str, str]:
    if len(request.query) != len(set(request.query)):
        raise Malformed("a parameter is given twice")
    return dict(request.query)


def _checked(given: dict[str, str], kind: type[Any]) -> Any:
    unknown = set(given) - set(kind.__struct_fields__)
    if unknown:
        raise Malformed(f"unknown parameter {min(unknown)[:50]}")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None


def _decoded(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body: {error}") from None


def _add_others(app: web.Application, cluster: Context, feed: Feed) -> None:
    described = msgspec.json.encode(openapi.document())

    async def document(request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=exposition(cluster), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def events(request: web.Request) -> web.StreamResponse:
        return await _send_events(request, feed)

    async def download(request: web.Request) -> web.StreamResponse:
        entry = await tasks.find(cluster, request.match_info["uuid"])
        return await deliver(request, cluster, entry, request.match_info["asset"])

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
                        told = await waiting.get()
                except TimeoutError:
                    told = b": still here\n\n"
                await response.write(told)
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


def _add_original(app: web.Application, cluster: Context) -> None:
    async def info(request: web.Request) -> web.Response:
        return _json({"name": PROGRAM, "version": __version__})

    async def listing(request: web.Request) -> web.Response:
        return _json(original.node_list(cluster))

    async def add(request: web.Request) -> web.Response:
        given = await _fields(request)
        port = given.get("port", "")
        try:
            await nodes.add(cluster, given.get("hostname", ""), int(port or 0), given.get("token", ""))
        except ConfigError as error:
            return _json({"error": str(error)})
        except ValueError:
            return _json({"error": f"a port is a number, not {port[:50]!r}"})
        return _json({"success": True})

    async def change(request: web.Request) -> web.Response:
        number = (await _fields(request)).get("number", "")
        if number in ("", "0"):
            return _error(403, "the body has no number of a node")
        node = original.by_number(cluster, number)
        if node is not None:
            verbs = {"lock": nodes.lock, "unlock": nodes.unlock}
            await verbs.get(request.match_info.get("verb", ""), nodes.remove)(cluster, node)
        return _json(node is not None)

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
    """Fields of a body, as JSON or as a form."""
    if request.content_type == "application/json":
        value = _decoded(await request.read() or b"{}", dict[str, Any])
    else:
        value = dict(await request.post())
    return {**dict(request.query), **{str(key): "" if item is None else str(item) for key, item in value.items()}}
