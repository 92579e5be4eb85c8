# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kept results: `results/<uuid>/all.zip`, complete or absent; and single assets out of archives, which are never
unpacked for that: an asset that is stored uncompressed is one range of its archive."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from clusterodm.aio import Clock
from clusterodm.core.assets import FILES, FOLDERS
from clusterodm.core.errors import BadRequest
from clusterodm.files.disk import drop_parts
from clusterodm.files.spool import Part
from clusterodm.files.subarchive import Piece, cut, folder_pieces

ARCHIVE: Final = "all.zip"
_READ: Final = 1 << 20
#: The length of a local header before its name, and the position of the lengths of name and extra field in it.
_LOCAL: Final = 30
_LENGTHS: Final = struct.Struct("<26x2H")
_ENCRYPTED: Final = 1


class Asset(NamedTuple):
    """An asset in an open archive, and the position of its first byte there; None if it is compressed."""

    archive: zipfile.ZipFile
    entry: zipfile.ZipInfo
    start: int | None

    def etag(self, archive: str) -> str:
        """Return its strong tag, given that of the archive."""
        return f'"{self.entry.CRC:08x}-{self.entry.file_size:x}-{archive.strip(chr(34))}"'


class Content(Protocol):
    """Content to deliver. `size` in bytes; `etag` strong, with its quotes; `modified` in seconds since the epoch;
    `place`: the file that has its bytes uncompressed, and the position of the first one; None: there is none."""

    size: int
    etag: str
    modified: int
    place: tuple[Path, int] | None

    def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Yield the blocks of a range."""

    def close(self) -> None:
        """Release the content."""


class FileContent:
    """A range of a file in the data folder."""

    def __init__(self, path: Path, start: int, size: int, *, etag: str, modified: int) -> None:
        self.size, self.etag, self.modified = size, etag, modified
        self.place: tuple[Path, int] | None = (path, start)
        self._path = path
        self._start = start

    async def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Read the range in threads."""
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            await asyncio.to_thread(file.seek, self._start + start)
            while length and (block := await asyncio.to_thread(file.read, min(length, _READ))):
                yield block
                length -= len(block)
        finally:
            file.close()

    def close(self) -> None:
        """Nothing is open between blocks."""


class Packed:
    """An asset that is compressed in its archive; it is unpacked from its beginning on, even for a range."""

    def __init__(self, source: IO[bytes], asset: Asset, *, etag: str, modified: int) -> None:
        self.size, self.etag, self.modified = asset.entry.file_size, etag, modified
        self.place: tuple[Path, int] | None = None
        self._source = source
        self._file: IO[bytes] = asset.archive.open(asset.entry)

    async def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Unpack the range in threads."""
        if start:
            await asyncio.to_thread(self._file.seek, start)
        while length and (block := await asyncio.to_thread(self._file.read, min(length, _READ))):
            yield block
            length -= len(block)

    def close(self) -> None:
        """Close the asset and its archive."""
        self._file.close()
        self._source.close()


class Joined:
    """A folder of a kept archive as an archive of its own, assembled while it is sent."""

    def __init__(self, path: Path, pieces: list[Piece], *, etag: str, modified: int) -> None:
        self.size, self.etag, self.modified = sum(piece.length for piece in pieces), etag, modified
        self.place: tuple[Path, int] | None = None
        self._path = path
        self._pieces = pieces

    async def blocks(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Read the range in threads."""
        file = await asyncio.to_thread(self._path.open, "rb")
        joined = _joined(file, cut(self._pieces, start, length))
        try:
            while block := await asyncio.to_thread(next, joined, b""):
                yield block
        finally:
            file.close()

    def close(self) -> None:
        """Nothing is open between blocks."""


