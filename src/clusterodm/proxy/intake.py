# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handlers that take tasks in: init, upload, commit, and all of it in one request."""

from __future__ import annotations

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.cluster.tasks.intake import Announcement
from clusterodm.core.errors import BadRequest, ClusterError, SpoolFull
from clusterodm.http import answers
from clusterodm.http.forms import Form, open_form, read_fields
from clusterodm.http.render import json_answer
from clusterodm.proxy.context import ClientPlane, caller, caller_name, cluster_url, context


async def init(request: web.Request) -> web.Response:
    """POST /task/new/init."""
    grant = await caller(request)
    cluster = context(request)
    fields = await read_fields(request, idle=cluster.settings.upload_idle_timeout)
    uuid = await cluster.intake.announce(_announcement(request, grant, fields))
    return json_answer({"uuid": uuid})


async def upload(request: web.Request) -> web.Response:
    """POST /task/new/upload/{uuid}: files of any size, streamed to disk."""
    try:
        return await _upload(request)
    except ClusterError as error:
        status = answers.row(error).uploads
        if status is None:
            raise
        response = json_answer(answers.body(error), status=status)
        response.force_close()
        return response


async def _upload(request: web.Request) -> web.Response:
    grant = await caller(request)
    cluster, uuid = context(request), request.match_info["uuid"].lower()
    await cluster.intake.receiving(uuid, grant.owner)
    no_room = await _no_room(cluster, request)  # raised once the name of a file is known
    with open_form(request, idle=cluster.settings.upload_idle_timeout) as form:
        async for name, blocks in form:
            try:
                if no_room is not None:
                    raise no_room
                _check(cluster, form, name)
                async with cluster.spool.received(uuid, blocks) as part:
                    await cluster.intake.publish(uuid, grant, part, name)
            except (BadRequest, SpoolFull) as error:
                await cluster.intake.refused(uuid, grant, name, error)
                raise
            cluster.metrics.received.inc(part.size)
    if not form.file_count:
        raise BadRequest("Need at least 1 file.", no_retry=True)
    return json_answer({"success": True})


async def commit(request: web.Request) -> web.Response:
    """POST /task/new/commit/{uuid}."""
    grant = await caller(request)
    uuid = await context(request).intake.commit(request.match_info["uuid"].lower(), grant)
    return json_answer({"uuid": uuid})


async def new(request: web.Request) -> web.Response:
    """POST /task/new: fields and files in any order."""
    grant = await caller(request)
    cluster = context(request)
    async with cluster.intake.reserved(_announcement(request, grant, {})) as uuid:
        await cluster.spool.room.admit(request.content_length or 0)
        with open_form(request, idle=cluster.settings.upload_idle_timeout) as form:
            async for name, blocks in form:
                _check(cluster, form, name)
                async with cluster.spool.received(uuid, blocks) as part:
                    await cluster.spool.publish(uuid, part, name)
                cluster.metrics.received.inc(part.size)
        await cluster.intake.new(uuid, _announcement(request, grant, form.fields))
    return json_answer({"uuid": uuid})


async def _no_room(cluster: ClientPlane, request: web.Request) -> BadRequest | SpoolFull | None:
    """Return the error of a body that there is no room for; None if there is."""
    try:
        await cluster.spool.room.admit(request.content_length or 0)
    except (BadRequest, SpoolFull) as error:
        return error
    return None


def _check(cluster: ClientPlane, form: Form, name: str) -> None:
    """Raise BadRequest for a file that is not accepted, or one too many."""
    cluster.intake.check_name(name)
    if form.file_count > (most := cluster.settings.max_files):
        raise BadRequest(f"Too many files (at most {most})", no_retry=True)


def _announcement(request: web.Request, grant: Grant, fields: dict[str, str]) -> Announcement:
    return Announcement(
        grant=grant,
        set_uuid=request.headers.get("set-uuid", ""),
        caller=caller_name(request, grant),
        fields=fields,
        cluster_url=cluster_url(request),
    )
