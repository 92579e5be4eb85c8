# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to a node: bounded in time and size; every failure is a NodeError, and no message contains a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from clusterodm.core.errors import AnswerTooLarge, NodeForgot, NodeRefused, NodeUnreachable, TokenRejected
from clusterodm.core.nodes import NodeAddress, NodeInfo
from clusterodm.core.tasks import Task
from clusterodm.http import reasons
from clusterodm.http.urls import as_written
from clusterodm.nodeodm.output import OutputReader
from clusterodm.nodeodm.trust import Trust

T = TypeVar("T")

#: A busy node can take over 30 s to respond.
CALL_TIMEOUT: Final = 45.0
#: Maximum size of a response that is read into memory, and of one about a task, of which many are read concurrently:
#: a longer console is read in pieces.
MAX_RESPONSE: Final = 64 << 20
MAX_TASK: Final = 4 << 20
#: Error of a node that rejects a token; only those behind a proxy respond with 401.
INVALID_TOKEN: Final = "Invalid authentication token"  # noqa: S105 - an error message
#: Maximum length of an ETag.
_LONGEST_ETAG: Final = 200
#: Bytes of an unexpected response that are inspected.
_EXCERPT: Final = 2000
_NEEDS_HTTPS: Final = "; it seems to require HTTPS (https:// in front of its address)"
_FORGOT: Final = ("not found", "invalid uuid")


class TaskStatus(msgspec.Struct, frozen=True, rename="camel"):
    """Status of a task as reported by its node."""

    code: int
    error_message: str = ""


