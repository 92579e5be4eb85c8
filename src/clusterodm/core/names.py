# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""File names of clients, made safe to store; and which of them are images."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

#: Bytes of UTF-8 that every common file system takes as one name.
MAX_NAME_BYTES: Final = 255
#: Room that is left for the `_` of name conflicts.
_SPARE_BYTES: Final = 16

_RESERVED: Final = {"body.json": "_body.json", ".": "_.", "..": "._.", "": "unnamed"}
_SEPARATORS: Final = re.compile(r"[/\\]")
_CONTROL_SUFFIXES: Final = (".txt", ".zip")
SEED: Final = "seed.zip"
_NOT_SHOWN: Final = frozenset({"Cc", "Cs", "Cf", "Zl", "Zp"})
_ALIGN: Final = frozenset({"align.las", "align.laz", "align.tif"})


def base_name(name: str) -> str:
    """Return the last part of a path of any system; empty if there is none. Nodes store files under it."""
    return _SEPARATORS.split(name.rstrip("/\\"))[-1]


def safe_name(name: str) -> str:
    """The name under which a file is kept: of a path the last part, control characters become `_`, reserved names are
    changed, long ones are cut before their extension. Never empty; nothing is refused for its name."""
    cleaned = "".join("_" if unicodedata.category(char) in _NOT_SHOWN else char for char in base_name(name))
    cleaned = cleaned.encode("utf-8", "replace").decode()
    return _cut(_RESERVED.get(cleaned, cleaned))


def printable(text: str) -> str:
    """`text` for one line of a terminal: whatever could move its cursor, change its colours or begin another line is
    replaced by a space."""
    return "".join(" " if unicodedata.category(char) in _NOT_SHOWN else char for char in text)


def _cut(name: str) -> str:
    limit = MAX_NAME_BYTES - _SPARE_BYTES
    if len(name.encode()) <= limit:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem or len(extension.encode()) > 16:
        stem, dot, extension = name, "", ""
    room = limit - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension


def next_name(name: str) -> str:
    """Where a different file with the same name goes: a `_` before the extension, as on a node."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}_.{extension}" if dot and stem else f"{name}_"


def is_image(name: str) -> bool:
    """Return True if a node counts a file as an image: not control data, and not archives, which it deletes."""
    lowered = name.lower()
    return not lowered.endswith(_CONTROL_SUFFIXES) and lowered not in _ALIGN


def is_archive(name: str) -> bool:
    """Return True if a file is an archive that may hold photos; a seed is not."""
    lowered = name.lower()
    return lowered.endswith(".zip") and lowered != SEED


def counted_files(names: Iterable[str]) -> int:
    """Return the number of files that a node counts against its limit: all but a seed, which it moves away first."""
    return sum(name != SEED for name in names)
