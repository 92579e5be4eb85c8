# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handlers that answer from memory: no node is called, so a node's trouble never reaches a poller."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from clusterodm.core.errors import BadRequest
from clusterodm.core.limits import shown_options
from clusterodm.core.options import exact
from clusterodm.http.forms import read_fields
from clusterodm.http.render import json_answer, json_bytes
from clusterodm.proxy.context import LOGINS, PROXIES, caller, context

#: Seconds for which a finished task is listed: as long as a node keeps it.
_LISTED: Final = 48 * 3600.0
_MAX_PAGE: Final = 1000


async def info(request: web.Request) -> web.Response:
    """GET /info."""
    await caller(request)
    cluster = context(request)
    return json_bytes(cluster.registry.info_json(cluster.tasks.queued))


async def options(request: web.Request) -> web.Response:
    """GET /options."""
    grant = await caller(request)
    registry = context(request).registry
    if not grant.limits.any:
        return json_bytes(registry.description.options_json)
    return json_answer(exact(shown_options(registry.options, grant.limits)))


async def auth_info(request: web.Request) -> web.Response:
    """GET /auth/info; needs no token, so that clients can learn how to get one."""
    return json_answer(context(request).authenticator.info)


async def login(request: web.Request) -> web.Response:
    """POST /auth/login, where the authenticator offers it. Guesses are limited per address."""
    cluster = context(request)
    fields = await read_fields(request, idle=cluster.settings.upload_idle_timeout)
    client = request.app[PROXIES].client(request)
    token = await request.app[LOGINS].check(client, lambda: cluster.authenticator.login(fields))
    if token is None:
        raise BadRequest("Wrong user name or password")
    return json_answer({"token": token})


async def register(request: web.Request) -> web.Response:
    """POST /auth/register, which no authenticator offers."""
    raise BadRequest("Not available")


async def task_list(request: web.Request) -> web.Response:
    """GET /task/list: the caller's tasks, unfinished ones first; `limit` and `offset` page through them."""
    grant = await caller(request)
    cluster = context(request)
    limit = min(max(1, _integer(request, "limit", _MAX_PAGE)), _MAX_PAGE)
    offset = max(0, _integer(request, "offset", 0))
    uuids = await cluster.tasks.visible_ids(grant.owner, limit=limit, offset=offset, listed_for=_LISTED)
    return json_answer([{"uuid": uuid} for uuid in uuids])


async def task_info(request: web.Request) -> web.Response:
    """GET /task/{uuid}/info, with console lines when `with_output` is given."""
    grant = await caller(request, late=True)
    cluster = context(request)
    uuid = request.match_info["uuid"].lower()
    entry = await cluster.tasks.require(uuid, grant.owner)
    if not request.query_string or "with_output" not in request.query:
        return json_bytes(entry.info())
    lines = await cluster.consoles.read(uuid, _integer(request, "with_output", 0))
    return json_bytes(entry.info()[:-1] + b',"output":' + lines + b"}")


async def task_output(request: web.Request) -> web.Response:
    """GET /task/{uuid}/output: console lines from `line`."""
    grant = await caller(request, late=True)
    cluster = context(request)
    uuid = request.match_info["uuid"].lower()
    await cluster.tasks.require(uuid, grant.owner)
    return json_bytes(await cluster.consoles.read(uuid, _integer(request, "line", 0)))


def _integer(request: web.Request, name: str, default: int) -> int:
    """Return an integer of the query; anything else counts as `default`, as on a node."""
    try:
        return max(-(1 << 53), min(1 << 53, int(request.query.get(name, default))))
    except ValueError:
        return default
