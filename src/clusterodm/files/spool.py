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
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from clusterodm.core.errors import BadRequest, SpoolFull
from clusterodm.core.files import HeldFile
from clusterodm.core.names import next_name, safe_name
from clusterodm.core.quota import Quota
from clusterodm.files.interrupted import is_cut_short
from clusterodm.files.room import PATIENCE, Room

#: Bytes that are gathered before they are written, off the event loop: few enough to be still in the CPU's cache.
BLOCK: Final = 256 << 10
_IOV_MAX: Final = 512
#: How often a folder is made that others delete in the same moment.
_TRIES: Final = 20
_WHOLE_DISK: Final = Quota(1.0, 0)


@contextmanager
def _translate_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFull("No space left for uploads, try again later") from None
        raise


class Account(Protocol):
    """Where the bytes of a part count."""

    async def wait(self, count: int) -> None:
        """Return once there is room for so many bytes. Raises SpoolFull when none comes in time."""

    def add(self, count: int) -> None:
        """Count bytes about to be written."""

    def refused(self, count: int) -> None:
        """The disk had no room for so many bytes."""

    def ended(self, part: Part) -> None:
        """Nothing more is written to a part, and it was not published."""

    def tidy(self) -> None:
        """Delete the folders of a part that was deleted, unless they hold something; called from any thread."""


class Part:
    """A file that is being received. Write to it, then `close` it; the spool publishes or drops it.

    The disk is touched in threads only, opening included: a file system that is busy writing back can hold up any call.
    """

    def __init__(self, path: Path, account: Account | None = None) -> None:
        self.path = path
        self._account = account
        self._fd = -1
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        #: Held by the thread that writes: what it writes to must not be closed under it.
        self._writing = threading.Lock()
        self._dropped = False
        #: Bytes that were counted, and that were written.
        self.counted = 0
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
        if self._account is not None:
            await self._account.wait(size)
        self._require()
        if self._account is not None:
            self._account.add(size)
            self.counted += size
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write, write, blocks)
        except SpoolFull:
            if self._account is not None:
                self._account.refused(size)
            raise
        self._require()

    def _require(self) -> None:
        """Raise BadRequest, in a node's words, once the part was dropped under whoever writes to it."""
        if self._dropped:
            raise BadRequest("Invalid uuid (not found)")

    def _write(self, write: Callable[[list[bytes | memoryview]], None], blocks: list[bytes | memoryview]) -> None:
        with self._writing:
            if not self._dropped:
                write(blocks)
        if self._dropped:
            self._delete()

    def _write_last(self, blocks: list[bytes | memoryview]) -> None:
        try:
            self._write_all(blocks)
        finally:
            self._close_fd()

    def _write_all(self, blocks: list[bytes | memoryview]) -> None:
        with _translate_full():
            if self._fd < 0:
                self._fd = _create(self.path)
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
        """Delete what is there of a part that was not published, also while it is written to; harmless for one that
        was."""
        self._dropped = True
        self._delete()
        if self._account is not None:
            self._account.ended(self)

    def _delete(self) -> None:
        """Close and delete the file, unless a thread writes to it: then that thread calls this at its end."""
        if self._writing.acquire(blocking=False):
            try:
                self._close_fd()
                self.path.unlink(missing_ok=True)
                if self._account is not None:
                    self._account.tidy()
            finally:
                self._writing.release()


class _Ledger:
    """The account of a task's parts in the spool."""

    def __init__(self, spool: Spool, uuid: str, folder: Path) -> None:
        self._spool = spool
        self._uuid = uuid
        self._folder = folder

    async def wait(self, count: int) -> None:
        await self._spool.room.wait(count)

    def add(self, count: int) -> None:
        self._spool.room.add(self._uuid, count)

    def refused(self, count: int) -> None:
        self._spool.room.refused(count)

    def ended(self, part: Part) -> None:
        self._spool.close_part(self._uuid, part)

    def tidy(self) -> None:
        with suppress(OSError):
            self._folder.rmdir()
            self._folder.parent.rmdir()


