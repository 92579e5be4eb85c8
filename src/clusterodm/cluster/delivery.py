# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Delivery of results: from disk, from a bucket, or streamed through from the node that has them."""

from __future__ import annotations

import asyncio
import re
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.tasks.collector import Collector, results_gone, why_no_results
from clusterodm.core.assets import FOLDERS
from clusterodm.core.conditional import judge
from clusterodm.core.errors import BadRequest, ClientGone, NodeError, NodeForgot, NodeRefused, ProviderError
from clusterodm.core.tasks import has_results
from clusterodm.files.results import ARCHIVE, Content, Packed, Results, find_asset
from clusterodm.http.zero_copy import Splicer, flushed, lane
from clusterodm.nodeodm import Download, NodeClient
from clusterodm.observe import Metrics
from clusterodm.providers import Bucket, Fleet

#: A name that needs no quotes (RFC 9110).
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers of a node's response that are passed on.
_PASSED: Final = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified")
#: Headers of a client's request that are forwarded to the node.
_FORWARDED: Final = ("Range", "If-Range")


@dataclass(kw_only=True, slots=True, eq=False)
class Delivery:
    """Answers requests for results."""

    registry: Registry
    collector: Collector
    client: NodeClient
    results: Results
    fleet: Fleet
    #: True if clients fetch from buckets themselves.
    redirect: bool
    metrics: Metrics

    async def deliver(self, request: web.Request, entry: Entry, asset: str) -> web.StreamResponse:
        """Answer with `all.zip` or with one file out of it. Raises BadRequest when the task has none, and NodeError."""
        if not has_results(entry.task, entry.attempt):
            raise BadRequest("Asset not ready")
        content = await self._content(entry, asset, head=request.method == "HEAD")
        if content is None:
            return await self._stream(request, entry)
        try:
            return await self._send(request, content, _attachment(asset))
        finally:
            content.close()

    async def _content(self, entry: Entry, asset: str, *, head: bool) -> Content | None:
        """Return the content from disk or from a bucket; None if the whole archive is to be streamed from its node. An
        asset of an archive that is still on its node pulls that here first. HEAD of an object in a bucket is answered
        here: a signed URL is valid for GET alone."""
        on_disk = self.results.whole(entry.task.uuid)
        bucket = self.fleet.bucket(entry.task.results_in) if entry.task.results_in else None
        if on_disk is None and bucket is not None and entry.attempt is not None and asset not in FOLDERS:
            folder, redirect = entry.attempt.node_uuid, self.redirect and not head
            if content := await _in_bucket(bucket, folder, asset, redirect=redirect):
                return content
        if asset == ARCHIVE:
            return on_disk
        await self.collector.archive(entry)
        return await self.results.asset(entry.task.uuid, asset)

    async def _send(self, request: web.Request, content: Content, headers: dict[str, str]) -> web.StreamResponse:
        """Answer a request for content whose bytes are at hand: whole, in part, or not modified."""
        verdict = judge(request.headers, size=content.size, etag=content.etag, modified=content.modified)
        headers = headers | {"Accept-Ranges": "bytes"}
        headers |= {"ETag": content.etag} if content.etag else {}
        headers |= {"Last-Modified": formatdate(content.modified, usegmt=True)} if content.modified else {}
        headers |= {"Content-Range": part} if (part := verdict.content_range(content.size)) else {}
        if verdict.status not in (200, 206):
            return web.Response(status=verdict.status, headers=headers)
        response = web.StreamResponse(status=verdict.status, headers=headers)
        response.content_length = verdict.length
        await response.prepare(request)
        if request.method == "HEAD":
            await response.write_eof()
            return response
        with lane(request, verdict.length) as free:
            if free is not None and content.place is not None:
                path, first = content.place
                sent = await _along(request, free, path, first + verdict.start, verdict.length)
                await response.write_eof()
            else:
                async with aclosing(content.blocks(verdict.start, verdict.length)) as blocks:
                    sent = await _write(request, lambda: anext(blocks, b""), response)
        self.metrics.delivered.inc(sent)
        return response

    async def _stream(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        """Stream a node's response through."""
        node = self.registry.get(entry.attempt.node_id) if entry.attempt else None
        if entry.attempt is None or node is None:
            raise results_gone(entry.attempt)
        forwarded = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        try:
            async with Download(self.client, node.address, entry.attempt.node_uuid, ARCHIVE, forwarded) as answer:
                passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
                response = web.StreamResponse(status=answer.status, headers=_attachment(ARCHIVE) | passed)
                await response.prepare(request)
                sent = await _through(request, answer, response) if request.method != "HEAD" else 0
                self.metrics.delivered.inc(sent)
                return response
        except (NodeForgot, NodeRefused) as error:
            raise why_no_results(entry.attempt, error) from None


def _attachment(asset: str) -> dict[str, str]:
    """Return the headers of a file, named as a node names it; a name that needs quoting is encoded as well."""
    name = asset.rsplit("/", 1)[-1]
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    named = name if _TOKEN.fullmatch(name) else f"\"{plain}\"; filename*=UTF-8''{quote(name)}"
    return {
        "Content-Disposition": f"attachment; filename={named}",
        "Content-Type": "application/zip" if asset == ARCHIVE else "application/octet-stream",
    }


# From a bucket


class _BucketContent:
    """A range of an object in a bucket."""

    def __init__(self, bucket: Bucket, key: str, start: int, size: int, etag: str) -> None:
        self.size, self.etag, self.modified = size, etag, 0
        self.place: tuple[Path, int] | None = None
        self._bucket = bucket
        self._key = key
        self._start = start

    def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Read by range requests."""
        return self._bucket.read(self._key, self._start + start, length)

    def close(self) -> None:
        """Do nothing: nothing is open."""


async def _in_bucket(bucket: Bucket, folder: str, asset: str, *, redirect: bool) -> Content | None:
    """Return the object of this name, or the asset out of the archive, read by ranges; None when neither exists."""
    key = f"{folder}/{asset}"
    item = await bucket.find(key)
    if item is not None:
        if redirect:
            raise web.HTTPFound(URL(await bucket.sign(key), encoded=True))
        return _BucketContent(bucket, key, 0, item.size, item.etag)
    key = f"{folder}/{ARCHIVE}"
    whole = await bucket.find(key) if asset != ARCHIVE else None
    if whole is None:
        return None
    return await asyncio.to_thread(_out_of_bucket, bucket, key, whole.size, whole.etag, asset)


def _out_of_bucket(bucket: Bucket, key: str, size: int, etag: str, asset: str) -> Content:
    file = bucket.open(key, size)
    packed = find_asset(file, asset)
    tag = packed.etag(etag)
    if packed.start is not None:
        return _BucketContent(bucket, key, packed.start, packed.entry.file_size, tag)
    return Packed(file, packed, etag=tag, modified=0)


# Sending


async def _along(request: web.Request, free: Splicer, path: Path, start: int, length: int) -> int:
    """Send a part of a file by sendfile; return how many bytes were sent."""
    try:
        await flushed(free.transport)
        sent = await free.send_file(path, start, length)
    except ConnectionError:
        return 0  # the client disconnected
    if sent < length:
        _cut(request)
        raise ClientGone("results went away in the middle of a download")
    return sent


async def _through(request: web.Request, answer: Download, response: web.StreamResponse) -> int:
    """Send the body of a node's response, by splice where possible, else block by block; return how many bytes."""
    sent = 0
    with lane(request, int(answer.headers.get("Content-Length", 0))) as free:
        try:
            while free is not None and (splice_source := answer.take()) is not None:
                first, source, missing = splice_source
                with source:
                    await response.write(first)
                    await flushed(free.transport)
                    count = await free.splice(source, missing)
                sent += len(first) + count
                if await answer.took(count):
                    await response.write_eof()
                    return sent
        except NodeError:
            _cut(request)  # a regular end would pass for a whole file
            raise ClientGone("the node stopped in the middle of a download") from None
        except ConnectionError:
            return sent  # the client disconnected
    return sent + await _write(request, answer.read, response)


async def pipe(request: web.Request, read: Callable[[], Awaitable[bytes]], response: web.StreamResponse) -> int:
    """Send the blocks that `read` returns (empty at the end) as the body of `response`, with back-pressure; return how
    many bytes the client took."""
    await response.prepare(request)
    return await _write(request, read, response)


async def _write(request: web.Request, read: Callable[[], Awaitable[bytes]], response: web.StreamResponse) -> int:
    sent = 0
    while True:
        try:
            block = await read()
        except (aiohttp.ClientError, TimeoutError, OSError, NodeError, ProviderError, zipfile.BadZipFile):
            _cut(request)  # a regular end would pass for a whole file
            raise ClientGone("the node stopped in the middle of a download") from None
        try:
            await (response.write(block) if block else response.write_eof())
        except ConnectionError:
            return sent  # the client disconnected
        if not block:
            return sent
        sent += len(block)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
