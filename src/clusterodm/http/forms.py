# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies: multipart (streamed), urlencoded or JSON, read by one function, with a bound for everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from clusterodm.core.errors import BadRequest
from clusterodm.core.names import base_name
from clusterodm.http.body import Body, open_body
from clusterodm.http.delimiter import Delimiter
from clusterodm.http.disposition import field_and_file

#: Bytes of all fields of one request together; options may hold a boundary or a camera model.
MAX_FIELDS: Final = 8 << 20
MAX_FIELD_COUNT: Final = 100
#: Headers of one part, and bytes of one of them.
_MAX_HEADERS: Final = 32
_MAX_HEADER: Final = 16 << 10


class FileSink(Protocol):
    """Where the bytes of one file go."""

    async def write(self, content: bytes | memoryview) -> None:
        """Take bytes; they may change once this returns."""


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
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("A body with a Content-Encoding is not taken", no_retry=True)
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    with open_body(request, idle) as body:
        if kind == "multipart/form-data":
            return await _read_multipart(body, options.get("boundary", ""), files)
        content = await _read_all(body)
    return (_from_json(content) if kind == "application/json" else _from_urlencoded(content)), 0


def _from_urlencoded(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELD_COUNT))
    except ValueError:
        raise BadRequest("The body cannot be read as form fields") from None


async def _read_all(body: Body) -> bytes:
    content = bytearray()
    async for block in body:
        content += block
        if len(content) > MAX_FIELDS:
            raise BadRequest("The body is too large", no_retry=True)
    return bytes(content)


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


async def _read_multipart(body: Body, boundary: str, files: FileHandler | None) -> tuple[dict[str, str], int]:
    reader = _Reader(files)
    separator = boundary.encode("utf-8", "surrogateescape")
    delimiter = Delimiter(separator)
    try:
        parser = _Parser(
            separator,
            max_header_size=_MAX_HEADER,
            max_header_count=_MAX_HEADERS,
            max_segment_count=100_000 + MAX_FIELD_COUNT,
            header_charset="latin-1",  # takes every byte; field_and_file decodes what matters
        )
        async for block in body:
            plain = delimiter.surely_not_in(block)
            if plain and reader.sink is not None:
                await reader.sink.write(block)
                continue
            for event in parser.parse(bytes(block)):
                if event is None:
                    await _end(reader)
                elif isinstance(event, MultipartSegment):
                    _begin(reader, event)
                elif reader.sink is not None:
                    await reader.sink.write(event)
                elif reader.text is not None:
                    _add_text(reader, reader.text, event)
        parser.close()
    except MultipartError as error:
        raise BadRequest(f"The multipart body cannot be read: {error.args[0]}") from None
    return reader.fields, reader.file_count


class _Parser(PushMultipartParser):  # type: ignore[misc]
    """Takes every part; what its headers mean is read by `_begin`."""

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        segment = MultipartSegment([])
        segment.headerlist = headerlist
        return segment


def _begin(reader: _Reader, segment: MultipartSegment) -> None:
    """A part that is no form field, and one for a file that is none (of a form that nobody filled in), goes by."""
    reader.sink = reader.text = None
    name, file = field_and_file(segment.header("Content-Disposition", ""))
    if name is None or (file is not None and not base_name(file)):
        return
    reader.name = name
    if file is None:
        if len(reader.fields) >= MAX_FIELD_COUNT:
            raise BadRequest("Too many fields", no_retry=True)
        reader.text = bytearray()
    elif reader.files is None or name != "images":
        raise BadRequest("Unexpected field")
    else:
        reader.name = file
        reader.sink = reader.files.begin(file)
        if reader.file_count >= reader.files.max_files:
            raise BadRequest(f"Too many files (at most {reader.files.max_files})", no_retry=True)


def _add_text(reader: _Reader, text: bytearray, content: bytes) -> None:
    reader.size += len(content)
    if reader.size > MAX_FIELDS:
        raise BadRequest("The fields are too large", no_retry=True)
    text += content


async def _end(reader: _Reader) -> None:
    if reader.sink is not None and reader.files is not None:
        reader.file_count += 1
        await reader.files.end(reader.sink, reader.name)
    elif reader.text is not None:
        reader.fields[reader.name] = reader.text.decode(errors="replace")
    reader.sink = reader.text = None
