# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm backup`: a copy of everything that is kept, made while the cluster runs.

Files are copied before and after the database, so that every task of the copied database has the files that it had at
that moment. `clusterodm restore` puts the copy back.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from clusterodm.commands.postgres import dump
from clusterodm.core.errors import ConfigError, DataFolderError
from clusterodm.files.identity import FILE, Identity, new_id, read_identity, write_identity
from clusterodm.server.restoring import DATABASE, DATABASE_FILES, DUMP, stays
from clusterodm.settings import Settings, load_settings
from clusterodm.store import require_whole

#: What a copy does not have of the folder, or has in its own way: a database that is in use is copied by itself.
_NOT_COPIED: Final = (*DATABASE_FILES, DUMP, FILE)
#: The file that is being copied, in the target.
_COPYING: Final = ".copying"


def backup(
    target: Annotated[Path, typer.Argument(help="Folder for the copy; an older copy there is brought up to date.")],
    data_dir: Annotated[str | None, typer.Option(help="The data folder. Default: data. [CLUSTERODM_DATA_DIR]")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="The PostgreSQL of replicas, copied by pg_dump; better in the environment, where a password is not "
            "seen by others. [CLUSTERODM_DATABASE_URL]"
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the same keys. [CLUSTERODM_CONFIG]")] = None,
    database_only: Annotated[
        bool, typer.Option("--database-only", help="Copy neither held files nor results nor consoles.")
    ] = False,
) -> None:
    """Copy everything that is kept to another folder, while the cluster runs."""
    flags: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    settings = load_settings(flags, config=config)
    try:
        _backup(settings, target, files=not database_only)
    except OSError as error:
        raise DataFolderError(f"{target} cannot be written: {error.strerror}") from None


def _backup(settings: Settings, target: Path, *, files: bool) -> None:
    source, url = settings.data_dir, settings.database_url.get_secret_value()
    if not source.is_dir():
        raise ConfigError(f"there is no data folder {source}")
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target} lies in the data folder itself")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()) and not any((target / name).exists() for name in (DATABASE, DUMP, _COPYING)):
        raise ConfigError(f"{target} has something in it that is no earlier copy")
    began, identity = time.time(), read_identity(source) or Identity(new_id(), replaces="")
    if not files and any((target / name).is_dir() for name in ("spool", "results", "console")):
        raise ConfigError(f"{target} is a copy with files: choose another folder for a copy of the database alone")
    if files:
        _copy_files(source, target)
    if url:
        _dump(url, target / DUMP)
    else:
        _copy_database(source / DATABASE, target / DATABASE)
    count, size = _copy_files(source, target, tidy=True) if files else (0, 0)
    (target / (DATABASE if url else DUMP)).unlink(missing_ok=True)
    # uploads go on meanwhile: from here on nobody can tell which of their files are in the copy
    write_identity(target, msgspec.structs.replace(identity, copied_at=began, files=files))
    typer.echo(f"{target}: the database and {count} files, {size / 1e9:.2f} GB")


def _copy_database(source: Path, target: Path) -> None:
    """By SQLite's own means, which see a whole state however much is written meanwhile."""
    if not source.is_file():
        raise ConfigError(f"there is no {source}")
    part = target.parent / _COPYING
    part.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source.resolve().as_posix()}?mode=ro", uri=True)) as reading,
            closing(sqlite3.connect(part)) as writing,
        ):
            reading.backup(writing)
    except sqlite3.Error as error:
        raise DataFolderError(f"{source} cannot be copied: {error}; an older copy in {target.parent} stays") from None
    require_whole(part)
    part.replace(target)


def _dump(url: str, target: Path) -> None:
    """By PostgreSQL's own means."""
    part = target.parent / _COPYING
    asyncio.run(dump(url, part))
    part.replace(target)


def _copy_files(source: Path, target: Path, *, tidy: bool = False) -> tuple[int, int]:
    """Copy files that are new or changed; how many there are, and their bytes. With `tidy`, those that are no longer
    in the source are deleted from an older copy."""
    seen: set[Path] = set()
    size = 0
    for place in _walk(source):
        with suppress(FileNotFoundError):  # it went while we copied: its task is over
            size += _copy(source / place, target / place, target / _COPYING)
            seen.add(place)
    (target / _COPYING).unlink(missing_ok=True)
    if tidy:
        for place in list(_walk(target)):
            if place not in seen:
                (target / place).unlink()
    return len(seen), size


def _walk(root: Path) -> Iterator[Path]:
    """All files worth a copy, as they lie below `root`."""
    for folder, inner, names in os.walk(root):
        here = Path(folder).relative_to(root)
        inner[:] = sorted(name for name in inner if not _worthless(here / name))
        for name in sorted(names):
            if not _worthless(here / name) and not (root / here / name).is_symlink():
                yield here / name


def _worthless(place: Path) -> bool:
    """Whether nothing would be lost with it: what is being received is worthless after a restart."""
    match place.parts:
        case [name]:
            return name in _NOT_COPIED or stays(name)
        case ["spool", _, "parts"]:
            return True
        case ["results", _, name]:
            return name.endswith(".part")
        case _:
            return False


def _copy(path: Path, target: Path, part: Path) -> int:
    """Copy one file unless the copy has its size and time already; its bytes."""
    found = path.stat()
    try:
        had = target.stat()
        same = (had.st_size, had.st_mtime_ns) == (found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        same = False
    if not same:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        shutil.copystat(path, part)
        part.replace(target)
    return found.st_size
