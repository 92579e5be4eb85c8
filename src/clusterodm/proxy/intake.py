# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handlers that take tasks in: init, upload, commit, and all of it in one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.cluster.context import Context
from clusterodm.cluster.tasks.intake import Announcement
from clusterodm.core.errors import BadRequest, ClusterError, SpoolFull
from clusterodm.files.spool import Part
from clusterodm.http import answers
from clusterodm.http.forms import FileHandler, FileSink, read_form
from clusterodm.http.render import json_answer
from clusterodm.proxy.context import caller, caller_name, cluster_url, context


class _Parts:
    """Receives files into parts of the spool; what is not published when it exits is dropped."""

    def __init__(self, cluster: Context, uuid: str, publish: Callable[[Part, str], Awaitable[object]]) -> None:
        self._cluster = cluster
        self._uuid = uuid
        self._publish = publish
        self._open: Part | None = None
        #: The file that comes in; empty between two.
        self.name = ""
        #: Why no file is let in.
        self.closed: ClusterError | None = None

    def __enter__(self) -> FileHandler:
        return FileHandler(self._begin, self._end, self._cluster.settings.max_files)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.drop()

    def _begin(self, name: str) -> FileSink:
        self.name = name
        if self.closed is not None:
            raise self.closed
        self._cluster.intake.check_name(name)
        self._open = self._cluster.spool.new_part(self._uuid)
        return self._open

    async def _end(self, _: FileSink, name: str) -> None:
        if self._open is not None:
            await self._open.close()
            await self._publish(self._open, name)
            self._cluster.metrics.received.inc(self._open.size)
            self._open, self.name = None, ""


async def init(request: web.Request) -> web.Response:
    """POST /task/new/init."""
    grant = await caller(request)
    cluster = context(request)
    fields, _ = await read_form(request, idle=cluster.settings.upload_idle_timeout)
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

    async def publish(part: Part, name: str) -> None:
        await cluster.intake.publish(uuid, grant, part, name)

    parts = _Parts(cluster, uuid, publish)
    try:
        await cluster.spool.room.admit(request.content_length or 0)
    except (BadRequest, SpoolFull) as error:
        parts.closed = error  # raised once the name of a file is known
    try:
        with parts as files:
            _, count = await read_form(request, idle=cluster.settings.upload_idle_timeout, files=files)
    except (BadRequest, SpoolFull) as error:
        if parts.name:
            await cluster.intake.refused(uuid, grant, parts.name, error)
        raise
    if not count:
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

        async def publish(part: Part, name: str) -> None:
            await cluster.spool.publish(uuid, part, name)

        await cluster.spool.room.admit(request.content_length or 0)
        with _Parts(cluster, uuid, publish) as files:
            fields, _ = await read_form(request, idle=cluster.settings.upload_idle_timeout, files=files)
        await cluster.intake.new(uuid, _announcement(request, grant, fields))
    return json_answer({"uuid": uuid})


def _announcement(request: web.Request, grant: Grant, fields: dict[str, str]) -> Announcement:
    return Announcement(
        grant=grant,
        set_uuid=request.headers.get("set-uuid", ""),
        caller=caller_name(request, grant),
        fields=fields,
        cluster_url=cluster_url(request),
    )
