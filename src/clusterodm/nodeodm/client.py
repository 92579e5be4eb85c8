# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to a node: bounded in time and size, every failure one of three types, no token in any message."""

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

#: A busy node can take over 30 s to answer.
CALL_TIMEOUT: Final = 45.0
#: Bytes of the largest answer that is read into memory, and of the largest one about a task, of which many are asked
#: for at a time: a longer console is read in pieces.
MAX_ANSWER: Final = 64 << 20
MAX_TASK: Final = 4 << 20
#: How a node refuses a token; only those behind a proxy answer with 401.
OTHER_TOKEN: Final = "Invalid authentication token"  # noqa: S105 - the words of a refusal
#: Characters of an ETag that is sent back.
_LONGEST_ETAG: Final = 200
#: Bytes of an answer that no node gives which are looked at.
_SHORT: Final = 2000
_WANTS_HTTPS: Final = "; it seems to want HTTPS there (https:// in front of its address)"
_FORGOT: Final = ("not found", "invalid uuid")


class TaskStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A task's state as its node says it."""

    code: int
    error_message: str = ""


class Snapshot(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A node's answer on `/task/<uuid>/info`."""

    uuid: str
    status: TaskStatus
    name: str = ""
    date_created: int = 0
    processing_time: float = -1
    options: list[dict[str, Any]] = []
    #: -1: the node does not say.
    images_count: int = -1
    progress: float = 0
    output: list[str] = []


class NodeClient:
    """Calls to any node over one connection pool."""

    def __init__(self, session: aiohttp.ClientSession, trust: Trust | None = None) -> None:
        self._session = session
        self.trust = trust or Trust()

    async def info(self, node: NodeAddress, *, seconds: float = 15.0) -> NodeInfo:
        """`/info`; raises NodeUnreachable for anything that is no node's answer."""
        try:
            return _convert(await self._get(node, "/info", seconds=seconds), NodeInfo)
        except NodeUnreachable as error:
            if not node.tls and str(error) in (reasons.CLOSED, reasons.NO_HTTP):  # all that a TLS server says
                raise NodeUnreachable(f"{error}{_WANTS_HTTPS}") from None
            raise

    async def changed_options(self, node: NodeAddress, etag: str) -> tuple[list[dict[str, Any]] | None, str]:
        """`/options` as the node has it, and what it marks that answer with; None where it says that its options are
        still those of `etag`."""
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
        """`/task/<uuid>/info`, with the console lines from `from_line` when given. Raises AnswerTooLarge for more of
        them than belong in memory."""
        query = {} if from_line is None else {"with_output": str(from_line)}
        answer = await self._get(node, f"/task/{uuid}/info", query, seconds=seconds, most=MAX_TASK)
        snapshot = _convert(answer, Snapshot)
        if snapshot.uuid != uuid:
            raise NodeUnreachable("the node answered with another task")
        return snapshot

    async def output(self, node: NodeAddress, uuid: str, from_line: int) -> AsyncGenerator[list[str], None]:
        """`/task/<uuid>/output`: the console lines from `from_line` in pieces, as they come; however many there are."""
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
            raise NodeUnreachable("the output was cut")

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
        answer = await self._announce(node, uuid, fields)
        if answer.get("uuid") != uuid:
            raise NodeRefused("the node did not take the task's uuid")

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
        """Delete what was uploaded for a task that was never committed. There is no order for that, but a node drops
        the files of an announcement that it refuses."""
        with suppress(NodeRefused, NodeForgot):
            await self._announce(node, uuid, {"options": "["})

    async def _announce(self, node: NodeAddress, uuid: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """POST `/task/new/init` as multipart: a node reads no other body there, and answers as if it had."""
        form = aiohttp.MultipartWriter("form-data")
        for name, value in fields.items():
            form.append(value).set_content_disposition("form-data", name=name)
        return await self._post(node, "/task/new/init", form, {"set-uuid": uuid})

    async def restart(self, node: NodeAddress, uuid: str, options: list[dict[str, Any]] | None) -> None:
        """Start the task again with the files that its node still has."""
        given = {} if options is None else {"options": _options(options)}
        await self._post(node, "/task/restart", {"uuid": uuid, **given})

    @asynccontextmanager
    async def download(
        self, node: NodeAddress, uuid: str, asset: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The open answer to a download, 200 or 206; its body is to be streamed. Only idle time is bounded."""
        async with self.open(node, f"/task/{uuid}/download/{asset}", headers) as response:
            if response.content_type == "application/json" or response.status not in (200, 206):
                _refuse(_decode(await _read(response)) if response.status == 200 else {}, response.status)
            yield response

    @asynccontextmanager
    async def open(
        self, node: NodeAddress, path: str, headers: Mapping[str, str], *, query: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Any GET on a node, as an open answer; `path` and `query` go out as they are."""
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
        most: int = MAX_ANSWER,
    ) -> Any:
        return await self._call("GET", node, path, query or {}, seconds=seconds, most=most)

    async def _post(
        self,
        node: NodeAddress,
        path: str,
        body: Mapping[str, str] | aiohttp.MultipartWriter,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        answer = await self._call("POST", node, path, {}, data=body, headers=headers)
        if not isinstance(answer, dict):
            raise NodeUnreachable("the answer is not one of a node")
        return answer

    async def _call(
        self,
        method: str,
        node: NodeAddress,
        path: str,
        query: Mapping[str, str],
        *,
        seconds: float = CALL_TIMEOUT,
        most: int = MAX_ANSWER,
        **how: Any,
    ) -> Any:
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method,
                    _url(node, path, urlencode(query)),
                    ssl=self.trust.context(node),
                    allow_redirects=False,
                    **how,
                ) as response,
            ):
                content = await _read(response, most)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachable(reasons.describe(error)) from None
        if status == 401:
            raise TokenRejected("the node wants another token")
        if status != 200:
            raise NodeUnreachable(_odd(node, status, response.headers.get("Location", ""), content))
        return _checked(_decode(content))


def _options(options: list[dict[str, Any]]) -> str:
    """Options with every value as text, as clients send them: a node converts what is no text by its type, and passes
    on what it does not convert as it came (a number where it expects text ends NodeODM)."""
    return msgspec.json.encode([{"name": each["name"], "value": _text(each.get("value"))} for each in options]).decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _url(node: NodeAddress, path: str, query: str) -> URL:
    token = urlencode({"token": node.token}) if node.token else ""
    asked = "&".join(part for part in (query, token) if part)
    return as_written(f"{node.url}{path}?{asked}")


async def _read(response: aiohttp.ClientResponse, most: int = MAX_ANSWER) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            raise AnswerTooLarge("the answer is too large")
    return b"".join(parts)


def _decode(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        raise NodeUnreachable("the answer is not JSON") from None


def _checked(answer: Any) -> Any:
    if isinstance(answer, dict) and answer.get("error") is not None:
        _refuse(answer, 200)
    return answer


def _refuse(answer: Any, status: int) -> None:
    text = str(answer.get("error", "")) if isinstance(answer, dict) else ""
    if text.startswith(OTHER_TOKEN):
        raise TokenRejected("the node wants another token")
    if any(part in text.lower() for part in _FORGOT):
        raise NodeForgot(text[:500])
    if status >= 500:
        raise NodeUnreachable(f"HTTP status {status}")
    raise NodeRefused(text[:500] or f"HTTP status {status}")


def _convert(answer: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind, strict=False)
    except msgspec.ValidationError:
        raise NodeUnreachable("the answer is not one of a node") from None


def _odd(node: NodeAddress, status: int, location: str, content: bytes) -> str:
    """What an answer that no node gives says of the address: most often that it is one for HTTPS."""
    said = content[:_SHORT].lower()
    wanted = location.startswith("https:") or (status == 400 and (b"https" in said or b"ssl" in said))
    return f"HTTP status {status}{_WANTS_HTTPS if wanted and not node.tls else ''}"