class Spool:
    """All held files under one folder, within a quota."""

    def __init__(
        self,
        root: Path,
        quota: Quota = _WHOLE_DISK,
        *,
        owner: str = "",
        shared: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self._root = root
        #: Who receives here; several processes may share the folder.
        self._owner = owner
        #: Parts that this process is receiving, by task.
        self._open: dict[str, set[Part]] = {}
        root.mkdir(parents=True, exist_ok=True)
        self.room = Room(root, quota, shared=shared, patience=patience)

    async def measure(self) -> None:
        """Count the bytes of all held files anew, and show other processes what is being received here."""
        await asyncio.to_thread(_mark, [self._parts(uuid) for uuid in self._open])
        await self.room.measure()

    def _files(self, uuid: str) -> Path:
        return self._root / uuid / "files"

    def path(self, uuid: str, name: str) -> Path:
        """Where a held file lies."""
        return self._files(uuid) / name

    def _parts(self, uuid: str) -> Path:
        return self._root / uuid / "parts"

    def refused(self, uuid: str) -> Path:
        """Where it is kept which files were not taken."""
        return self._root / uuid / "refused"

    def new_part(self, uuid: str) -> Part:
        """Begin to receive a file of a task."""
        folder = self._parts(uuid)
        part = Part(folder / f"{self._owner}-{secrets.token_hex(8)}", _Ledger(self, uuid, folder))
        self._open.setdefault(uuid, set()).add(part)
        self.room.begin(uuid)
        return part

    def receives(self, uuid: str) -> bool:
        """True if files of a task come in here at this moment."""
        return uuid in self._open

    def close_part(self, uuid: str, part: Part) -> None:
        """Take a part that was not published out of the books."""
        self._forget_part(uuid, part, -part.counted)

    def _forget_part(self, uuid: str, part: Part, count: int, *, files: int = 0) -> None:
        """Take a part out of the books, and count what came of it; once."""
        parts = self._open.get(uuid, set())
        if part in parts:
            parts.remove(part)
            self.room.add(uuid, count, files=files)
            self.room.end(uuid)
        if not parts:
            self._open.pop(uuid, None)

    async def publish(self, uuid: str, part: Part, name: str) -> str:
        """Make a whole part visible under a safe form of `name`; the name it got.

        The same name with the same bytes is one file; with other bytes the name gets a `_`. An imported file that was
        cut short gives way to the whole one. Callers hold the task's lock, so that nothing is published after the
        commit.
        """
        kept, new, given_up = await asyncio.to_thread(_publish, part.path, self._files(uuid), safe_name(name))
        self._forget_part(uuid, part, -given_up if new else -part.counted, files=new and not given_up)
        return kept

    async def discard(self, uuid: str, name: str) -> None:
        """Delete one held file."""
        path = self.path(uuid, name)
        size = path.stat().st_size
        self.room.begin(uuid)
        try:
            await asyncio.to_thread(path.unlink)
            self.room.add(uuid, -size, files=-1)
        finally:
            self.room.end(uuid)

    async def listing(self, uuid: str) -> list[HeldFile]:
        """The held files of a task by name; none when there are none."""
        return await asyncio.to_thread(_list, self._files(uuid))

    def abort(self, uuid: str) -> None:
        """Delete what is being received for a task; who sends it gets an error."""
        for part in list(self._open.get(uuid, ())):
            part.drop()

    async def drop(self, uuid: str) -> None:
        """Delete all files of a task, also those that are being received."""
        self.abort(uuid)
        self.room.begin(uuid)
        try:
            await asyncio.to_thread(shutil.rmtree, self._root / uuid, ignore_errors=True)
        finally:
            self.room.forget(uuid)
            self.room.end(uuid)

    async def drop_parts(self, alive: Callable[[str], bool], *, rested: float = 0.0) -> None:
        """Delete what processes that are no longer alive were receiving when they ended, and what did not grow for
        `rested` seconds."""
        await asyncio.to_thread(drop_parts, self._root.glob("*/parts/*"), alive, rested)

    def folder(self, uuid: str) -> Path:
        """Where everything of a task lies."""
        return self._root / uuid

    def took_away(self, uuid: str) -> None:
        """The folder of a task was moved elsewhere."""
        self.room.forget(uuid)

    async def tasks(self) -> list[str]:
        """Uuids of all tasks that have a folder here."""
        return await asyncio.to_thread(os.listdir, self._root)

    def last_change(self, uuid: str) -> float:
        """When a file of the task last came or began to come, seconds since the epoch; 0 when there is none."""
        return max(map(_changed_at, (self._root / uuid, self._files(uuid), self._parts(uuid))))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _create(path: Path) -> int:
    """Create a file in a folder that may be deleted in the same moment because it is empty."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _mark(folders: Iterable[Path]) -> None:
    """Set the time of folders of parts to now: parts themselves grow without changing it."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)


def _publish(part: Path, files: Path, name: str) -> tuple[str, bool, int]:
    """The name that a part got, whether it is a new file, and the size of the one that it replaced."""
    new, replaced = True, 0
    with _translate_full():
        files.mkdir(parents=True, exist_ok=True)
        while not _link(part, files / name):
            if filecmp.cmp(part, files / name, shallow=False):
                new = False
                break
            if is_cut_short(files / name, part):
                replaced = (files / name).stat().st_size
                part.replace(files / name)
                break
            name = next_name(name)
        part.unlink(missing_ok=True)
    return name, new, replaced


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
