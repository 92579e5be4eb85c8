# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results that we keep: `results/<uuid>/all.zip`, whole or not there, and single assets out of it."""

from __future__ import annotations

import asyncio
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from clusterodm.core.errors import BadRequest
from clusterodm.spool import Part, drop_parts

ARCHIVE: Final = "all.zip"
_READ: Final = 256 << 10


class Asset:
    """One file inside a kept archive, open for reading. `size` is in bytes."""

    def __init__(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._file: IO[bytes] = archive.open(entry)
        self.size = entry.file_size

    def seek(self, start: int) -> None:
        """Go to byte `start`; a compressed asset is unpacked up to there."""
        self._file.seek(start)

    def read(self) -> bytes:
        """The next block; empty at the end."""
        return self._file.read(_READ)

    def close(self) -> None:
        """Close the asset and its archive."""
        self._file.close()
        self._archive.close()


class Results:
    """All kept results under one folder."""

    def __init__(self, root: Path, *, owner: str = "") -> None:
        self._root = root
        #: Who receives here; several processes may share the folder.
        self._owner = owner
        root.mkdir(parents=True, exist_ok=True)

    def archive(self, uuid: str) -> Path | None:
        """Where a task's whole archive lies, None when it is not here."""
        path = self._root / uuid / ARCHIVE
        return path if path.is_file() else None

    def new_part(self, uuid: str) -> Part:
        """Begin to receive the archive of a task."""
        return Part(self._part(uuid))

    def drop_part(self, uuid: str) -> None:
        """Delete what came of an earlier try."""
        self._part(uuid).unlink(missing_ok=True)

    def _part(self, uuid: str) -> Path:
        return self._root / uuid / f"{self._owner}-{ARCHIVE}.part"

    async def drop_parts(self, alive: Callable[[str], bool], *, rested: float = 0.0) -> None:
        """As in the spool."""
        await asyncio.to_thread(drop_parts, self._root.glob(f"*/*-{ARCHIVE}.part"), alive, rested)

    def publish(self, uuid: str, part: Part) -> Path:
        """Make a whole archive visible."""
        return part.path.rename(self._root / uuid / ARCHIVE)

    async def open_asset(self, uuid: str, name: str) -> Asset:
        """Open one asset of a kept archive by its path in it, or by its last part when that is unique.

        Raises BadRequest when there is none.
        """
        archive = self.archive(uuid)
        if archive is None:
            raise BadRequest("Asset not ready")
        return await asyncio.to_thread(_open_asset, archive, name)

    async def drop(self, uuid: str) -> None:
        """Delete a task's results."""
        await asyncio.to_thread(shutil.rmtree, self._root / uuid, ignore_errors=True)


def _open_asset(path: Path, name: str) -> Asset:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise BadRequest("Asset not ready") from None
    matches = list(_matching(archive, name))
    if len(matches) != 1:
        archive.close()
        raise BadRequest("Invalid asset")
    return Asset(archive, matches[0])


def _matching(archive: zipfile.ZipFile, name: str) -> Iterator[zipfile.ZipInfo]:
    if name in archive.NameToInfo:
        yield archive.getinfo(name)
    elif "/" not in name:
        yield from (entry for entry in archive.infolist() if entry.filename.endswith(f"/{name}"))
