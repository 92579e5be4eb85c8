# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Zip archives of clients and nodes. A client's is opened only if its table of contents has a sane size, and used only
if its declared contents are within bounds; of a node's only the beginning and the end are checked."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, NamedTuple

from clusterodm.core.errors import BadArchive
from clusterodm.core.names import base_name

#: Bytes of the table of contents per allowed file; the table is read into memory as a whole.
_ENTRY: Final = 200
#: The end of an archive: its record, the longest comment, and the records of a large archive before it.
TAIL: Final = 22 + 65_535 + 20 + 56
_END, _LARGE_END, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
#: The first bytes of an archive that is not empty, and of its table of contents.
ARCHIVE_MARK: Final = b"PK\x03\x04"
_CONTENTS_MARK: Final = b"PK\x01\x02"
_SIGNATURE_MARK: Final = b"PK\x05\x05"
#: An entry of it without name, extra field and comment, and the lengths of these.
_CONTENTS_ENTRY: Final = 46
_LENGTHS: Final = struct.Struct("<28xHHH")
#: Entries, size and offset of the table of contents: in the record at the end, and in that of a Zip64 archive.
_CONTENTS: Final = struct.Struct("<10xHIIH")
_LARGE_CONTENTS: Final = struct.Struct("<32xQQQ")
_PLACE: Final = struct.Struct("<8xQ")
_LOCATOR_SIZE: Final = 20


class Bounds(NamedTuple):
    """The most that is accepted of one archive: files, and unpacked bytes."""

    max_files: int
    max_size: int


def open_archive(path: Path, bounds: Bounds) -> zipfile.ZipFile:
    """Open the archive at `path`; the caller closes it. Raises BadArchive if it is none, or declares more files or more
    unpacked bytes than allowed. Reading an entry stops at its declared size."""
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
    """Return the names of the files that would be unpacked from the archive at `path`. Raises BadArchive."""
    with open_archive(path, bounds) as archive:
        return [base_name(entry.filename) for entry in wanted(archive)]


def wanted(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries to unpack from an archive of photos: no folders, no system files, no nested archives."""
    return [entry for entry in archive.infolist() if _is_wanted(entry)]


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    name = base_name(entry.filename)
    hidden = not name or name.startswith(".") or "__MACOSX/" in entry.filename
    return not entry.is_dir() and not hidden and not name.lower().endswith(".zip")


def _contents_size(path: Path) -> int:
    """Return the bytes of the table of contents according to the end of the archive."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL))
        tail = file.read()
    sizes = [0]
    for mark, form, offset in ((_END, "<L", 12), (_LARGE_END, "<Q", 40)):
        at = tail.rfind(mark)
        if 0 <= at <= len(tail) - offset - struct.calcsize(form):
            sizes.append(struct.unpack_from(form, tail, at + offset)[0])
    return max(size for size in sizes if size != 0xFFFFFFFF)  # "see the other record"


class Tail:
    """The beginning and the end of an archive that is received in blocks; the rest is not kept."""

    def __init__(self) -> None:
        self.size = 0
        self.head = b""
        self.end = b""

    def add(self, block: bytes | memoryview) -> None:
        """Add the next block."""
        self.size += len(block)
        if len(self.head) < len(ARCHIVE_MARK):
            self.head = (self.head + bytes(block[:4]))[:4]
        last = bytes(block[-TAIL:])
        self.end = (self.end[-(TAIL - len(last)) :] + last) if len(last) < TAIL else last

    def check(self) -> None:
        """Raise BadArchive unless this is a complete archive, as far as its beginning and its end can tell."""
        _check(self.size, self.head, self.end, lambda at, count: b"")


def check_whole(file: IO[bytes]) -> None:
    """Raise BadArchive unless a file has the beginning, the end and the table of contents of an archive. Only these are
    read, and of a long table only its beginning, so that the file may be remote and of any size."""

    def read(at: int, count: int) -> bytes:
        file.seek(at)
        return file.read(count)

    size = file.seek(0, 2)
    end = max(0, size - TAIL)
    _check(size, read(0, 4), read(end, size - end), read)


def _check(size: int, head: bytes, end: bytes, read: Callable[[int, int], bytes]) -> None:
    """Raise BadArchive. `read(at, count)` returns bytes from before the end, or none if they are not at hand."""
    at = _end_record(end)
    if at < 0:
        raise BadArchive("is empty" if not size else f"is no whole zip archive: it has no end ({size} bytes)")
    entries, length, start, _ = _CONTENTS.unpack_from(end, at)
    before = size - len(end) + at
    large = _large(end, at, size)
    if large is not None:
        before, entries, length, start = large
    first, count = size - len(end), length if length <= TAIL else 4
    table = end[start - first :][:count] if start >= first else read(start, count)
    whole = start + length <= before and _fits(table, length, entries)
    if not whole or (entries and head != ARCHIVE_MARK):
        raise BadArchive(f"is no whole zip archive: its table of contents is not where it should be ({size} bytes)")


def _fits(table: bytes, length: int, entries: int) -> bool:
    """True if a table of contents of this length can have that many entries. `table` is all of it, its first bytes,
    or empty."""
    if len(table) < length:
        return table[:4] in (_CONTENTS_MARK, b"")
    at = count = 0
    while table[at : at + 4] == _CONTENTS_MARK and at + _CONTENTS_ENTRY <= length:
        at += _CONTENTS_ENTRY + sum(_LENGTHS.unpack_from(table, at))
        count += 1
    return count == entries and (at == length or table[at : at + 4] == _SIGNATURE_MARK)


def _end_record(end: bytes) -> int:
    """Return the position of the record at the end; -1 if there is none whose comment ends with the archive."""
    at = len(end)
    while (at := end.rfind(_END, 0, at)) >= 0:
        if at + _CONTENTS.size <= len(end) and at + _CONTENTS.size + _CONTENTS.unpack_from(end, at)[3] == len(end):
            return at
    return -1


def _large(end: bytes, at: int, size: int) -> tuple[int, int, int, int] | None:
    """Return the position of the Zip64 record, then entries, size and offset of the table of contents; None if there is
    no such record, or it is not where it should be."""
    locator, first = at - _LOCATOR_SIZE, size - len(end)
    if locator < 0 or end[locator : locator + 4] != _LOCATOR:
        return None
    record = _PLACE.unpack_from(end, locator)[0] - first
    if not 0 <= record <= locator - _LARGE_CONTENTS.size or end[record : record + 4] != _LARGE_END:
        return None
    entries, length, start = _LARGE_CONTENTS.unpack_from(end, record)
    return first + record, entries, length, start
