# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lines of a TCP stream, without the commands of the telnet protocol."""

from __future__ import annotations

import asyncio
from typing import Final

_MAX_LINE: Final = 4096
#: Seconds without a line after which a session is closed.
_IDLE: Final = 3600.0
#: Seconds after which a single packet without a newline counts as a line.
_QUIET: Final = 0.3
#: Telnet protocol: escape, begin and end of an option, first and last request.
_IAC, _SB, _SE, _WILL, _DONT = 255, 250, 240, 251, 254


class LineReader:
    """The lines of a session."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._bytes = bytearray()
        self._text = bytearray()
        #: Packets of the incomplete line.
        self._packets = 0
        self._at_end = False

    async def next(self) -> str | None:
        """Return the next line without its newline; None at the end. Raises TimeoutError for a silent session."""
        while True:
            end = self._text.find(b"\n")
            if end >= 0:
                return self._line(end)
            if self._at_end:
                return self._line(len(self._text)) if self._text else None
            if len(self._text) > _MAX_LINE:
                return None
            await self._receive()

    def _line(self, end: int) -> str:
        line = bytes(self._text[:end])
        del self._text[: end + 1]
        self._packets = 1 if self._text else 0
        return _printable(line)

    async def _receive(self) -> None:
        """Receive more. A single packet of several letters that nothing follows counts as a line although it has no
        newline: to the original, each packet is a command. Terminals send whole lines, or single letters."""
        may_be_whole = self._packets == 1 and len(self._text) > 1 and not self._bytes
        try:
            async with asyncio.timeout(_QUIET if may_be_whole else _IDLE):
                chunk = await self._reader.read(_MAX_LINE)
        except TimeoutError:
            if not may_be_whole:
                raise
            chunk = b"\n"
        self._at_end = not chunk
        self._bytes += chunk
        self._take()
        self._packets = self._packets + 1 if self._text else 0

    def _take(self) -> None:
        """Move text, drop telnet commands; an incomplete one stays."""
        position = 0
        while position < len(self._bytes):
            if self._bytes[position] != _IAC:
                self._text.append(self._bytes[position])
                position += 1
                continue
            length = _command_length(self._bytes, position)
            if length is None:
                break
            if length == 2 and self._bytes[position + 1] == _IAC:
                self._text.append(_IAC)
            position += length
        del self._bytes[:position]


def _command_length(content: bytearray, start: int) -> int | None:
    """Return the bytes of the telnet command at `start`; None while it is incomplete."""
    if len(content) < start + 2:
        return None
    kind = content[start + 1]
    if _WILL <= kind <= _DONT:
        return 3 if len(content) >= start + 3 else None
    if kind == _SB:
        end = content.find(bytes([_IAC, _SE]), start + 2)
        return end + 2 - start if end >= 0 else (None if len(content) - start < _MAX_LINE else len(content) - start)
    return 2


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").replace("\r", "").replace("\0", "")
    erased: list[str] = []
    for char in text:
        if char in "\b\x7f":
            del erased[-1:]
        else:
            erased.append(char)
    return "".join(char for char in erased if char.isprintable()).strip()