class Snapshot(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A node's response to `/task/<uuid>/info`."""

    uuid: str
    status: TaskStatus
    name: str = ""
    date_created: int = 0
    processing_time: float = -1
    options: list[dict[str, Any]] = []
    #: -1: not reported.
    images_count: int = -1
    progress: float = 0
    output: list[str] = []


class NodeClient:
    """Calls to any node over one connection pool."""

    def __init__(self, session: aiohttp.ClientSession, trust: Trust | None = None) -> None:
        self._session = session
        self.trust = trust or Trust()

    async def info(self, node: NodeAddress, *, seconds: float = 15.0) -> NodeInfo:
        """GET `/info`. Raise NodeUnreachable unless the response is one of a node."""
        try:
            return _convert(await self._get(node, "/info", seconds=seconds), NodeInfo)
        except NodeUnreachable as error:
            if not node.tls and str(error) in (reasons.CLOSED, reasons.NO_HTTP):  # what a TLS server looks like
                raise NodeUnreachable(f"{error}{_NEEDS_HTTPS}") from None
            raise

    async def changed_options(self, node: NodeAddress, etag: str) -> tuple[list[dict[str, Any]] | None, str]:
        """GET `/options`, and its ETag; None instead of the options if they are still those of `etag`."""
        async with (
            self.open(node, "/options", {"If-None-Match": etag} if etag else {}) as response,
            asyncio.timeout(CALL_TIMEOUT),
        ):
            if response.status == 304:
                return None, etag
            if response.status != 200:
                raise NodeUnreachable(f"HTTP status {response.status}")
            content = await _read(response)
        options = _convert(_checked(_decode(content)), list[dict[str, Any]])
        return options, response.headers.get("ETag", "")[:_LONGEST_ETAG]

    async def task(
        self, node: NodeAddress, uuid: str, *, from_line: int | None = None, seconds: float = CALL_TIMEOUT
    ) -> Snapshot:
        """GET `/task/<uuid>/info`, with the console from `from_line` if given. Raise AnswerTooLarge if that is too long
        for memory."""
        query = {} if from_line is None else {"with_output": str(from_line)}
        response = await self._get(node, f"/task/{uuid}/info", query, seconds=seconds, most=MAX_TASK)
        snapshot = _convert(response, Snapshot)
        if snapshot.uuid != uuid:
            raise NodeUnreachable("the node reported another task")
        return snapshot

    async def output(self, node: NodeAddress, uuid: str, from_line: int) -> AsyncGenerator[list[str], None]:
        """GET `/task/<uuid>/output`: yield console lines from `from_line` as they arrive, however many there are."""
        reader, begin = OutputReader(), b""
        async with self.open(node, f"/task/{uuid}/output", {}, query=f"line={from_line}") as response:
            if response.status != 200:
                _refuse({}, response.status)
            async for piece in response.content.iter_any():
                if begin == b"" and piece.lstrip().startswith(b"{"):
                    begin = piece
                    _refuse(_decode(piece + await _read(response, MAX_TASK)), 200)
                begin = begin or piece.strip()
                if lines := reader.feed(piece):
                    yield lines
        if not reader.complete:
            raise NodeUnreachable("the output is incomplete")

    async def init(self, node: NodeAddress, task: Task, uuid: str, webhook: str) -> None:
        """Announce a task under the attempt's `uuid`."""
        fields = {
            "name": task.name,
            "options": _options(task.options),
        }
        fields |= {"dateCreated": str(task.given_date)} if task.given_date else {}
        fields |= {"skipPostProcessing": "true"} if task.skip_post_processing else {}
        fields |= {"outputs": msgspec.json.encode(task.outputs).decode()} if task.outputs else {}
        fields |= {"webhook": webhook} if webhook else {}
        body = await self._announce(node, uuid, fields)
        if body.get("uuid") != uuid:
            raise NodeRefused("the node did not accept the task's uuid")

    async def commit(self, node: NodeAddress, uuid: str) -> None:
        """Start the task."""
        await self._post(node, f"/task/new/commit/{uuid}", {})

    async def cancel(self, node: NodeAddress, uuid: str) -> None:
        """Cancel the task on its node."""
        await self._post(node, "/task/cancel", {"uuid": uuid})

    async def remove(self, node: NodeAddress, uuid: str) -> None:
        """Delete the task and its files on its node."""
        await self._post(node, "/task/remove", {"uuid": uuid})

    async def discard(self, node: NodeAddress, uuid: str) -> None:
        """Delete the uploads of a task that was never committed. The API has no call for that, but a node deletes the
        files of an announcement that it refuses."""
        with suppress(NodeRefused, NodeForgot):
            await self._announce(node, uuid, {"options": "["})

    async def _announce(self, node: NodeAddress, uuid: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """POST `/task/new/init` as multipart: nodes silently ignore any other body."""
        form = aiohttp.MultipartWriter("form-data")
        for name, value in fields.items():
            form.append(value).set_content_disposition("form-data", name=name)
        return await self._post(node, "/task/new/init", form, {"set-uuid": uuid})

    async def restart(self, node: NodeAddress, uuid: str, options: list[dict[str, Any]] | None) -> None:
        """Restart a task with the files that its node still has."""
        fields = {} if options is None else {"options": _options(options)}
        await self._post(node, "/task/restart", {"uuid": uuid, **fields})

    @asynccontextmanager
    async def download(
        self, node: NodeAddress, uuid: str, asset: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a download; yield the response, 200 or 206, to be streamed. Only idle time is bounded."""
        async with self.open(node, f"/task/{uuid}/download/{asset}", headers) as response:
            if response.content_type == "application/json" or response.status not in (200, 206):
                _refuse(_decode(await _read(response)) if response.status == 200 else {}, response.status)
            yield response

    @asynccontextmanager
    async def open(
        self, node: NodeAddress, path: str, headers: Mapping[str, str], *, query: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET anything from a node; yield the open response. `path` and `query` are sent as they are."""
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=CALL_TIMEOUT)
        try:
            async with self._session.get(
                _url(node, path, query),
                headers=headers,
                timeout=timeout,
                ssl=self.trust.context(node),
                allow_redirects=False,
                read_bufsize=1 << 20,
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachable(reasons.describe(error)) from None

    async def _get(
        self,
        node: NodeAddress,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        seconds: float = CALL_TIMEOUT,
        most: int = MAX_RESPONSE,
    ) -> Any:
        return await self._call("GET", node, path, query or {}, seconds=seconds, most=most)

    async def _post(
        self,
        node: NodeAddress,
        path: str,
        body: Mapping[str, str] | aiohttp.MultipartWriter,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        content = await self._call("POST", node, path, {}, data=body, headers=headers)
        if not isinstance(content, dict):
            raise NodeUnreachable("the response is not one of a node")
        return content

    async def _call(
        self,
        method: str,
        node: NodeAddress,
        path: str,
        query: Mapping[str, str],
        *,
        seconds: float = CALL_TIMEOUT,
        most: int = MAX_RESPONSE,
        **options: Any,
    ) -> Any:
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method,
                    _url(node, path, urlencode(query)),
                    ssl=self.trust.context(node),
                    allow_redirects=False,
                    **options,
                ) as response,
            ):
                content = await _read(response, most)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachable(reasons.describe(error)) from None
        if status == 401:
            raise TokenRejected("token missing or rejected")
        if status != 200:
            raise NodeUnreachable(_unexpected(node, status, response.headers.get("Location", ""), content))
        return _checked(_decode(content))


def _options(options: list[dict[str, Any]]) -> str:
    """Encode options with every value as text, as clients do: a node converts text by the option's type, and a value of
    another type is passed on unchecked (a number where text is expected crashes NodeODM)."""
    return msgspec.json.encode([{"name": each["name"], "value": _text(each.get("value"))} for each in options]).decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _url(node: NodeAddress, path: str, query: str) -> URL:
    token = urlencode({"token": node.token}) if node.token else ""
    full_query = "&".join(part for part in (query, token) if part)
    return as_written(f"{node.url}{path}?{full_query}")


async def _read(response: aiohttp.ClientResponse, most: int = MAX_RESPONSE) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            raise AnswerTooLarge("the response is too large")
    return b"".join(parts)


def _decode(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        raise NodeUnreachable("the response is not JSON") from None


def _checked(content: Any) -> Any:
    if isinstance(content, dict) and content.get("error") is not None:
        _refuse(content, 200)
    return content


def _refuse(content: Any, status: int) -> None:
    text = str(content.get("error", "")) if isinstance(content, dict) else ""
    if text.startswith(INVALID_TOKEN):
        raise TokenRejected("token missing or rejected")
    if any(part in text.lower() for part in _FORGOT):
        raise NodeForgot(text[:500])
    if status >= 500:
        raise NodeUnreachable(f"HTTP status {status}")
    raise NodeRefused(text[:500] or f"HTTP status {status}")


def _convert(content: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(content, kind, strict=False)
    except msgspec.ValidationError:
        raise NodeUnreachable("the response is not one of a node") from None


def _unexpected(node: NodeAddress, status: int, location: str, content: bytes) -> str:
    """Describe a response that no node gives: most often the port is one for HTTPS."""
    text = content[:_EXCERPT].lower()
    needs_https = location.startswith("https:") or (status == 400 and (b"https" in text or b"ssl" in text))
    return f"HTTP status {status}{_NEEDS_HTTPS if needs_https and not node.tls else ''}"
