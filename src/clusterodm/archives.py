# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Zip archives of strangers: opened only when their table of contents is of a sane size, used only when what they say
they hold is within bounds."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

from clusterodm.core.errors import BadArchive
from clusterodm.core.names import base_name

#: Bytes of the table of contents that one allowed file may take; it is read into memory as a whole.
_ENTRY: Final = 200
#: The end of an archive: its record, the longest comment, and the records of a large archive before it.
_TAIL: Final = 22 + 65_535 + 20 + 56
_END, _LARGE_END = b"PK\x05\x06", b"PK\x06\x06"


class Bounds(NamedTuple):
    """What is taken of one archive: files, and bytes once they are unpacked."""

    max_files: int
    max_size: int


def open_archive(path: Path, bounds: Bounds) -> zipfile.ZipFile:
    """The archive at `path`, to be closed by the caller. Raises BadArchive for what is none, and for one that says that
    it holds more files or more bytes (unpacked) than allowed. Reading an entry stops at the size that it says."""
    if _contents_size(path) > _ENTRY * max(bounds.max_files, 100):
        raise BadArchive("holds too much")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise BadArchive("is not a zip archive") from None
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > 2 * bounds.max_files or size > bounds.max_size:  # folders are entries too
        archive.close()
        raise BadArchive("holds too much")
    return archive


def photo_names(path: Path, bounds: Bounds) -> list[str]:
    """The names of what would be unpacked from the archive at `path`. Raises BadArchive."""
    with open_archive(path, bounds) as archive:
        return [base_name(entry.filename) for entry in wanted(archive)]


def wanted(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """What is unpacked from an archive of photos: no folders, none of what systems add, no archives within it."""
    return [entry for entry in archive.infolist() if _is_wanted(entry)]


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    name = base_name(entry.filename)
    hidden = not name or name.startswith(".") or "__MACOSX/" in entry.filename
    return not entry.is_dir() and not hidden and not name.lower().endswith(".zip")


def _contents_size(path: Path) -> int:
    """Bytes of the table of contents, as the end of the archive says."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        tail = file.read()
    found = [0]
    for mark, form, offset in ((_END, "<L", 12), (_LARGE_END, "<Q", 40)):
        at = tail.rfind(mark)
        if 0 <= at <= len(tail) - offset - struct.calcsize(form):
            found.append(struct.unpack_from(form, tail, at + offset)[0])
    whole = [size for size in found if size != 0xFFFFFFFF]  # "see the other record"
    return max(whole)
