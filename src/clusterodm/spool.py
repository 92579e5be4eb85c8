# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Held files: what clients upload, kept until the results are safe.

    spool/<uuid>/files/<name>   whole files, visible by an atomic link
    spool/<uuid>/parts/<who>-<random> what a process is receiving; worthless once that is gone

From the answer to an upload on, its file survives the death of this process. It survives a loss of power once the
kernel has written it back.
"""

from __future__ import annotations

import asyncio
import errno
import filecmp
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import SpoolFull
from clusterodm.core.names import next_name, safe_name
from clusterodm.core.quota import Quota

#: Bytes that are gathered before they are written, off the event loop: few enough to be still in the CPU's cache.
BLOCK: Final = 256 << 10
_IOV_MAX: Final = 512
#: Seconds between two looks at the disk.
_LOOK: Final = 0.5
_WHOLE_DISK: Final = Quota(1.0, 0)


class HeldFile(msgspec.Struct, frozen=True):
    """One file of a task."""

    name: str
    size: int


@contextmanager
def _translate_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFull("No space left for uploads, try again later") from None
        raise


class Part:
    """A file that is being received. Write to it, then `close` it; the spool publishes or drops it.

    The disk is touched in threads only, opening included: a file system that is busy writing back can hold up any call.
    """

    def __init__(self, path: Path, may_grow: Callable[[int], None] = lambda count: None) -> None:
        self.path = path
        #: Called with the bytes about to be written; raises SpoolFull when there is no room for them.
        self._may_grow = may_grow
        self._fd = -1
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        self.size = 0

    async def write(self, content: bytes | memoryview) -> None:
        """Add bytes; they reach the file in large blocks. A view may change once this returns."""
        self._pending_size += len(content)
        if self._pending_size >= BLOCK or len(self._pending) >= _IOV_MAX:
            self._pending.append(content)
            await self._flush(self._write_all)
        else:
            self._pending.append(bytes(content))

    async def close(self) -> None:
        """Write what is pending and close the file."""
        await self._flush(self._write_last)

    async def _flush(self, write: Callable[[list[bytes | memoryview]], None]) -> None:
        blocks, size = self._pending, self._pending_size
        self._pending, self._pending_size = [], 0
        self._may_grow(size)
        await asyncio.get_running_loop().run_in_executor(None, write, blocks)

    def _write_last(self, blocks: list[bytes | memoryview]) -> None:
        try:
            self._write_all(blocks)
        finally:
            self._close_fd()

    def _write_all(self, blocks: list[bytes | memoryview]) -> None:
        with _translate_full():
            if self._fd < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            total = sum(map(len, blocks))
            written = os.writev(self._fd, blocks) if blocks else 0
            self.size += written
            if written < total:  # a signal or a full disk: the slow way says which
                rest = memoryview(b"".join(blocks))[written:]
                while rest:
                    count = os.write(self._fd, rest)
                    self.size += count
                    rest = rest[count:]

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """Delete what is there of a part that was not published; harmless for one that was."""
        self._close_fd()
        self.path.unlink(missing_ok=True)


class Spool:
    """All held files under one folder, within a quota."""

    def __init__(self, root: Path, quota: Quota = _WHOLE_DISK, *, owner: str = "") -> None:
        self._root = root
        #: Who receives here; several processes may share the folder.
        self._owner = owner
        self._quota = quota
        self._held = 0
        self._looked_at = 0.0
        self._room = 0
        self._size = 0
        #: Set when an upload found no room; whoever can make some waits for it.
        self.short = asyncio.Event()
        root.mkdir(parents=True, exist_ok=True)

    async def measure(self) -> None:
        """Count the bytes of all held files anew; between two counts what comes is added."""
        self._held = await asyncio.to_thread(_size_below, self._root)
        self._looked_at = 0.0

    def room(self) -> int:
        """Bytes that may still come; the disk is asked twice a second at most."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK:
            disk = os.statvfs(self._root)
            total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
            self._room = self._quota.room(disk_total=total, disk_free=free, held=self._held)
            self._size = self._quota.size(total)
            self._looked_at = now
        return self._room

    @property
    def held(self) -> int:
        """Bytes of all held files, counted once a minute and added to in between."""
        return self._held

    def has_room(self) -> bool:
        """Whether a good part of the quota is free: enough to stop making room."""
        return self.room() > self._size // 10

    def _grow(self, count: int) -> None:
        if self.room() < count:
            self.short.set()
            raise SpoolFull("No room left for uploads here, try again later")
        self._held += count
        self._room -= count

    def _files(self, uuid: str) -> Path:
        return self._root / uuid / "files"

    def path(self, uuid: str, name: str) -> Path:
        """Where a held file lies."""
        return self._files(uuid) / name

    def new_part(self, uuid: str) -> Part:
        """Begin to receive a file of a task."""
        return Part(self._root / uuid / "parts" / f"{self._owner}-{secrets.token_hex(8)}", self._grow)

    async def publish(self, uuid: str, part: Part, name: str) -> str:
        """Make a whole part visible under a safe form of `name`; the name it got.

        The same name with the same bytes is one file; with other bytes the name gets a `_`. Callers hold the task's
        lock, so that nothing is published after the commit.
        """
        return await asyncio.to_thread(_publish, part.path, self._files(uuid), safe_name(name))

    async def discard(self, uuid: str, name: str) -> None:
        """Delete one held file."""
        path = self.path(uuid, name)
        self._held -= path.stat().st_size
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def listing(self, uuid: str) -> list[HeldFile]:
        """The held files of a task by name; none when there are none."""
        return await asyncio.to_thread(_list, self._files(uuid))

    async def drop(self, uuid: str) -> None:
        """Delete all files of a task."""
        self._held -= await asyncio.to_thread(_size_below, self._root / uuid)
        await asyncio.to_thread(shutil.rmtree, self._root / uuid, ignore_errors=True)
        self._looked_at = 0.0

    async def drop_parts(self, alive: Callable[[str], bool], *, rested: float = 0.0) -> None:
        """Delete what processes that are no longer alive were receiving when they ended, and what did not grow for
        `rested` seconds."""
        await asyncio.to_thread(drop_parts, self._root.glob("*/parts/*"), alive, rested)

    async def tasks(self) -> list[str]:
        """Uuids of all tasks that have a folder here."""
        return await asyncio.to_thread(os.listdir, self._root)

    def last_change(self, uuid: str) -> float:
        """When a file of the task last came or began to come, seconds since the epoch; 0 when there is none."""
        folder = self._root / uuid
        return max(map(_changed_at, (folder, folder / "files", folder / "parts")))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _publish(part: Path, files: Path, name: str) -> str:
    with _translate_full():
        files.mkdir(parents=True, exist_ok=True)
        while not _link(part, files / name):
            if filecmp.cmp(part, files / name, shallow=False):
                break
            name = next_name(name)
        part.unlink(missing_ok=True)
    return name


def _link(part: Path, target: Path) -> bool:
    """Give `part` the name `target` unless something has it already."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if target.exists():  # a file system without hard links
            return False
        part.rename(target)
    return True


def _size_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _list(folder: Path) -> list[HeldFile]:
    try:
        with os.scandir(folder) as entries:
            return sorted((HeldFile(entry.name, entry.stat().st_size) for entry in entries), key=lambda file: file.name)
    except FileNotFoundError:
        return []


def drop_parts(parts: Iterable[Path], alive: Callable[[str], bool], rested: float) -> None:
    """Delete parts whose owner, the first word of their name, is not alive, once they rested for so many seconds."""
    for part in parts:
        if not alive(part.name.partition("-")[0]) and time.time() - _changed_at(part) >= rested:
            part.unlink(missing_ok=True)
