# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files without a task: kept for some days before they are deleted, as long as there is room.

trash/<seconds since the epoch>-<kind>-<uuid>   spool/<uuid>, results/<uuid> or a console
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from clusterodm.files.room import Room

_log = structlog.get_logger("trash")

#: Seconds that an item stays.
KEPT: Final = 7 * 86400.0


class _Item(NamedTuple):
    at: float
    path: Path
    size: int


class Trash:
    """The folder of files to be deleted. Its bytes count like those of held files."""

    def __init__(self, root: Path, room: Room) -> None:
        self.root = root
        self._room = room

    @property
    def size(self) -> int:
        """Bytes of all items."""
        return self._room.trash

    async def measure(self) -> None:
        """Recount its bytes."""
        self._room.trash = sum(item.size for item in await asyncio.to_thread(_items, self.root))

    async def put(self, kind: str, uuid: str, path: Path, *, at: float) -> bool:
        """Move a file or folder of a task here; return False if there is none."""
        size = await asyncio.to_thread(_move, path, self.root, f"{int(at)}-{kind}-{uuid}")
        if size is None:
            return False
        self._room.trash += size
        return True

    async def expire(self, age: Callable[[float], float]) -> None:
        """Delete items that are too old. `age`: how many seconds ago a time was."""
        for item in await asyncio.to_thread(_items, self.root):
            if age(item.at) > KEPT:
                await self._delete(item, "expired")

    async def release(self, missing: int) -> int:
        """Delete the oldest items until so many bytes are free; return how many are."""
        freed = 0
        for item in await asyncio.to_thread(_items, self.root) if missing > 0 else ():
            if freed >= missing:
                break
            await self._delete(item, "room is short")
            freed += item.size
        return freed

    async def _delete(self, item: _Item, why: str) -> None:
        _log.warning("deleted from the trash", name=item.path.name, bytes=item.size, why=why)
        await asyncio.to_thread(_remove, item.path)
        await self.measure()
        self._room.released()


def _items(root: Path) -> list[_Item]:
    """Return all items, oldest first."""
    items = []
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        for entry in entries:
            at = entry.name.partition("-")[0]
            if at.isdigit():
                items.append(_Item(float(at), Path(entry.path), _size(Path(entry.path))))
    return sorted(items)


def _size(path: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):
        size = 0 if path.is_dir() else path.stat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _move(path: Path, root: Path, name: str) -> int | None:
    if not path.exists():
        return None
    size = _size(path)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    target, number = root / name, 1
    while target.exists():
        target, number = root / f"{name}.{number}", number + 1
    try:
        shutil.move(path, target)  # a rename, unless the folder is on another disk
    except FileNotFoundError:
        return None
    return size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
