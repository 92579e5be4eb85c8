# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node's console lines as they come in: however long the list is, a piece of it at a time is in memory."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clusterodm.core.errors import NodeUnreachable

#: Bytes of one encoded line that are waited for; of a longer one the rest is skipped.
_LONGEST: Final = 4 << 20
#: Characters of a line that are kept.
LINE: Final = 1 << 20
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REST: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BETWEEN: Final = re.compile(rb"[\s,]*")
_TOO_LONG: Final = "(a line that is too long is left out)"


class OutputReader:
    """Reads a JSON list of strings of which bytes come in pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._skipping = False
        #: True once the list is closed.
        self.complete = False

    def feed(self, piece: bytes) -> list[str]:
        """Take the next bytes; return the lines that are complete with them. Raises NodeUnreachable for what is no
        list of strings."""
        content, at = self._rest + piece, 0
        if self._skipping:
            found = _REST.match(content)
            if found is None:
                self._rest = content[-1:] if content.endswith(b"\\") else b""
                return []
            at, self._skipping = found.end(), False
        elif not self._begun:
            content = content.lstrip()
            if content[:1] not in (b"", b"["):
                raise NodeUnreachable("the answer is not one of a node")
            self._begun, at = bool(content), 1
        return self._lines(content, at)

    def _lines(self, content: bytes, at: int) -> list[str]:
        tokens: list[bytes] = []
        while (at := _end(_BETWEEN, content, at)) < len(content) and not self.complete:
            if content[at : at + 1] == b"]":
                self.complete = True
            elif content[at : at + 1] != b'"':
                raise NodeUnreachable("the answer is not one of a node")
            elif (found := _STRING.match(content, at)) is not None:
                tokens.append(found.group())
                at = found.end()
            else:
                break
        self._rest = content[at:]
        lines = _decoded(tokens)
        if len(self._rest) > _LONGEST:
            self._skipping, self._rest = True, b"\\" if _open_escape(self._rest) else b""
            lines.append(_TOO_LONG)
        return lines


def shortened(line: str) -> str:
    """A line as it is kept."""
    return line if len(line) <= LINE else line[:LINE] + "..."


def _end(pattern: re.Pattern[bytes], content: bytes, at: int) -> int:
    found = pattern.match(content, at)
    return found.end() if found else at


def _open_escape(content: bytes) -> bool:
    """Whether bytes end in a backslash that escapes what comes next."""
    return (len(content) - len(content.rstrip(b"\\"))) % 2 == 1


def _decoded(tokens: list[bytes]) -> list[str]:
    try:
        return msgspec.json.decode(b"[" + b",".join(tokens) + b"]", type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NodeUnreachable("the answer is not JSON") from None
