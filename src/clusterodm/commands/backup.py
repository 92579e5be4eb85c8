# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm backup`: copy the database and all files while the cluster runs.

Files are copied before and after the database, so that every task in the copied database has the files that it had at
that moment. `clusterodm restore` restores the backup.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from clusterodm.aio import Clock
from clusterodm.commands.postgres import dump
from clusterodm.core.errors import ConfigError, DataFolderError
from clusterodm.files.identity import FILE, Identity, new_id, read_identity, write_identity
from clusterodm.server.restoring import DATABASE, DATABASE_FILES, DUMP, stays
from clusterodm.settings import Settings, load_settings
from clusterodm.store import require_whole

#: Files that are not copied as files: a database in use is copied by its own means.
_NOT_COPIED: Final = (*DATABASE_FILES, DUMP, FILE)
#: Name in the target of the file that is being copied.
_COPYING: Final = ".copying"


def backup(
    target: Annotated[Path, typer.Argument(help="Folder for the backup; an older backup there is updated.")],
    data_dir: Annotated[str | None, typer.Option(help="The data folder. Default: data. [CLUSTERODM_DATA_DIR]")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL of the replicas, copied by pg_dump; better set in the environment, which hides its "
            "password. [CLUSTERODM_DATABASE_URL]"
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the same keys. [CLUSTERODM_CONFIG]")] = None,
    database_only: Annotated[
        bool, typer.Option("--database-only", help="Do not copy held files, results and consoles.")
    ] = False,
) -> None:
    """Back up the cluster to another folder while it runs."""
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
        raise ConfigError(f"{target} is inside the data folder")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()) and not any((target / name).exists() for name in (DATABASE, DUMP, _COPYING)):
        raise ConfigError(f"{target} is neither empty nor an earlier backup")
    began, identity = Clock()(), read_identity(source) or Identity(new_id(), replaces="")
    if not files and any((target / name).is_dir() for name in ("spool", "results", "console")):
        raise ConfigError(f"{target} is a backup with files: choose another folder for a backup of the database alone")
    if files:
        _copy_files(source, target)
    if url:
        _dump(url, target / DUMP)
    else:
        _copy_database(source / DATABASE, target / DATABASE)
    count, size = _copy_files(source, target, tidy=True) if files else (0, 0)
    (target / (DATABASE if url else DUMP)).unlink(missing_ok=True)
    # uploads continue meanwhile: it is unknown which of their files are in the backup
    write_identity(target, msgspec.structs.replace(identity, copied_at=began, files=files))
    typer.echo(f"{target}: the database and {count} files, {size / 1e9:.2f} GB")


def _copy_database(source: Path, target: Path) -> None:
    """Copy by SQLite's online backup, which is consistent while others write."""
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
        raise DataFolderError(
            f"{source} cannot be copied: {error}; an older backup in {target.parent} is kept"
        ) from None
    require_whole(part)
    part.replace(target)


def _dump(url: str, target: Path) -> None:
    """Copy by pg_dump."""
    part = target.parent / _COPYING
    asyncio.run(dump(url, part))
    part.replace(target)


def _copy_files(source: Path, target: Path, *, tidy: bool = False) -> tuple[int, int]:
    """Copy new and changed files; return the number and bytes of all. With `tidy`, delete files from an older backup
    that are no longer in the source."""
    copied: set[Path] = set()
    size = 0
    for place in _walk(source):
        with suppress(FileNotFoundError):  # removed meanwhile: its task is over
            size += _copy(source / place, target / place, target / _COPYING)
            copied.add(place)
    (target / _COPYING).unlink(missing_ok=True)
    if tidy:
        for place in list(_walk(target)):
            if place not in copied:
                (target / place).unlink()
    return len(copied), size


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files worth a copy, relative to `root`."""
    for folder, inner, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        inner[:] = sorted(name for name in inner if not _is_skipped(relative / name))
        for name in sorted(names):
            if not _is_skipped(relative / name) and not (root / relative / name).is_symlink():
                yield relative / name


def _is_skipped(place: Path) -> bool:
    """Return True for what is not backed up: incomplete files are worthless after a restart."""
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
    """Copy a file unless the backup has it with this size and time; return its bytes."""
    stat = path.stat()
    try:
        existing = target.stat()
        is_unchanged = (existing.st_size, existing.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    except FileNotFoundError:
        is_unchanged = False
    if not is_unchanged:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        shutil.copystat(path, part)
        part.replace(target)
    return stat.st_size
