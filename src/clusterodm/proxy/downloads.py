# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The handler of downloads."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web
from yarl import URL

from clusterodm.core.tasks import has_results
from clusterodm.proxy.context import caller, context


async def download(request: web.Request) -> web.StreamResponse:
    """GET /task/{uuid}/download/{asset}."""
    grant = await caller(request)
    cluster = context(request)
    uuid = request.match_info["uuid"].lower()
    entry = await cluster.tasks.require(uuid, grant.owner)
    asset, prefix = request.match_info["asset"], cluster.settings.downloads_from_s3
    if prefix and has_results(entry.task, entry.attempt):
        raise web.HTTPFound(URL(f"{prefix.rstrip('/')}/{entry.task.uuid}/{quote(asset)}", encoded=True))
    return await cluster.delivery.deliver(request, entry, asset)
