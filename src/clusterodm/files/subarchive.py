# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A folder of an archive as an archive of its own, without unpacking: entries are copied compressed, between new
headers. So its size is known in advance, and any range of it can be requested."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END: Final = struct.Struct("<4s4H2LH")
_LENGTHS: Final = struct.Struct("<26x2H")
#: Numbers that do not fit their field are in the Zip64 one.
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_VERSION: Final = 45
#: Flags that still hold when the sizes precede the content: those of the compression, and names in UTF-8.
_KEPT_FLAGS: Final = 0x0806
_ENCRYPTED: Final = 1


class Piece(NamedTuple):
    """A piece of the new archive: new bytes, or `length` bytes of the old archive from `start` on."""

    content: bytes
    start: int
    length: int


def folder_pieces(archive: zipfile.ZipFile, file: IO[bytes], folder: str) -> list[Piece]:
    """Return the pieces of an archive of all files below `folder`, which ends with a slash; none if it has no files.
    `file` is the file of `archive`; of each entry only its header is read."""
    entries = [entry for entry in archive.infolist() if entry.filename.startswith(folder) and not entry.is_dir()]
    pieces: list[Piece] = []
    contents: list[bytes] = []
    offset = 0
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED:
            continue
        name = entry.filename[len(folder) :].encode()
        head = _local(entry, name)
        contents.append(_central(entry, name, offset))
        pieces += [Piece(head, 0, len(head)), Piece(b"", _content_at(file, entry), entry.compress_size)]
        offset += len(head) + entry.compress_size
    if not pieces:
        return []
    table = b"".join(contents)
    tail = table + _end(len(contents), len(table), offset)
    return [*pieces, Piece(tail, 0, len(tail))]


def cut(pieces: list[Piece], start: int, length: int) -> Iterator[Piece]:
    """Yield the pieces of a range."""
    for piece in pieces:
        if length <= 0:
            return
        if start >= piece.length:
            start -= piece.length
            continue
        count = min(piece.length - start, length)
        yield Piece(piece.content[start : start + count], piece.start + start, count)
        start, length = 0, length - count


def _content_at(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    name, extra = _LENGTHS.unpack(file.read(_LOCAL.size))
    return int(entry.header_offset + _LOCAL.size + name + extra)


def _time(entry: zipfile.ZipInfo) -> tuple[int, int]:
    year, month, day, hour, minute, second = entry.date_time
    return hour << 11 | minute << 5 | second // 2, max(0, year - 1980) << 9 | month << 5 | day


def _local(entry: zipfile.ZipInfo, name: bytes) -> bytes:
    sizes, large = _sizes(entry)
    extra = struct.pack("<2H2Q", 1, 16, entry.file_size, entry.compress_size) if large else b""
    flags = (entry.flag_bits & _KEPT_FLAGS) | 0x800
    fields = (_VERSION, flags, entry.compress_type, *_time(entry), entry.CRC, *sizes, len(name), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", *fields) + name + extra


def _central(entry: zipfile.ZipInfo, name: bytes, offset: int) -> bytes:
    sizes, large = _sizes(entry)
    numbers = [entry.file_size, entry.compress_size] if large else []
    numbers += [offset] if offset >= _MAX32 else []
    extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    flags = (entry.flag_bits & _KEPT_FLAGS) | 0x800
    fields = (_VERSION, _VERSION, flags, entry.compress_type, *_time(entry), entry.CRC, *sizes, len(name), len(extra))
    return _CENTRAL.pack(b"PK\x01\x02", *fields, 0, 0, 0, 0, min(offset, _MAX32)) + name + extra


def _sizes(entry: zipfile.ZipInfo) -> tuple[tuple[int, int], bool]:
    """Return the compressed and the uncompressed size, and True if they need the Zip64 field."""
    large = max(entry.file_size, entry.compress_size) >= _MAX32
    return ((_MAX32, _MAX32) if large else (entry.compress_size, entry.file_size)), large


def _end(count: int, size: int, offset: int) -> bytes:
    more = b""
    if count >= _MAX16 or offset + size >= _MAX32:
        more = _END64.pack(b"PK\x06\x06", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size, offset)
        more += _LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    few = min(count, _MAX16)
    return more + _END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _MAX32), min(offset, _MAX32), 0)
