# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for held files: how many bytes there may be, which task has how many, and who waits for some.

Everything that is received counts from its first block, whether it is published later or dropped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import BadRequest, SpoolFull
from clusterodm.core.quota import Quota, shortage

#: Seconds between two looks at the disk.
_LOOK: Final = 0.5
#: Seconds for which an upload waits for room: PyODM gives up a request after 30 s, and CloudODM repeats one at once.
PATIENCE: Final = 5.0
#: The part of the quota below which operators are warned.
_LOW: Final = 0.1
_NO_ROOM: Final = "No room left for uploads here, try again later"


class Usage(msgspec.Struct):
    """What one task has: bytes of all files, and the number of those that are whole."""

    size: int = 0
    files: int = 0


class Room:
    """The room below one folder, within a quota."""

    def __init__(self, root: Path, quota: Quota, *, shared: bool = False, patience: float = PATIENCE) -> None:
        self._root = root
        self._quota = quota
        #: Whether other processes write there, too.
        self._shared = shared
        self.patience = patience
        self._usage: dict[str, Usage] = {}
        self._held = 0
        #: Bytes in the trash: they take room, and go first when it is short.
        self.trash = 0
        #: Tasks whose files change at this moment, and those that changed while all was counted anew.
        self._changing: Counter[str] = Counter()
        self._touched: set[str] = set()
        self._measuring = asyncio.Lock()
        self._looked_at = 0.0
        self._left = 0
        self._size = 0
        self._needs: list[int] = []
        #: Bytes that the disk refused although the quota had room for them.
        self._refused = 0
        #: Set when an upload found no room; whoever can make some waits for it.
        self.short = asyncio.Event()
        self._more = asyncio.Event()

    @property
    def held(self) -> int:
        """Bytes of all held files and of those that are being received."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many uploads wait for room."""
        return len(self._needs)

    def of(self, uuid: str) -> Usage:
        """What a task has."""
        return self._usage.get(uuid) or Usage()

    def tasks(self) -> list[str]:
        """Uuids of all tasks that have something."""
        return list(self._usage)

    def left(self) -> int:
        """Bytes that may still come; the disk is asked twice a second at most."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK:
            disk = os.statvfs(self._root)
            total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
            self._left = self._quota.room(disk_total=total, disk_free=free, held=self._held + self.trash)
            self._size = self._quota.size(total)
            self._looked_at = now
        return self._left

    def is_low(self) -> bool:
        """Whether an operator should know that little is left."""
        return self.left() <= self._size * _LOW

    async def admit(self, count: int) -> None:
        """Let in who announces so many bytes; nothing is reserved. Raises SpoolFull when there is no room for them, and
        BadRequest when there never will be."""
        if count > self.left() and count > self._size:
            raise BadRequest(f"Too large: {count} bytes, all uploads together may have {self._size}", no_retry=True)
        await self.wait(count)

    async def wait(self, count: int) -> None:
        """Return once there is room for so many bytes. Raises SpoolFull when none comes in time."""
        if count and count > self.left():
            await self._wait_for(count)

    def add(self, uuid: str, count: int, *, files: int = 0) -> None:
        """Count bytes and files of a task; negative when they went."""
        usage = self._usage.setdefault(uuid, Usage())
        usage.size += count
        usage.files += files
        self._held += count
        if not usage.size and not usage.files:
            del self._usage[uuid]
        self._left -= count
        self._touched.add(uuid)
        if count < 0:
            self._more.set()

    def forget(self, uuid: str) -> None:
        """A task has nothing any more."""
        self._held -= self._usage.pop(uuid, Usage()).size
        self._touched.add(uuid)
        self._looked_at = 0.0
        self._more.set()

    def released(self) -> None:
        """Something that counts for no task was deleted."""
        self._looked_at = 0.0
        self._more.set()

    def begin(self, uuid: str) -> None:
        """From now on files of a task change; `end` is called as often."""
        self._changing[uuid] += 1
        self._touched.add(uuid)

    def end(self, uuid: str) -> None:
        """A change is over and counted."""
        self._changing[uuid] -= 1
        if not self._changing[uuid]:
            del self._changing[uuid]

    async def measure(self) -> None:
        """Count everything anew, for what others wrote or deleted. What grew or went here meanwhile is as it is known
        here, or larger where others may have written to it."""
        async with self._measuring:
            self._touched = set(self._changing)
            counted = await asyncio.to_thread(_count, self._root)
            for uuid in self._touched:
                known, found = self._usage.get(uuid), counted.pop(uuid, None)
                if known is not None:
                    counted[uuid] = max(known, found or known, key=_size) if self._shared else known
            self._usage = counted
            self._held = sum(usage.size for usage in counted.values())
            self._looked_at = 0.0

    def refused(self, count: int) -> None:
        """The disk has no room for so many bytes, whatever the quota says."""
        self._refused = max(self._refused, count)
        self._looked_at = 0.0
        self.short.set()

    def missing(self, releasable: int) -> int:
        """Bytes to release, of those that can be, so that who waits, or was refused by the disk, can go on."""
        refused, self._refused = self._refused, 0
        missing = shortage(self._needs, room=self.left(), releasable=releasable)
        return max(missing, refused) if refused <= releasable else missing

    async def _wait_for(self, count: int) -> None:
        deadline = time.monotonic() + self.patience
        self._needs.append(count)
        self.short.set()
        try:
            while count > self.left():
                if time.monotonic() >= deadline:
                    raise SpoolFull(_NO_ROOM)
                self._more.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_LOOK, self.patience)):
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
    seen: set[int] = set()  # a file that is being published has two names
    for parent, _, names in os.walk(folder):
        whole = os.path.basename(parent) == "files"
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(os.path.join(parent, name))
                usage.files += whole
                usage.size += 0 if status.st_ino in seen else status.st_size
                seen.add(status.st_ino)
    return usage
