# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Messages and values of the frontend/backend protocol, version 3."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

from clusterodm.testing.simulation.errors import RealWorldError

BOOL: Final = 16
BIGINT: Final = 20
INTEGER: Final = 23
TEXT: Final = 25
FLOAT: Final = 701
TEXTS: Final = 1009
CHAR: Final = 1042
VARCHAR: Final = 1043
VOID: Final = 2278

#: Types by the words of a cast or a column.
TYPES: Final = {
    "BOOLEAN": BOOL,
    "BIGINT": BIGINT,
    "INTEGER": INTEGER,
    "INT": INTEGER,
    "FLOAT": FLOAT,
    "TEXT": TEXT,
    "CHAR": CHAR,
    "VARCHAR": VARCHAR,
}
_TEXTUAL: Final = (TEXT, CHAR, VARCHAR)
_PACKED: Final = {BOOL: "!?", BIGINT: "!q", INTEGER: "!i", FLOAT: "!d"}

#: Codes of the first message of a connection.
CANCEL: Final = 80877102
TLS: Final = 80877103
VERSION: Final = 196608


class PostgresError(Exception):
    """An error as the server reports it."""

    def __init__(self, state: str, message: str, severity: str = "ERROR") -> None:
        super().__init__(message)
        self.state = state
        self.message = message
        self.severity = severity


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message with its length."""
    return kind + struct.pack("!i", len(body) + 4) + body


def error(failure: PostgresError) -> bytes:
    """Return an ErrorResponse."""
    fields = {b"S": failure.severity, b"V": failure.severity, b"C": failure.state, b"M": failure.message}
    return message(b"E", b"".join(name + text.encode() + b"\0" for name, text in fields.items()) + b"\0")


def parameter_description(types: Sequence[int]) -> bytes:
    """Return the types of a statement's parameters."""
    return message(b"t", struct.pack(f"!h{len(types)}i", len(types), *types))


def row_description(columns: Sequence[tuple[str, int]], form: int = 1) -> bytes:
    """Return the columns of a result; NoData if there are none."""
    if not columns:
        return message(b"n")
    described = [name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, kind, -1, -1, form) for name, kind in columns]
    return message(b"T", struct.pack("!h", len(columns)) + b"".join(described))


def data_row(values: Sequence[Any], columns: Sequence[tuple[str, int]], *, as_text: bool = False) -> bytes:
    """Return a row."""
    parts = [struct.pack("!h", len(columns))]
    for value, (_, kind) in zip(values, columns, strict=True):
        content = None if value is None else str(value).encode() if as_text else encode(kind, value)
        parts.append(struct.pack("!i", -1) if content is None else struct.pack("!i", len(content)) + content)
    return message(b"D", b"".join(parts))


def encode(kind: int, value: Any) -> bytes:
    """Return a value in its type's binary format."""
    if kind in _TEXTUAL:
        return bytes(value) if isinstance(value, bytes) else str(value).encode()
    if kind == VOID:
        return b""
    return struct.pack(_PACKED[kind], value)


def decode(kind: int, content: bytes) -> Any:
    """Return the value of a parameter. Raises PostgresError for a text with a zero byte."""
    if kind in _TEXTUAL:
        if b"\0" in content:
            raise PostgresError("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
        return content.decode()
    if kind == TEXTS:
        return json.dumps(_texts(content))  # for SQLite's json_each
    value = struct.unpack(_PACKED[kind], content)[0]
    return int(value) if kind == BOOL else value


def _texts(content: bytes) -> list[str]:
    dimensions, _, _ = struct.unpack_from("!iii", content)
    if not dimensions:
        return []
    [count] = struct.unpack_from("!i", content, 12)
    offset, values = 20, []
    for _ in range(count):
        [length] = struct.unpack_from("!i", content, offset)
        values.append(content[offset + 4 : offset + 4 + length].decode())
        offset += 4 + length
    return values


class Fields:
    """The fields of a message, read one after another."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def text(self) -> str:
        """Read a text that ends with a zero byte."""
        end = self._body.index(b"\0", self._at)
        value = self._body[self._at : end].decode()
        self._at = end + 1
        return value

    def text_kind(self) -> str:
        """Read one letter."""
        self._at += 1
        return chr(self._body[self._at - 1])

    def short(self) -> int:
        """Read a number of two bytes."""
        self._at += 2
        return int(struct.unpack_from("!h", self._body, self._at - 2)[0])

    def long(self) -> int:
        """Read a number of four bytes."""
        self._at += 4
        return int(struct.unpack_from("!i", self._body, self._at - 4)[0])

    def value(self) -> bytes | None:
        """Read bytes with their length; None for NULL."""
        length = self.long()
        if length < 0:
            return None
        self._at += length
        return self._body[self._at - length : self._at]

    def formats(self) -> None:
        """Read format codes. Raises RealWorldError unless all are binary."""
        if any(self.short() != 1 for _ in range(self.short())):
            raise RealWorldError("the model of PostgreSQL knows binary values only")
