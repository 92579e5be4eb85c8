# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for held files: the quota, the usage of each task, and the uploads that wait.

Received bytes count from their first block, whether they are published later or dropped.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import BadRequest, SpoolFull
from clusterodm.core.quota import Quota, shortage

#: Seconds between two checks of the disk.
_CHECK: Final = 0.5
#: Seconds for which an upload waits for room: PyODM gives up a request after 30 s, and CloudODM repeats one at once.
PATIENCE: Final = 5.0
#: The part of the quota below which operators are warned.
_LOW: Final = 0.1
_NO_ROOM: Final = "No room left for uploads here, try again later"


class Usage(msgspec.Struct):
    """The usage of one task: bytes of all files, and the number of complete ones."""

    size: int = 0
    files: int = 0


class Room:
    """The room below one folder, within a quota."""

    def __init__(
        self,
        root: Path,
        quota: Quota,
        *,
        shared: bool = False,
        patience: float = PATIENCE,
        steady: Callable[[], float],
    ) -> None:
        self._root = root
        #: Seconds by a monotonic clock.
        self._steady = steady
        self._quota = quota
        #: True if other processes write there, too.
        self._shared = shared
        self.patience = patience
        self._usage: dict[str, Usage] = {}
        self._held = 0
        #: Bytes in the trash: they take room, and are deleted first when it is short.
        self.trash = 0
        #: Tasks whose files are changing, and those whose files changed during a recount.
        self._changing: Counter[str] = Counter()
        self._touched: set[str] = set()
        self._measuring = asyncio.Lock()
        self._checked_at = -inf
        self._free = 0
        self._size = 0
        self._needs: list[int] = []
        #: Bytes that the disk refused although the quota had room for them.
        self._refused = 0
        #: Set when an upload found no room; the reclaimer waits for it.
        self.short = asyncio.Event()
        self._more = asyncio.Event()

    @property
    def held(self) -> int:
        """Bytes of all held files and of those that are being received."""
        return self._held

    @property
    def waiting(self) -> int:
        """The number of uploads that wait for room."""
        return len(self._needs)

    def of(self, uuid: str) -> Usage:
        """Return the usage of a task."""
        return self._usage.get(uuid) or Usage()

    def tasks(self) -> list[str]:
        """Return the uuids of all tasks with files."""
        return list(self._usage)

    def free_bytes(self) -> int:
        """Return how many bytes may still be received; the disk is checked twice a second at most."""
        now = self._steady()
        if now - self._checked_at > _CHECK:
            disk = os.statvfs(self._root)
            total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
            self._free = self._quota.room(disk_total=total, disk_free=free, held=self._held + self.trash)
            self._size = self._quota.size(total)
            self._checked_at = now
        return self._free

    def is_low(self) -> bool:
        """Return True if an operator should know that little is left."""
        return self.free_bytes() <= self._size * _LOW

    async def admit(self, count: int) -> None:
        """Admit a body of so many bytes; nothing is reserved. Raises SpoolFull if there is no room for them, and
        BadRequest if there never will be."""
        if count > self.free_bytes() and count > self._size:
            raise BadRequest(f"Too large: {count} bytes, all uploads together may have {self._size}", no_retry=True)
        await self.wait(count)

    async def wait(self, count: int) -> None:
        """Wait until there is room for so many bytes. Raises SpoolFull if there is none in time."""
        if count and count > self.free_bytes():
            await self._wait_for(count)

    def add(self, uuid: str, count: int, *, files: int = 0) -> None:
        """Add bytes and files to the usage of a task; negative for deleted ones."""
        usage = self._usage.setdefault(uuid, Usage())
        usage.size += count
        usage.files += files
        self._held += count
        if not usage.size and not usage.files:
            del self._usage[uuid]
        self._free -= count
        self._touched.add(uuid)
        if count < 0:
            self._more.set()

    def forget(self, uuid: str) -> None:
        """Forget the usage of a task whose files are gone."""
        self._held -= self._usage.pop(uuid, Usage()).size
        self._touched.add(uuid)
        self._checked_at = -inf
        self._more.set()

    def released(self) -> None:
        """Note that bytes were deleted that count for no task."""
        self._checked_at = -inf
        self._more.set()

    def begin(self, uuid: str) -> None:
        """Note that files of a task are about to change; `end` is called as often."""
        self._changing[uuid] += 1
        self._touched.add(uuid)

    def end(self, uuid: str) -> None:
        """Note that a change is done and counted."""
        self._changing[uuid] -= 1
        if not self._changing[uuid]:
            del self._changing[uuid]

    async def measure(self) -> None:
        """Recount everything, for what other processes wrote or deleted. For tasks that changed here meanwhile the
        usage known here stays, or the larger one where other processes may have written, too."""
        async with self._measuring:
            self._touched = set(self._changing)
            counted = await asyncio.to_thread(_count, self._root)
            for uuid in self._touched:
                current, recounted = self._usage.get(uuid), counted.pop(uuid, None)
                if current is not None:
                    counted[uuid] = max(current, recounted or current, key=_size) if self._shared else current
            self._usage = counted
            self._held = sum(usage.size for usage in counted.values())
            self._checked_at = -inf

    def refused(self, count: int) -> None:
        """Note that the disk has no room for so many bytes, whatever the quota."""
        self._refused = max(self._refused, count)
        self._checked_at = -inf
        self.short.set()

    def missing(self, releasable: int) -> int:
        """Return how many of the releasable bytes to release, so that waiting and refused uploads can go on."""
        refused, self._refused = self._refused, 0
        missing = shortage(self._needs, room=self.free_bytes(), releasable=releasable)
        return max(missing, refused) if refused <= releasable else missing

    async def _wait_for(self, count: int) -> None:
        deadline = self._steady() + self.patience
        self._needs.append(count)
        self.short.set()
        try:
            while count > self.free_bytes():
                if self._steady() >= deadline:
                    raise SpoolFull(_NO_ROOM)
                self._more.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_CHECK, self.patience)):
                        await self._more.wait()
        finally:
            self._needs.remove(count)


def _count(root: Path) -> dict[str, Usage]:
    with suppress(FileNotFoundError):
        return {uuid: _usage_of(root / uuid) for uuid in os.listdir(root)}
    return {}


def _size(usage: Usage) -> int:
    return usage.size


def _usage_of(folder: Path) -> Usage:
    usage = Usage()
    inodes: set[int] = set()  # a file that is being published has two names
    for parent, _, names in os.walk(folder):
        whole = os.path.basename(parent) == "files"
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(os.path.join(parent, name))
                usage.files += whole
                usage.size += 0 if status.st_ino in inodes else status.st_size
                inodes.add(status.st_ino)
    return usage
