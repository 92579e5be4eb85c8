# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results on their way out: from our disk with ranges, or streamed through from the node that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp import web

from clusterodm.cluster.context import Context
from clusterodm.cluster.tasks import Entry
from clusterodm.core.byte_range import parse_range
from clusterodm.core.errors import BadRequest, ClientGone, NodeError, NodeRefused, ProviderError
from clusterodm.core.tasks import Outcome, Phase
from clusterodm.nodeodm import Download
from clusterodm.results import ARCHIVE, Asset

#: Headers of a node's answer that mean the same when we pass them on.
_PASSED: Final = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified")
#: Headers of a client that a node should see.
_ASKED: Final = ("Range", "If-Range")


async def deliver(request: web.Request, cluster: Context, entry: Entry, asset: str) -> web.StreamResponse:
    """Answer with `all.zip` or with one file out of it. Raises BadRequest when the task has none, and NodeError."""
    if entry.task.outcome is not Outcome.COMPLETED or entry.task.phase is not Phase.FINISHED:
        raise BadRequest("Asset not ready")
    if entry.task.results_in and (sent := await _from_bucket(request, cluster, entry, asset)):
        return sent
    if asset != ARCHIVE:
        return await _send_asset(request, cluster, entry, asset)
    if path := cluster.results.archive(entry.task.uuid):
        cluster.metrics.delivered.inc(path.stat().st_size)
        return web.FileResponse(path, chunk_size=256 << 10, headers=_attachment(entry, ARCHIVE))
    return await _stream(request, cluster, entry)


def _attachment(entry: Entry, asset: str) -> dict[str, str]:
    name = asset.rsplit("/", 1)[-1]
    return {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(entry.task.uuid + '-' + name)}",
        "Content-Type": "application/zip" if asset == ARCHIVE else "application/octet-stream",
    }


async def _from_bucket(request: web.Request, cluster: Context, entry: Entry, asset: str) -> web.StreamResponse | None:
    """Answer with an object of a bucket; None when there is none of that name, and for what is here already."""
    bucket = cluster.autoscaler.fleet.bucket(entry.task.results_in)
    if entry.attempt is None or bucket is None or cluster.results.archive(entry.task.uuid):
        return None
    key = f"{entry.attempt.node_uuid}/{asset}"
    found = await bucket.find(key)
    if found is None:
        return None
    if cluster.settings.results_from_s3 == "redirect":
        raise web.HTTPFound(await bucket.sign(key))
    headers = _attachment(entry, asset) | ({"ETag": found.etag} if found.etag else {})
    try:
        response, start, length = _part(request, found.size, headers)
    except ValueError as outside:
        return web.Response(status=416, headers={"Content-Range": str(outside)})
    blocks = bucket.read(key, start, length)

    async def read() -> bytes:
        return await anext(blocks, b"")

    cluster.metrics.delivered.inc(await pipe(request, read, response))
    return response


async def _stream(request: web.Request, cluster: Context, entry: Entry) -> web.StreamResponse:
    """Pass a node's answer through as it comes."""
    node = cluster.registry.get(entry.attempt.node_id) if entry.attempt else None
    if entry.attempt is None or node is None:
        raise BadRequest("Asset not ready")
    asked = {name: request.headers[name] for name in _ASKED if name in request.headers}
    try:
        async with Download(cluster.client, node.address, entry.attempt.node_uuid, ARCHIVE, asked) as answer:
            passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=_attachment(entry, ARCHIVE) | passed)
            cluster.metrics.delivered.inc(await pipe(request, answer.read, response))
            return response
    except NodeRefused as error:
        raise BadRequest(str(error)) from None


async def pipe(request: web.Request, read: Callable[[], Awaitable[bytes]], response: web.StreamResponse) -> int:
    """Send the blocks that `read` gives (empty at the end) as the body of `response`, as fast as the client takes
    them; how many bytes it took."""
    await response.prepare(request)
    sent = 0
    while True:
        try:
            block = await read()
        except (aiohttp.ClientError, TimeoutError, OSError, NodeError, ProviderError):
            _cut(request)  # an end in good order would pass for a whole file
            raise ClientGone("the node stopped in the middle of a download") from None
        try:
            await (response.write(block) if block else response.write_eof())
        except ConnectionError:
            return sent  # the client left; nothing more to say to it
        if not block:
            return sent
        sent += len(block)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _send_asset(request: web.Request, cluster: Context, entry: Entry, name: str) -> web.StreamResponse:
    """One file out of the archive; the archive is pulled here first when it still is on its node."""
    await cluster.collector.archive(entry)
    asset = await cluster.results.open_asset(entry.task.uuid, name)
    try:
        return await _send_opened(request, asset, _attachment(entry, name))
    finally:
        asset.close()


def _part(request: web.Request, size: int, headers: dict[str, str]) -> tuple[web.StreamResponse, int, int]:
    """The answer to a request for something of `size` bytes, with the first byte and the number of bytes that it wants.
    Raises ValueError, with the text of Content-Range, for a range that is outside."""
    wanted = parse_range(request.headers.get("Range"), size)
    start, length = wanted or (0, size)
    ranged = {"Content-Range": f"bytes {start}-{start + length - 1}/{size}"} if wanted else {}
    response = web.StreamResponse(status=206 if wanted else 200, headers=headers | {"Accept-Ranges": "bytes"} | ranged)
    response.content_length = length
    return response, start, length


async def _send_opened(request: web.Request, asset: Asset, headers: dict[str, str]) -> web.StreamResponse:
    try:
        response, start, length = _part(request, asset.size, headers)
    except ValueError as outside:
        return web.Response(status=416, headers={"Content-Range": str(outside)})
    if start:
        await asyncio.to_thread(asset.seek, start)
    await response.prepare(request)
    while length and (content := await asyncio.to_thread(asset.read)):
        await response.write(content[:length])
        length -= min(length, len(content))
    await response.write_eof()
    return response
