# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Held files: uploads, kept until the results are safe.

    spool/<uuid>/files/<name>              complete files, visible by an atomic link
    spool/<uuid>/parts/<process>-<random>  files that a process is receiving; worthless once that is gone

Once an upload is answered, its file survives the death of this process. It survives a loss of power once the kernel has
written it back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from clusterodm.aio import Clock
from clusterodm.core.errors import BadRequest, SpoolFull
from clusterodm.core.files import HeldFile
from clusterodm.core.names import safe_name
from clusterodm.core.quota import Quota
from clusterodm.files.disk import changed_at, create, drop_parts, list_files, mark, publish, translate_full
from clusterodm.files.room import PATIENCE, Room

#: Bytes that are gathered before they are written, off the event loop: few enough to stay in the CPU's cache.
BLOCK: Final = 256 << 10
_IOV_MAX: Final = 512
_WHOLE_DISK: Final = Quota(1.0, 0)


class Account(Protocol):
    """The account that the bytes of a part are charged to."""

    async def wait(self, count: int) -> None:
        """Wait until there is room for so many bytes. Raises SpoolFull if there is none in time."""

    def add(self, count: int) -> None:
        """Charge bytes that are about to be written."""

    def refused(self, count: int) -> None:
        """Note that the disk had no room for so many bytes."""

    def ended(self, part: Part) -> None:
        """Note that a part was dropped."""

    def tidy(self) -> None:
        """Delete the folders of a deleted part unless they hold something; called from any thread."""


class Part:
    """A file that is being received. Write to it, then `close` it; the spool publishes it, or it is dropped.

    The disk is accessed in threads only, even for opening: a file system that is busy writing back can block any call.
    """

    def __init__(self, path: Path, account: Account | None = None) -> None:
        self.path = path
        self._account = account
        self._fd = -1
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        #: Held by the thread that writes, so that its file is not closed under it.
        self._writing = threading.Lock()
        self._dropped = False
        #: Bytes charged, and bytes written.
        self.counted = 0
        self.size = 0

    async def write(self, content: bytes | memoryview) -> None:
        """Append bytes; they reach the file in large blocks. A view may change once this returns."""
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
        """Raise BadRequest, with a node's text, if the part was dropped under its writer."""
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
        with translate_full():
            if self._fd < 0:
                self._fd = create(self.path)
            total = sum(map(len, blocks))
            written = os.writev(self._fd, blocks) if blocks else 0
            self.size += written
            if written < total:  # a signal or a full disk: the slow path tells which
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
        """Delete a part that was not published, even while it is written to; harmless for one that was."""
        self._dropped = True
        self._delete()
        if self._account is not None:
            self._account.ended(self)

    def _delete(self) -> None:
        """Close and delete the file, unless a thread is writing to it: that thread calls this when it is done."""
        if self._writing.acquire(blocking=False):
            try:
                self._close_fd()
                self.path.unlink(missing_ok=True)
                if self._account is not None:
                    self._account.tidy()
            finally:
                self._writing.release()


class _Ledger:
    """The account of a task in the spool."""

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
        clock: Clock | None = None,
    ) -> None:
        self._root = root
        self._clock = clock or Clock()
        #: The name of this process in the names of its parts; several processes may share the folder.
        self._owner = owner
        #: Parts that this process is receiving, by task.
        self._open: dict[str, set[Part]] = {}
        root.mkdir(parents=True, exist_ok=True)
        self.room = Room(root, quota, shared=shared, patience=patience, steady=self._clock.steady)

    async def measure(self) -> None:
        """Recount the bytes of all held files, and show other processes what is being received here."""
        await asyncio.to_thread(mark, [self._parts(uuid) for uuid in self._open])
        await self.room.measure()

    def _files(self, uuid: str) -> Path:
        return self._root / uuid / "files"

    def path(self, uuid: str, name: str) -> Path:
        """Return the path of a held file."""
        return self._files(uuid) / name

    def _parts(self, uuid: str) -> Path:
        return self._root / uuid / "parts"

    def refused(self, uuid: str) -> Path:
        """Return the folder of the refusals of an upload."""
        return self._root / uuid / "refused"

    def new_part(self, uuid: str) -> Part:
        """Return a new part for a file of a task."""
        folder = self._parts(uuid)
        part = Part(folder / f"{self._owner}-{secrets.token_hex(8)}", _Ledger(self, uuid, folder))
        self._open.setdefault(uuid, set()).add(part)
        self.room.begin(uuid)
        return part

    def receives(self, uuid: str) -> bool:
        """Return True if this process is receiving files of a task."""
        return uuid in self._open

    @asynccontextmanager
    async def received(self, uuid: str, blocks: AsyncIterable[bytes | memoryview]) -> AsyncIterator[Part]:
        """Receive a file of a task; yield its part once it is complete, to be published. If an error occurs, here or in
        the block, the part is deleted."""
        part = self.new_part(uuid)
        try:
            async for block in blocks:
                await part.write(block)
            await part.close()
            yield part
        except BaseException:
            part.drop()
            raise

    def close_part(self, uuid: str, part: Part) -> None:
        """Remove a part that was not published from the books."""
        self._forget_part(uuid, part, -part.counted)

    def _forget_part(self, uuid: str, part: Part, count: int, *, files: int = 0) -> None:
        """Remove a part from the books, once, and charge its task the difference."""
        parts = self._open.get(uuid, set())
        if part in parts:
            parts.remove(part)
            self.room.add(uuid, count, files=files)
            self.room.end(uuid)
        if not parts:
            self._open.pop(uuid, None)

    async def publish(self, uuid: str, part: Part, name: str) -> str:
        """Make a complete part visible under a safe form of `name`; return the name that it got.

        The same name with the same bytes is one file; with other bytes the name gets a `_`. A complete file replaces an
        imported one that was cut short. Callers hold the task's lock, so that nothing is published after the commit.
        """
        stored_name, new, replaced = await asyncio.to_thread(publish, part.path, self._files(uuid), safe_name(name))
        self._forget_part(uuid, part, -replaced if new else -part.counted, files=new and not replaced)
        return stored_name

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
        """Return the held files of a task, sorted by name."""
        return await asyncio.to_thread(list_files, self._files(uuid))

    def abort(self, uuid: str) -> None:
        """Delete the parts that are being received for a task; their clients get an error."""
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
        """Delete the parts of processes that are no longer alive, once they did not grow for `rested` seconds."""
        await asyncio.to_thread(drop_parts, self._root.glob("*/parts/*"), alive, rested, self._clock.age)

    def folder(self, uuid: str) -> Path:
        """Return the folder of a task."""
        return self._root / uuid

    def took_away(self, uuid: str) -> None:
        """Note that the folder of a task was moved elsewhere."""
        self.room.forget(uuid)

    async def tasks(self) -> list[str]:
        """Return the uuids of all tasks with a folder here."""
        return await asyncio.to_thread(os.listdir, self._root)

    def last_change(self, uuid: str) -> float:
        """Return when a file of the task last arrived, or began to, in seconds since the epoch; 0 if there is none."""
        return max(map(changed_at, (self._root / uuid, self._files(uuid), self._parts(uuid))))
