# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handlers that change tasks: cancel, remove, restart, and the webhook of nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.errors import BadRequest, ClusterError, Unauthorized
from clusterodm.core.tasks import Phase
from clusterodm.http import answers
from clusterodm.http.forms import read_fields
from clusterodm.http.render import json_answer
from clusterodm.proxy.context import ClientPlane, caller, cluster_url, context, token_of


async def cancel(request: web.Request) -> web.Response:
    """POST /task/cancel."""
    return await _order(request, lambda cluster, entry, grant, fields: cluster.control.cancel(entry), late=True)


async def remove(request: web.Request) -> web.Response:
    """POST /task/remove."""
    return await _order(request, lambda cluster, entry, grant, fields: cluster.control.remove(entry), late=True)


async def restart(request: web.Request) -> web.Response:
    """POST /task/restart, with new options if given."""
    url = cluster_url(request)
    return await _order(
        request,
        lambda cluster, entry, grant, fields: cluster.control.restart(entry, fields.get("options"), grant.limits, url),
        _committed,
    )


async def _committed(cluster: ClientPlane, uuid: str, owner: str) -> Entry:
    return await cluster.tasks.require(uuid, owner)


async def _task_or_upload(cluster: ClientPlane, uuid: str, owner: str) -> Entry:
    """Return a task, or an upload that is not committed yet: its owner may end that, too."""
    entry = await cluster.tasks.known(uuid)
    if entry is not None and entry.task.owner == owner and entry.task.phase is Phase.RECEIVING:
        return entry
    return await cluster.tasks.require(uuid, owner)


async def _order(
    request: web.Request,
    carry_out: Callable[[ClientPlane, Entry, Grant, dict[str, str]], Awaitable[None]],
    find: Callable[[ClientPlane, str, str], Awaitable[Entry]] = _task_or_upload,
    *,
    late: bool = False,
) -> web.Response:
    grant = await caller(request, late=late)
    cluster = context(request)
    fields = await read_fields(request, idle=cluster.settings.upload_idle_timeout)
    uuid = fields.get("uuid", "").lower()
    if not uuid:
        raise BadRequest("uuid param missing.")
    try:
        await carry_out(cluster, await find(cluster, uuid, grant.owner), grant, fields)
    except ClusterError as error:
        return json_answer({"success": False, **answers.body(error)}, status=answers.row(error).clients)
    return json_answer({"success": True})


async def node_webhook(request: web.Request) -> web.Response:
    """POST /commit: a node's webhook, with the key that it was given. The cluster then polls that task at once; of the
    body only the photos are kept, for the owner's webhook."""
    cluster = context(request)
    task, key = request.query.get("task", ""), request.query.get("key", "")
    if not cluster.jobs.is_callback_key(task, key):
        raise Unauthorized("not the key of this task")
    fields = await read_fields(request, idle=cluster.settings.upload_idle_timeout)
    entry = await cluster.tasks.find(task)
    if entry is not None and (images := fields.get("images", "")):
        await cluster.photos.note(entry.task, images)
    await cluster.replicas.look(task)
    return json_answer({"ok": True})


async def cache_clear(request: web.Request) -> web.Response:
    """GET /cache/clear: forget what is cached of the caller's token. A token service calls it when a plan changes, so
    it has to work for a token that was not valid before, too."""
    cluster = context(request)
    try:
        owner = (await caller(request)).owner
    except Unauthorized:
        owner = cluster.authenticator.owner_of(token_of(request))
        if not owner:
            raise
    await cluster.replicas.forget(owner)
    return json_answer({"ok": True})