def _joined(file: IO[bytes], pieces: Iterator[Piece]) -> Iterator[bytes]:
    """Yield the bytes of pieces in blocks of a fair size, however small the pieces are."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece.content
        file.seek(piece.start)
        missing = piece.length - len(piece.content)
        while missing:
            block = file.read(min(missing, _READ))
            if not block:
                raise zipfile.BadZipFile("the archive is shorter than it says")
            missing -= len(block)
            gathered += block
            if len(gathered) >= _READ:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


class Results:
    """All kept results under one folder."""

    def __init__(self, root: Path, *, owner: str = "", clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or Clock()
        #: The name of this process in the names of its parts; several processes may share the folder.
        self._owner = owner
        root.mkdir(parents=True, exist_ok=True)

    def uuids(self) -> list[str]:
        """Return the uuids of all tasks with a folder here; reads the disk."""
        return os.listdir(self._root)

    def folder(self, uuid: str) -> Path:
        """Return the folder of a task."""
        return self._root / uuid

    def archive(self, uuid: str) -> Path | None:
        """Return the path of a task's complete archive; None if it is not here."""
        path = self._root / uuid / ARCHIVE
        return path if path.is_file() else None

    def new_part(self, uuid: str) -> Part:
        """Return a new part for the archive of a task."""
        return Part(self._part(uuid))

    def drop_part(self, uuid: str) -> None:
        """Delete the part of an earlier try."""
        self._part(uuid).unlink(missing_ok=True)

    def _part(self, uuid: str) -> Path:
        return self._root / uuid / f"{self._owner}-{ARCHIVE}.part"

    async def drop_parts(self, alive: Callable[[str], bool], *, rested: float = 0.0) -> None:
        """Delete abandoned parts, as Spool.drop_parts."""
        await asyncio.to_thread(drop_parts, self._root.glob(f"*/*-{ARCHIVE}.part"), alive, rested, self._clock.age)

    def publish(self, uuid: str, part: Part) -> Path:
        """Make a complete archive visible; return its path."""
        return part.path.rename(self._root / uuid / ARCHIVE)

    def whole(self, uuid: str) -> Content | None:
        """Return a task's complete archive; None if it is not here."""
        path = self.archive(uuid)
        return _whole(path) if path is not None else None

    async def asset(self, uuid: str, name: str) -> Content:
        """Return an asset of a kept archive by its path, its short name, or the last part of its path if unique. Raises
        BadRequest if there is none."""
        path = self.archive(uuid)
        if path is None:
            raise BadRequest("Asset not ready")
        return await asyncio.to_thread(_asset, path, name)

    async def note(self, uuid: str, name: str, content: bytes) -> None:
        """Keep a small file beside the archive, whether that is pulled or not."""
        await asyncio.to_thread(_replace, self._root / uuid / name, content)

    async def noted(self, uuid: str, name: str) -> bytes:
        """Return the content of such a file; empty if there is none."""
        path = self._root / uuid / name
        return await asyncio.to_thread(lambda: path.read_bytes() if path.is_file() else b"")

    async def drop(self, uuid: str) -> None:
        """Delete a task's results."""
        await asyncio.to_thread(shutil.rmtree, self._root / uuid, ignore_errors=True)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _whole(path: Path) -> FileContent:
    status = path.stat()
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    return FileContent(path, 0, status.st_size, etag=tag, modified=int(status.st_mtime))


def _asset(path: Path, name: str) -> Content:
    whole = _whole(path)
    file = path.open("rb")
    try:
        if name in FOLDERS and (pieces := _folder(file, name)):
            file.close()
            tag = f'"{name}-{whole.etag.strip(chr(34))}"'
            return Joined(path, pieces, etag=tag, modified=whole.modified)
        asset = find_asset(file, name)
    except BaseException:
        file.close()
        raise
    etag = asset.etag(whole.etag)
    if asset.start is None:
        return Packed(file, asset, etag=etag, modified=whole.modified)
    file.close()
    return FileContent(path, asset.start, asset.entry.file_size, etag=etag, modified=whole.modified)


def _folder(file: IO[bytes], name: str) -> list[Piece]:
    """Return the pieces of a folder that is requested as an archive; none if there is no such folder, or if the archive
    has a file of that name."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        return []
    return [] if name in archive.NameToInfo else folder_pieces(archive, file, FOLDERS[name])


def find_asset(file: IO[bytes], name: str) -> Asset:
    """Find an asset in a seekable archive. Only the table of contents is read. Raises BadRequest."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise BadRequest("Asset not ready") from None
    matches = _matching(archive, name)
    if len(matches) != 1 or matches[0].flag_bits & _ENCRYPTED:
        raise BadRequest("Invalid asset")
    entry = matches[0]
    if entry.compress_type != zipfile.ZIP_STORED:
        return Asset(archive, entry, None)
    file.seek(entry.header_offset)
    lengths = _LENGTHS.unpack(file.read(_LOCAL))
    return Asset(archive, entry, entry.header_offset + _LOCAL + sum(lengths))


def _matching(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    for path in (name, FILES.get(name, name)):
        if path in archive.NameToInfo:
            return [archive.getinfo(path)]
    if "/" in name:
        return []
    return [entry for entry in archive.infolist() if entry.filename.endswith(f"/{name}")]
