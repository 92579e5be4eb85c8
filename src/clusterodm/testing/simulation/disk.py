# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Disks: when files were changed in virtual time, and what a loss of power leaves of them.

An audit hook sees each file that is opened for writing, renamed, linked or deleted. The kernel writes back what was
not synced within half a minute; a loss of power may lose, truncate or tear what was changed since. A database in WAL
mode keeps what was committed with `synchronous=FULL`, and with less what reached its log before a random moment.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

#: Seconds after which the kernel has written back what was changed.
WRITE_BACK: Final = 30.0
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events of changes.
_CHANGES: Final = frozenset(
    ("open", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.rename", "os.link")
)
_DATABASE: Final = (".db", ".db-wal", ".db-shm")
_hooked: list[Disk] = []


class Disk:
    """The files under one folder of this machine, which all simulated hosts keep their files in."""

    def __init__(self, root: Path, now: Callable[[], float], chance: random.Random) -> None:
        self.root = root
        self._prefix = f"{root}{os.sep}"
        self._now = now
        self._chance = chance
        #: When each path was last changed, and last synced.
        self.changed: dict[str, float] = {}
        self.synced: dict[str, float] = {}
        #: Sizes of a database's log after each commit without a sync since it was last synced, by path.
        self.unsynced_log: dict[str, list[int]] = {}

    def watch(self) -> None:
        """Begin to see changes; once in a process."""
        if not _hooked:
            sys.addaudithook(_audit)
        _hooked[:] = [self]

    def unwatch(self) -> None:
        """End it."""
        _hooked.clear()

    def touch(self, path: Any) -> None:
        """Note a change of a file, and so of its folder."""
        name = _name(path)
        if name.startswith(self._prefix):
            now = self._now()
            self.changed[name] = now
            self.changed[os.path.dirname(name)] = now

    def move(self, source: Any, target: Any) -> None:
        """Note a rename: a file keeps its time."""
        old, new = _name(source), _name(target)
        then = self.changed.get(old)
        self.touch(source)
        self.touch(target)
        if then is not None:
            self.changed[new] = then
        if old in self.synced:
            self.synced[new] = self.synced.pop(old)

    def changed_at(self, path: Any) -> float | None:
        """Return when a path was changed in virtual time; None if it never was."""
        return self.changed.get(_name(path))

    def wrote(self, descriptor: int) -> None:
        """Note that a file was written to."""
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.startswith(self._prefix):
            self.changed[name] = self._now()

    def sync(self, descriptor: int) -> None:
        """Note that a file was synced."""
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        self.synced[name] = self._now()

    # Loss of power

    def carry_over(self, source: Path, target: Path) -> None:
        """Copy a folder as a process leaves it that is killed: the kernel has everything that was written."""
        shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if name.endswith(".db-shm")])
        for old, at in list(self.changed.items()):
            if old == str(source) or old.startswith(f"{source}{os.sep}"):
                new = f"{target}{old[len(str(source)) :]}"
                self.changed[new] = at
                if old in self.synced:
                    self.synced[new] = self.synced[old]

    def lose_power(self, source: Path, target: Path) -> list[str]:
        """Copy a folder as a machine leaves it that loses power; return what was lost, relative to the folder."""
        self.carry_over(source, target)
        lost: list[str] = []
        for path in sorted(each for each in target.rglob("*") if each.is_file()):
            name = str(path)
            if path.name.endswith(_DATABASE):
                if path.name.endswith("-wal") and self._cut_log(source / path.relative_to(target), path):
                    lost.append(f"{path.relative_to(target)}: commits")
                continue
            age = self._now() - self.changed.get(name, 0.0)
            if self.synced.get(name, -1.0) >= self.changed.get(name, 0.0) or age > WRITE_BACK:
                continue
            if self._chance.random() < max(0.0, 1.0 - age / WRITE_BACK):
                lost.append(f"{path.relative_to(target)}: {self._tear(path)}")
        return lost

    def _tear(self, path: Path) -> str:
        size = path.stat().st_size
        how = self._chance.choice(("gone", "empty", "cut", "zeros"))
        if how == "gone":
            path.unlink()
        elif how == "empty" or not size:
            path.write_bytes(b"")
        elif how == "cut":
            os.truncate(path, self._chance.randrange(size))
        else:
            path.write_bytes(bytes(size))
        return how

    def _cut_log(self, source: Path, copy: Path) -> bool:
        """Drop commits from the end of a log that were never synced; return True if there were any."""
        sizes = self.unsynced_log.get(str(source), [])
        kept = [size for size in sizes if size <= copy.stat().st_size]
        if len(kept) < 2:
            return False
        os.truncate(copy, self._chance.choice(kept[:-1]))
        return True


def watched() -> Disk | None:
    """Return the disk that is watched."""
    return _hooked[0] if _hooked else None


def _name(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else ""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in _CHANGES or not _hooked:
        return
    disk = _hooked[0]
    if event == "open":
        path, _, flags = args
        if isinstance(flags, int) and flags & _WRITES and not isinstance(path, int):
            disk.touch(path)
    elif event == "os.rename":
        disk.move(args[0], args[1])
    elif event == "os.link":
        disk.touch(args[1])
    else:
        disk.touch(args[0])
