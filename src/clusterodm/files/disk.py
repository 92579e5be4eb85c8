# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocking calls of the spool, made in threads."""

from __future__ import annotations

import errno
import filecmp
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from clusterodm.core.errors import SpoolFull
from clusterodm.core.files import HeldFile
from clusterodm.core.names import next_name
from clusterodm.files.interrupted import is_cut_short

#: How often a folder is made that others delete at the same time.
_TRIES: Final = 20


@contextmanager
def translate_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFull("No space left for uploads, try again later") from None
        raise


def changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def create(path: Path) -> int:
    """Create a file in a folder that may be deleted at the same time because it is empty; return its descriptor."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def mark(folders: Iterable[Path]) -> None:
    """Set the time of folders of parts to now: growing parts do not change it."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)


def publish(part: Path, files: Path, name: str) -> tuple[str, bool, int]:
    """Publish a part. Return its name, True if it is a new file, and the size of the file that it replaced."""
    new, replaced = True, 0
    with translate_full():
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
    """Link `part` to `target`; return False if that exists."""
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


def list_files(folder: Path) -> list[HeldFile]:
    try:
        with os.scandir(folder) as entries:
            return sorted((HeldFile(entry.name, entry.stat().st_size) for entry in entries), key=lambda file: file.name)
    except FileNotFoundError:
        return []


def drop_parts(
    parts: Iterable[Path], alive: Callable[[str], bool], rested: float, age: Callable[[float], float]
) -> None:
    """Delete parts whose process, the first word of their name, is not alive, once they did not grow for `rested`
    seconds. `age`: how many seconds ago a time was."""
    for part in parts:
        if not alive(part.name.partition("-")[0]) and age(changed_at(part)) >= rested:
            part.unlink(missing_ok=True)
