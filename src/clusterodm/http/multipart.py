# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Multipart bodies, pulled part by part: nothing is read before it is asked for, so a slow disk slows its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from clusterodm.core.errors import Malformed
from clusterodm.http.body import Block, Body


class Multipart:
    """Iterates over the parts of a body as (headers, content); what is not read of a part is skipped. Raises Malformed,
    and ClientGone as the body does."""

    def __init__(self, body: Body, boundary: bytes, make_parser: Callable[[], PushMultipartParser]) -> None:
        self._body = body
        self._delimiter = _Delimiter(boundary)
        try:
            self._parser = make_parser()
        except MultipartError as error:
            raise _malformed(error) from None
        self._events: Iterator[Any] = iter(())
        #: True between the headers of a part and its end.
        self.in_part = False

    def __aiter__(self) -> Multipart:
        return self

    async def __anext__(self) -> tuple[MultipartSegment, Content]:
        while True:
            event = await self.next_event()
            if isinstance(event, MultipartSegment):
                return event, Content(self)

    async def next_event(self) -> MultipartSegment | Block | None:
        """Return the headers of a part, a block of its content, or None at its end; raise StopAsyncIteration at the end
        of the body."""
        try:
            while True:
                for event in self._events:
                    self.in_part = event is not None
                    return event
                block = await anext(self._body, None)
                if block is None:
                    self._parser.close()
                    raise StopAsyncIteration
                if self._delimiter.absent_from(block) and self.in_part:
                    return block
                self._events = self._parser.parse(bytes(block))
        except MultipartError as error:
            raise _malformed(error) from None


class Content:
    """Iterates over the content of one part, in blocks that are valid until the next one is asked for."""

    def __init__(self, parts: Multipart) -> None:
        self._parts = parts

    def __aiter__(self) -> Content:
        return self

    async def __anext__(self) -> Block:
        block = await self._parts.next_event() if self._parts.in_part else None
        if block is None:
            raise StopAsyncIteration
        return block


def _malformed(error: MultipartError) -> Malformed:
    return Malformed(f"The multipart body cannot be read: {error.args[0]}")


class _Delimiter:
    """The line between two parts. A block of a part's content without any of it needs neither parser nor copy."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        #: True if the parser may hold back the beginning of a delimiter.
        self._held_back = False

    def absent_from(self, block: Block) -> bool:
        """True if no byte of the delimiter is in `block` nor held back by the parser. To be called for every block in
        turn."""
        whole = block.obj if isinstance(block, memoryview) else block
        assert isinstance(whole, bytes | bytearray), "blocks begin where their memory does"  # noqa: S101 - see body.py
        held_back, end = self._held_back, len(block)
        longest = len(self._delimiter) + 1  # the delimiter and one of the two bytes that follow it
        self._held_back = True
        if end <= longest:
            return False  # too short to tell what the parser will hold back
        last = whole.rfind(b"\r", end - longest, end)
        tail = bytes(whole[last:end]) if last >= 0 else b"?"
        self._held_back = self._delimiter.startswith(tail) or tail.startswith(self._delimiter)
        return not held_back and not self._held_back and whole.find(self._delimiter, 0, end) < 0
