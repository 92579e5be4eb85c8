# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies as a node reads them: multipart for requests with files, urlencoded and JSON for the others, anything
else as an empty body. The cluster's own leniency is not shared."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from aiohttp import web
from multipart import PushMultipartParser, parse_options_header

from clusterodm.core.errors import BadRequest, Malformed
from clusterodm.http.body import open_body
from clusterodm.http.multipart import Content, Multipart

#: Seconds without a byte after which a client counts as gone.
_IDLE: Final = 300.0
#: Bytes of one field, of all fields together, and of a body without files.
_MAX_FIELD: Final = 1 << 20
_MAX_FIELDS: Final = 64 << 20
_MAX_BODY: Final = 100 << 10
_QUOTED: Final = re.compile(r'filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE | re.DOTALL)
_EXTENDED: Final = re.compile(r"filename\*=([^']*)'[^']*'([^;\s]*)", re.IGNORECASE)
_PLAIN: Final = re.compile(r'filename=([^";\s]+)', re.IGNORECASE)


class NodeForm:
    """A multipart form while it is received: iterate over its files as (name, content); the fields are complete after
    the last file."""

    def __init__(self, parts: Multipart | None) -> None:
        self._parts = parts
        self._size = 0
        self.fields: dict[str, str] = {}
        self.file_count = 0

    def __aiter__(self) -> NodeForm:
        return self

    async def __anext__(self) -> tuple[str, Content]:
        if self._parts is None:
            raise StopAsyncIteration
        async for headers, content in self._parts:
            disposition = headers.header("Content-Disposition", "")
            if headers.filename is None and "filename*" not in disposition:
                self.fields[headers.name or ""] = await self._text(content)
            elif headers.name != "images":
                raise BadRequest("Unexpected field")
            elif name := base_name(_file_name(disposition)):
                self.file_count += 1
                return name, content
        raise StopAsyncIteration

    async def _text(self, content: Content) -> str:
        text = bytearray()
        async for block in content:
            self._size += len(block)
            text += block
            if len(text) > _MAX_FIELD or self._size > _MAX_FIELDS:
                raise BadRequest("Field value too long")
        return text.decode(errors="replace")


@asynccontextmanager
async def open_form(request: web.Request) -> AsyncIterator[NodeForm]:
    """Open the form in a multipart body; any other body counts as empty. After an error the rest is read: a client
    sends its whole body before it reads why it was refused."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if not kind.startswith("multipart/form-data"):
        yield NodeForm(None)
        return
    if "boundary" not in options:
        raise BadRequest("Multipart: Boundary not found")
    boundary = options["boundary"]
    with open_body(request, _IDLE) as body:
        try:
            make_parser = partial(PushMultipartParser, boundary, max_header_size=16 << 10)
            yield NodeForm(Multipart(body, boundary.encode(), make_parser))
        except BadRequest as error:
            async for _ in body:
                pass
            if isinstance(error, Malformed):
                raise BadRequest("Unexpected end of multipart data") from None
            raise


async def read_fields(request: web.Request) -> dict[str, str]:
    """Return the fields of a form without files."""
    async with open_form(request) as form:
        async for _ in form:
            raise BadRequest("Unexpected field")
        return form.fields


async def skip_body(request: web.Request) -> None:
    """Read the rest of a body: a client sends all of it before it reads why it was refused."""
    if request.can_read_body and not request.content.is_eof():
        with open_body(request, _IDLE) as body:
            async for _ in body:
                pass


def _file_name(disposition: str) -> str:
    """Return the name in a header: `filename*` wins, a backslash escapes only itself and a quote, `%22` is no quote."""
    if match := _EXTENDED.search(disposition):
        try:
            return unquote_to_bytes(match[2]).decode(match[1] or "utf-8", "replace")
        except LookupError:
            return match[2]
    if match := _QUOTED.search(disposition):
        return re.sub(r'\\(["\\])', r"\1", match[1])
    match = _PLAIN.search(disposition)
    return match[1] if match else ""


def base_name(name: str) -> str:
    """Return the last part of a path of any system."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


async def read_order(request: web.Request) -> dict[str, Any]:
    """Return the fields of an urlencoded or JSON body; none of any other."""
    kind = request.content_type
    if kind not in ("application/x-www-form-urlencoded", "application/json"):
        return {}
    content = bytearray()
    async for block in request.content.iter_any():
        content += block
        if len(content) > _MAX_BODY:
            raise BadRequest("request entity too large")
    if kind != "application/json":
        return dict(parse_qsl(content.decode(errors="replace"), keep_blank_values=True))
    try:
        fields = msgspec.json.decode(bytes(content) or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
    return fields if isinstance(fields, dict) else {}
