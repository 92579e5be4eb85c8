# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Incremental parser for a node's console: only a piece of the list is in memory at a time."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clusterodm.core.errors import NodeUnreachable

#: Maximum length of an encoded line in bytes; longer ones are skipped.
_LONGEST: Final = 4 << 20
#: Maximum length of a stored line in characters.
LINE: Final = 1 << 20
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REST: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BETWEEN: Final = re.compile(rb"[\s,]*")
_TOO_LONG: Final = "(a line that is too long is left out)"


class OutputReader:
    """Parses a JSON list of strings from pieces of bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._skipping = False
        #: True once the list is closed.
        self.complete = False

    def feed(self, piece: bytes) -> list[str]:
        """Take the next bytes; return the lines completed by them. Raise NodeUnreachable if it is not a list of
        strings."""
        content, at = self._rest + piece, 0
        if self._skipping:
            match = _REST.match(content)
            if match is None:
                self._rest = content[-1:] if content.endswith(b"\\") else b""
                return []
            at, self._skipping = match.end(), False
        elif not self._begun:
            content = content.lstrip()
            if content[:1] not in (b"", b"["):
                raise NodeUnreachable("the response is not one of a node")
            self._begun, at = bool(content), 1
        return self._lines(content, at)

    def _lines(self, content: bytes, at: int) -> list[str]:
        tokens: list[bytes] = []
        while (at := _end(_BETWEEN, content, at)) < len(content) and not self.complete:
            if content[at : at + 1] == b"]":
                self.complete = True
            elif content[at : at + 1] != b'"':
                raise NodeUnreachable("the response is not one of a node")
            elif (match := _STRING.match(content, at)) is not None:
                tokens.append(match.group())
                at = match.end()
            else:
                break
        self._rest = content[at:]
        lines = _decoded(tokens)
        if len(self._rest) > _LONGEST:
            self._skipping, self._rest = True, b"\\" if _open_escape(self._rest) else b""
            lines.append(_TOO_LONG)
        return lines


def shortened(line: str) -> str:
    """Return a line, cut to the stored length."""
    return line if len(line) <= LINE else line[:LINE] + "..."


def _end(pattern: re.Pattern[bytes], content: bytes, at: int) -> int:
    match = pattern.match(content, at)
    return match.end() if match else at


def _open_escape(content: bytes) -> bool:
    """True if the bytes end in an unpaired backslash, which escapes the next byte."""
    return (len(content) - len(content.rstrip(b"\\"))) % 2 == 1


def _decoded(tokens: list[bytes]) -> list[str]:
    try:
        return msgspec.json.decode(b"[" + b",".join(tokens) + b"]", type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NodeUnreachable("the response is not JSON") from None
