# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The reference node's own web page; all it calls is the API, so it works on a cluster."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from clusterodm.cluster.delivery import pipe
from clusterodm.core.errors import NodeUnreachable
from clusterodm.http.urls import without
from clusterodm.proxy.context import context

#: Files of the page; requests for anything else are not passed to a node.
PAGE_PATH: Final = r"/{file:([\w./-]*\.(css|js|map|woff2?|ttf|eot|svg|png|ico|html))?}"
_PASSED: Final = ("Content-Type", "Content-Length", "ETag", "Last-Modified", "Cache-Control", "Content-Range")
_REQUESTED: Final = ("If-None-Match", "If-Modified-Since", "Range", "Accept")

_NO_NODE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>ClusterODM</title>
<body style="font-family: system-ui; max-width: 40em; margin: 4em auto; line-height: 1.5">
<h1>ClusterODM is running</h1>
<p>No processing node is online now, so there is no page to show. Tasks are accepted and wait in the queue;
they start as soon as a node can be reached.</p>"""


async def page(request: web.Request) -> web.StreamResponse:
    """GET / and the files of the page, from the first node that is online."""
    cluster = context(request)
    node = cluster.registry.reference()
    path = request.path
    if ".." in path:
        raise web.HTTPNotFound
    if node is None:
        if path != "/":
            raise web.HTTPNotFound
        return web.Response(text=_NO_NODE, content_type="text/html", status=200)
    headers = {name: request.headers[name] for name in _REQUESTED if name in request.headers}
    response: web.StreamResponse | None = None
    try:
        url = request.rel_url
        query = without(url.raw_query_string, "token")
        async with cluster.client.open(node.address, url.raw_path, headers, query=query) as answer:
            passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=passed)
            await pipe(request, answer.content.readany, response)
    except NodeUnreachable:
        if path != "/" or response is not None:
            raise
        return web.Response(text=_NO_NODE, content_type="text/html")
    return response
