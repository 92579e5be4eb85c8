# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results on their way out: from our disk, from a bucket, or streamed through from the node that has them."""

from __future__ import annotations

import asyncio
import re
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from clusterodm.cluster.context import Context
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.collector import results_gone, why_no_results
from clusterodm.core.assets import FOLDERS
from clusterodm.core.conditional import judge
from clusterodm.core.errors import BadRequest, ClientGone, NodeError, NodeForgot, NodeRefused, ProviderError
from clusterodm.core.tasks import has_results
from clusterodm.files.results import ARCHIVE, Content, Packed, find_asset
from clusterodm.http.zero_copy import Splicer, flushed, lane
from clusterodm.nodeodm import Download
from clusterodm.providers import Bucket

#: A name that needs no quotes (RFC 9110).
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers of a node's answer that mean the same when we pass them on.
_PASSED: Final = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified")
#: Headers of a client that a node should see.
_ASKED: Final = ("Range", "If-Range")


async def deliver(request: web.Request, cluster: Context, entry: Entry, asset: str) -> web.StreamResponse:
    """Answer with `all.zip` or with one file out of it. Raises BadRequest when the task has none, and NodeError."""
    if not has_results(entry.task, entry.attempt):
        raise BadRequest("Asset not ready")
    content = await _content(cluster, entry, asset, head=request.method == "HEAD")
    if content is None:
        return await _stream(request, cluster, entry)
    try:
        return await _send(request, cluster, content, _attachment(asset))
    finally:
        content.close()


async def _content(cluster: Context, entry: Entry, asset: str, *, head: bool) -> Content | None:
    """What is to be sent from here or from a bucket; None: all there is, from its node. An asset of an archive that is
    still on its node has it pulled here first. What a bucket would say to `head` is said here: the address that it
    signs is good for GET alone."""
    kept = cluster.results.whole(entry.task.uuid)
    bucket = cluster.autoscaler.fleet.bucket(entry.task.results_in) if entry.task.results_in else None
    if kept is None and bucket is not None and entry.attempt is not None and asset not in FOLDERS:
        folder, redirect = entry.attempt.node_uuid, cluster.settings.results_from_s3 == "redirect" and not head
        if found := await _in_bucket(bucket, folder, asset, redirect=redirect):
            return found
    if asset == ARCHIVE:
        return kept
    await cluster.collector.archive(entry)
    return await cluster.results.asset(entry.task.uuid, asset)


def _attachment(asset: str) -> dict[str, str]:
    """Headers of a file, named as a node names it; a name that needs quotes is encoded beside them."""
    name = asset.rsplit("/", 1)[-1]
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    named = name if _TOKEN.fullmatch(name) else f"\"{plain}\"; filename*=UTF-8''{quote(name)}"
    return {
        "Content-Disposition": f"attachment; filename={named}",
        "Content-Type": "application/zip" if asset == ARCHIVE else "application/octet-stream",
    }


# From a bucket


class _BucketContent:
    """Bytes of an object of a bucket."""

    def __init__(self, bucket: Bucket, key: str, start: int, size: int, etag: str) -> None:
        self.size, self.etag, self.modified = size, etag, 0
        self.place: tuple[Path, int] | None = None
        self._bucket = bucket
        self._key = key
        self._start = start

    def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Asked for by ranges."""
        return self._bucket.read(self._key, self._start + start, length)

    def close(self) -> None:
        """Nothing is open."""


async def _in_bucket(bucket: Bucket, folder: str, asset: str, *, redirect: bool) -> Content | None:
    """An object of this name, or an asset out of the archive, of which only what is needed is read; None when there is
    neither."""
    key = f"{folder}/{asset}"
    found = await bucket.find(key)
    if found is not None:
        if redirect:
            raise web.HTTPFound(URL(await bucket.sign(key), encoded=True))
        return _BucketContent(bucket, key, 0, found.size, found.etag)
    key = f"{folder}/{ARCHIVE}"
    whole = await bucket.find(key) if asset != ARCHIVE else None
    if whole is None:
        return None
    return await asyncio.to_thread(_out_of_bucket, bucket, key, whole.size, whole.etag, asset)


def _out_of_bucket(bucket: Bucket, key: str, size: int, etag: str, asset: str) -> Content:
    file = bucket.open(key, size)
    found = find_asset(file, asset)
    tag = found.etag(etag)
    if found.start is not None:
        return _BucketContent(bucket, key, found.start, found.entry.file_size, tag)
    return Packed(file, found, etag=tag, modified=0)


# Sending


async def _send(
    request: web.Request, cluster: Context, content: Content, headers: dict[str, str]
) -> web.StreamResponse:
    """What a request wants of something of which we have every byte at hand."""
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
    cluster.metrics.delivered.inc(sent)
    return response


async def _along(request: web.Request, free: Splicer, path: Path, start: int, length: int) -> int:
    """A file by sendfile; how many bytes went out."""
    try:
        await flushed(free.transport)
        sent = await free.send_file(path, start, length)
    except ConnectionError:
        return 0  # the client left; nothing more to say to it
    if sent < length:
        _cut(request)
        raise ClientGone("results went away in the middle of a download")
    return sent


async def _stream(request: web.Request, cluster: Context, entry: Entry) -> web.StreamResponse:
    """Pass a node's answer through as it comes."""
    node = cluster.registry.get(entry.attempt.node_id) if entry.attempt else None
    if entry.attempt is None or node is None:
        raise results_gone(entry.attempt)
    asked = {name: request.headers[name] for name in _ASKED if name in request.headers}
    try:
        async with Download(cluster.client, node.address, entry.attempt.node_uuid, ARCHIVE, asked) as answer:
            passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=_attachment(ARCHIVE) | passed)
            await response.prepare(request)
            sent = await _through(request, answer, response) if request.method != "HEAD" else 0
            cluster.metrics.delivered.inc(sent)
            return response
    except (NodeForgot, NodeRefused) as error:
        raise why_no_results(entry.attempt, error) from None


async def _through(request: web.Request, answer: Download, response: web.StreamResponse) -> int:
    """The body of a node's answer: by splice as far as that goes, else block by block; how many bytes went out."""
    sent = 0
    with lane(request, int(answer.headers.get("Content-Length", 0))) as free:
        try:
            while free is not None and (taken := answer.take()) is not None:
                first, source, missing = taken
                with source:
                    await response.write(first)
                    await flushed(free.transport)
                    count = await free.splice(source, missing)
                sent += len(first) + count
                if await answer.took(count):
                    await response.write_eof()
                    return sent
        except NodeError:
            _cut(request)  # an end in good order would pass for a whole file
            raise ClientGone("the node stopped in the middle of a download") from None
        except ConnectionError:
            return sent  # the client left
    return sent + await _write(request, answer.read, response)


async def pipe(request: web.Request, read: Callable[[], Awaitable[bytes]], response: web.StreamResponse) -> int:
    """Send the blocks that `read` gives (empty at the end) as the body of `response`, as fast as the client takes
    them; how many bytes it took."""
    await response.prepare(request)
    return await _write(request, read, response)


async def _write(request: web.Request, read: Callable[[], Awaitable[bytes]], response: web.StreamResponse) -> int:
    sent = 0
    while True:
        try:
            block = await read()
        except (aiohttp.ClientError, TimeoutError, OSError, NodeError, ProviderError, zipfile.BadZipFile):
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
