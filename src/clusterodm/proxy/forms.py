# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies: multipart (streamed), urlencoded or JSON, read by one function, with a bound for everything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import aiohttp
import msgspec
from aiohttp import web
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from clusterodm.core.errors import BadRequest, ClientGone

#: Bytes of all fields of one request together; options may hold a boundary or a camera model.
MAX_FIELDS: Final = 8 << 20
MAX_FIELD_COUNT: Final = 100


class FileSink(Protocol):
    """Where the bytes of one file go."""

    async def write(self, content: bytes) -> None:
        """Take bytes."""


@dataclass(frozen=True)
class FileHandler:
    """What to do with files: `begin` opens a sink for a name, `end` is called when it is whole."""

    begin: Callable[[str], FileSink]
    end: Callable[[FileSink, str], Awaitable[None]]
    max_files: int


@dataclass
class _Reader:
    """State while a multipart body goes by."""

    files: FileHandler | None
    fields: dict[str, str] = field(default_factory=dict)
    file_count: int = 0
    sink: FileSink | None = None
    name: str = ""
    text: bytearray | None = None
    size: int = 0


async def read_form(
    request: web.Request, *, idle: float, files: FileHandler | None = None
) -> tuple[dict[str, str], int]:
    """The fields of a body and the number of files in it, whatever its form. `idle`: seconds without a byte after
    which the client counts as gone. Raises BadRequest, ClientGone, and what `files` raises."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    with _Body(request, idle) as chunks:
        if kind == "multipart/form-data":
            return await _read_multipart(chunks, options.get("boundary", ""), files)
        body = await _read_all(chunks)
    return (_from_json(body) if kind == "application/json" else _from_urlencoded(body)), 0


def _from_urlencoded(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELD_COUNT))
    except ValueError:
        raise BadRequest("The body cannot be read as form fields") from None


class _Body:
    """The body as it comes; every error of the connection is the client's. A client that sends nothing for too long
    is found by a timer, so that a chunk costs no timeout of its own."""

    def __init__(self, request: web.Request, idle: float) -> None:
        self._content = request.content
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer = self._loop.call_later(idle, self._look)

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        since = self._waiting_since
        waited = self._loop.time() - since if since is not None else 0.0
        if waited >= self._idle:
            self._content.set_exception(ClientGone(f"Nothing was received for {self._idle:g} seconds"))
        else:
            self._timer = self._loop.call_later(self._idle - waited, self._look)

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        self._waiting_since = self._loop.time()
        chunk = b""
        try:
            while not chunk and not self._content.at_eof():  # the end of an HTTP chunk comes as an empty piece
                chunk, _ = await self._content.readchunk()
        except (aiohttp.ClientPayloadError, aiohttp.http_exceptions.HttpProcessingError, ConnectionError) as error:
            raise ClientGone(f"The upload was cut off ({type(error).__name__})") from None
        self._waiting_since = None
        if not chunk:
            raise StopAsyncIteration
        return chunk


async def _read_all(chunks: _Body) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_FIELDS:
            raise BadRequest("The body is too large", no_retry=True)
    return bytes(body)


def _from_json(body: bytes) -> dict[str, str]:
    try:
        value = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object")
    return {key: _as_text(item) for key, item in value.items() if item is not None}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


async def _read_multipart(chunks: _Body, boundary: str, files: FileHandler | None) -> tuple[dict[str, str], int]:
    reader = _Reader(files)
    try:
        parser = PushMultipartParser(boundary, max_header_size=16 << 10, max_segment_count=100_000 + MAX_FIELD_COUNT)
        async for chunk in chunks:
            for event in parser.parse(chunk):
                if event is None:
                    await _end(reader)
                elif isinstance(event, MultipartSegment):
                    _begin(reader, event)
                elif reader.sink is not None:
                    await reader.sink.write(event)
                else:
                    _add_text(reader, event)
        parser.close()
    except MultipartError as error:
        raise BadRequest(f"The multipart body cannot be read: {error}") from None
    return reader.fields, reader.file_count


def _begin(reader: _Reader, segment: MultipartSegment) -> None:
    reader.name = segment.name or ""
    reader.sink, reader.text = None, None
    if segment.filename is None:
        if len(reader.fields) >= MAX_FIELD_COUNT:
            raise BadRequest("Too many fields", no_retry=True)
        reader.text = bytearray()
    elif reader.files is None or reader.name != "images":
        raise BadRequest("Unexpected field")
    else:
        if reader.file_count >= reader.files.max_files:
            raise BadRequest(f"Too many files (at most {reader.files.max_files})", no_retry=True)
        reader.name = segment.filename
        reader.sink = reader.files.begin(segment.filename)


def _add_text(reader: _Reader, content: bytes) -> None:
    reader.size += len(content)
    if reader.text is None or reader.size > MAX_FIELDS:
        raise BadRequest("The fields are too large", no_retry=True)
    reader.text += content


async def _end(reader: _Reader) -> None:
    if reader.sink is not None and reader.files is not None:
        reader.file_count += 1
        await reader.files.end(reader.sink, reader.name)
    elif reader.text is not None:
        reader.fields[reader.name] = reader.text.decode(errors="replace")
    reader.sink = reader.text = None
