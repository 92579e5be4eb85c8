# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forms: multipart (streamed), urlencoded or JSON, with a bound for everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from multipart import MultipartSegment, PushMultipartParser, parse_options_header

from clusterodm.core.errors import BadRequest
from clusterodm.core.names import base_name
from clusterodm.http.body import Body, open_body
from clusterodm.http.disposition import field_and_file
from clusterodm.http.multipart import Content, Multipart

#: Bytes of all fields of one request together; options may hold a boundary or a camera model.
MAX_FIELDS: Final = 8 << 20
MAX_FIELD_COUNT: Final = 100
#: Headers of one part, and bytes of one of them.
_MAX_HEADERS: Final = 32
_MAX_HEADER: Final = 16 << 10


class Form:
    """A form while it is received: iterate over its files as (name, content); the fields are complete after the last
    file. What is not read of a file is skipped. Raises BadRequest and ClientGone."""

    def __init__(self, body: Body, source: Multipart | Callable[[bytes], dict[str, str]]) -> None:
        self._body = body
        #: The parts, or what decodes the whole body if it is not multipart.
        self._source = source
        self._size = 0
        self.fields: dict[str, str] = {}
        self.file_count = 0

    def __aiter__(self) -> Form:
        return self

    async def __anext__(self) -> tuple[str, Content]:
        if not isinstance(self._source, Multipart):
            self.fields = self._source(await _read_all(self._body))
            raise StopAsyncIteration
        async for headers, content in self._source:
            name, file = field_and_file(headers.header("Content-Disposition", ""))
            if name is None or (file is not None and not base_name(file)):
                continue  # no form field, or the file input of a form that was left empty
            if file is None:
                await self._read_field(name, content)
            elif name == "images":
                self.file_count += 1
                return file, content
            else:
                raise BadRequest("Unexpected field")
        raise StopAsyncIteration

    async def _read_field(self, name: str, content: Content) -> None:
        if len(self.fields) >= MAX_FIELD_COUNT:
            raise BadRequest("Too many fields", no_retry=True)
        text = bytearray()
        async for block in content:
            self._size += len(block)
            if self._size > MAX_FIELDS:
                raise BadRequest("The fields are too large", no_retry=True)
            text += block
        self.fields[name] = text.decode(errors="replace")


@contextmanager
def open_form(request: web.Request, *, idle: float) -> Iterator[Form]:
    """Open the form in a request's body, whatever its encoding. `idle`: seconds without a byte after which the client
    counts as gone."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("A body with a Content-Encoding is not taken", no_retry=True)
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    with open_body(request, idle) as body:
        if kind == "multipart/form-data":
            yield multipart_form(body, options.get("boundary", ""))
        else:
            yield Form(body, _from_json if kind == "application/json" else _from_urlencoded)


def multipart_form(body: Body, boundary: str) -> Form:
    """Return the form in a multipart body."""
    separator = boundary.encode("utf-8", "surrogateescape")
    make_parser = partial(
        _Parser,
        separator,
        max_header_size=_MAX_HEADER,
        max_header_count=_MAX_HEADERS,
        max_segment_count=100_000 + MAX_FIELD_COUNT,
        header_charset="latin-1",  # takes every byte; field_and_file decodes what matters
    )
    return Form(body, Multipart(body, separator, make_parser))


async def read_fields(request: web.Request, *, idle: float) -> dict[str, str]:
    """Return the fields of a form without files."""
    with open_form(request, idle=idle) as form:
        async for _ in form:
            raise BadRequest("Unexpected field")
        return form.fields


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


class _Parser(PushMultipartParser):  # type: ignore[misc]
    """Takes parts with any headers; what these mean is for Form to say."""

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        segment = MultipartSegment([])
        segment.headerlist = headerlist
        return segment
