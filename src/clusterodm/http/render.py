# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Responses that are no streams: JSON, errors as the API writes them, CORS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web, web_response

from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError, Unauthorized
from clusterodm.http import answers
from clusterodm.http.body import TAKEN_OVER

_log = structlog.get_logger("proxy")
_JSON: Final = "application/json; charset=utf-8"
#: The Server header of every response, also of those to malformed requests: no version of Python or of a library.
web_response.SERVER_SOFTWARE = PROGRAM  # type: ignore[attr-defined]
_encode = msgspec.json.Encoder().encode

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_bytes(body: bytes) -> web.Response:
    """Return a response of encoded JSON."""
    return web.Response(body=body, headers={"Content-Type": _JSON})


def json_answer(value: Any, *, status: int = 200) -> web.Response:
    """Return a value as a response of JSON."""
    return web.Response(body=_encode(value), status=status, headers={"Content-Type": _JSON})


def render_error(error: Exception, path: str) -> web.Response:
    """Return the response to an error as clients get it; an unknown path is a 404 as on a node."""
    match error:
        case web.HTTPNotFound() | web.HTTPMethodNotAllowed():
            return json_answer({"error": f"Not found: {path[:200]}"}, status=404)
        case web.HTTPException():
            return json_answer({"error": error.reason}, status=error.status)
        case Unauthorized():  # without a body, as on a node
            return web.Response(status=answers.row(error).clients)
        case _:
            return json_answer(answers.body(error), status=answers.row(error).clients)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler into a response: one of the three edges."""
    try:
        response = await handler(request)
    except web.HTTPRedirection:
        raise
    except Exception as error:  # noqa: BLE001 - one of the three edges: HTTP
        if not isinstance(error, ClusterError | web.HTTPException | ConnectionError):
            _log.exception("request failed", method=request.method, path=request.path)
        response = render_error(error, f"{request.method} {request.path}")
        if not request.content.is_eof() and request.can_read_body:
            response.force_close()  # the rest of the body is not read for the sake of a connection
    if request.get(TAKEN_OVER):
        response.force_close()
    return response


async def add_cors(request: web.Request, response: web.StreamResponse) -> None:
    """Reflect the origin. There are no cookies here, so credentials are never allowed."""
    if origin := request.headers.get("Origin"):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"


async def preflight(request: web.Request) -> web.Response:
    """OPTIONS of any path."""
    requested = request.headers.get("Access-Control-Request-Headers", "Content-Type, set-uuid, Authorization")
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET,HEAD,PUT,PATCH,POST,DELETE",
            "Access-Control-Allow-Headers": requested[:1000],
            "Access-Control-Max-Age": "600",
        },
    )
