# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies as a node reads them: multipart only where files may come, urlencoded and JSON only where they may
not, and anything else as an empty body. None of the cluster's own leniency is here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from aiohttp import web
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from clusterodm.core.errors import BadRequest
from clusterodm.devnode.folders import Sink
from clusterodm.http.body import open_body
from clusterodm.http.delimiter import Delimiter

#: Seconds without a byte after which a client counts as gone.
_IDLE: Final = 300.0
#: Bytes of one field, of all fields together, and of a body without files.
_MAX_FIELD: Final = 1 << 20
_MAX_FIELDS: Final = 64 << 20
_MAX_BODY: Final = 100 << 10
_QUOTED: Final = re.compile(r'filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE | re.DOTALL)
_EXTENDED: Final = re.compile(r"filename\*=([^']*)'[^']*'([^;\s]*)", re.IGNORECASE)
_PLAIN: Final = re.compile(r'filename=([^";\s]+)', re.IGNORECASE)

Receive = Callable[[str], Sink]


async def read_multipart(request: web.Request, receive: Receive | None = None) -> tuple[dict[str, str], int]:
    """The fields of a multipart body and the number of its files, given to `receive` by name; nothing of any other
    body. Without `receive` no file is allowed."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if not kind.startswith("multipart/form-data"):
        return {}, 0
    if "boundary" not in options:
        raise BadRequest("Multipart: Boundary not found")
    reader = _Reader(options["boundary"], receive)
    try:
        with open_body(request, _IDLE) as body:
            async for block in body:
                await reader.take(block)
        reader.finish()
    finally:
        await reader.close()
    return reader.fields, reader.files


async def skip_body(request: web.Request) -> None:
    """Read what is left of a body, so that a client that is refused has sent all before it reads why."""
    if request.can_read_body and not request.content.is_eof():
        with open_body(request, _IDLE) as body:
            async for _ in body:
                pass


class _Reader:
    """State while a multipart body goes by. What follows an error is skipped."""

    def __init__(self, boundary: str, receive: Receive | None) -> None:
        self._parser = PushMultipartParser(boundary, max_header_size=16 << 10)
        self._delimiter = Delimiter(boundary.encode())
        self._receive = receive
        self._error: BadRequest | None = None
        self.fields: dict[str, str] = {}
        self.files = 0
        self.sink: Sink | None = None
        self._name = ""
        self._text: bytearray | None = None
        self._size = 0

    async def take(self, block: bytes | memoryview) -> None:
        """The next block."""
        plain = self._delimiter.surely_not_in(block)
        if self._error is not None:
            return
        if plain and self.sink is not None:
            await self.sink.write(block)
            return
        try:
            for event in self._parser.parse(bytes(block)):
                await self._event(event)
        except BadRequest as error:
            self._error = error
        except MultipartError:
            self._error = BadRequest("Unexpected end of multipart data")

    def finish(self) -> None:
        """No more blocks; raises what was wrong with them."""
        try:
            self._parser.close()
        except MultipartError:
            self._error = self._error or BadRequest("Unexpected end of multipart data")
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Keep what came of a file that was cut off."""
        if self.sink is not None:
            await self.sink.close()

    async def _event(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            await self._end()
        elif self.sink is not None:
            await self.sink.write(event)
        else:
            self._add(event)

    def _begin(self, segment: MultipartSegment) -> None:
        self._name, self._text = segment.name or "", None
        if segment.filename is None and "filename*" not in segment.header("Content-Disposition", ""):
            self._text = bytearray()
            return
        if self._receive is None or self._name != "images":
            raise BadRequest("Unexpected field")
        name = base_name(_file_name(segment.header("Content-Disposition", "")))
        if name:
            self.sink = self._receive(name)
            self.files += 1

    def _add(self, content: bytes) -> None:
        if self._text is None:
            return
        self._size += len(content)
        self._text += content
        if len(self._text) > _MAX_FIELD or self._size > _MAX_FIELDS:
            raise BadRequest("Field value too long")

    async def _end(self) -> None:
        if self.sink is not None:
            await self.sink.close()
        elif self._text is not None:
            self.fields[self._name] = self._text.decode(errors="replace")
        self.sink = self._text = None


def _file_name(disposition: str) -> str:
    """The name in a header: `filename*` counts more, a backslash escapes only itself and a quote, `%22` is no quote."""
    if found := _EXTENDED.search(disposition):
        try:
            return unquote_to_bytes(found[2]).decode(found[1] or "utf-8", "replace")
        except LookupError:
            return found[2]
    if found := _QUOTED.search(disposition):
        return re.sub(r'\\(["\\])', r"\1", found[1])
    found = _PLAIN.search(disposition)
    return found[1] if found else ""


def base_name(name: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


async def read_order(request: web.Request) -> dict[str, Any]:
    """The fields of an urlencoded or JSON body; none of any other."""
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
        said = msgspec.json.decode(bytes(content) or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
    return said if isinstance(said, dict) else {}
