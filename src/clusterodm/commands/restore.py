# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm restore`: restore a backup, with or without files, while the cluster is stopped."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from clusterodm.aio import Clock
from clusterodm.commands.ending import run_until_done
from clusterodm.commands.postgres import dump, replace
from clusterodm.core.errors import ConfigError, DataFolderError
from clusterodm.files.folder import locked_folder
from clusterodm.files.identity import FILE, Identity, new_id, read_identity, write_identity
from clusterodm.server.restoring import (
    DATABASE,
    DATABASE_FILES,
    DUMP,
    MARK,
    REPLACED,
    STAGE,
    Plan,
    begin,
    carry_out,
    copy_tree,
    decide,
    settle,
    stays,
)
from clusterodm.settings import Settings, load_settings
from clusterodm.store import has_tables, require_whole
from clusterodm.store.migrate import HEAD


class _Copy(msgspec.Struct, frozen=True):
    """A backup to restore."""

    folder: Path
    identity: Identity
    shared: bool

    @property
    def time(self) -> str:
        """When the backup was made."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.identity.copied_at))


def restore(
    copy: Annotated[Path, typer.Argument(help="The backup that `clusterodm backup` made.")],
    data_dir: Annotated[str | None, typer.Option(help="The data folder. Default: data. [CLUSTERODM_DATA_DIR]")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL of the replicas, for a backup of one; better set in the environment, which hides its "
            "password. [CLUSTERODM_DATABASE_URL]"
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the same keys. [CLUSTERODM_CONFIG]")] = None,
) -> None:
    """Restore a backup, all of it or nothing, while the cluster is stopped; the previous content is kept."""
    flags: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    run_until_done(_restore(load_settings(flags, config=config), copy))


async def _restore(settings: Settings, source: Path) -> None:
    url, folder = settings.database_url.get_secret_value(), settings.data_dir
    copy = _inspect(source, url)
    try:
        with locked_folder(folder, shared=False):
            if notice := await settle(folder, url):
                typer.echo(notice)
            _require_kin(folder, copy)
            plan = await _stage(folder, copy, url)
            if copy.shared:
                decide(folder, plan)
                try:
                    await replace(url, source / DUMP, MARK, plan.mark)
                except DataFolderError:
                    await settle(folder, url)
                    raise
            else:
                decide(folder, plan)
            carry_out(folder, plan)
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written: {error.strerror}; nothing was changed") from None
    contents = "with files" if copy.identity.files else "the database alone: files in the folder were not changed"
    typer.echo(f"{folder} is restored to {copy.time} ({contents})")
    typer.echo(f"The previous content is in {folder / plan.into}; `clusterodm restore` can restore that, too.")
    typer.echo("Delete it when it is no longer needed. Uploads that were not committed begin again.")


def _inspect(source: Path, url: str) -> _Copy:
    """Inspect a backup. Raises ConfigError and DataFolderError for one that cannot be restored."""
    database, dumped = source / DATABASE, source / DUMP
    if not database.is_file() and not dumped.is_file():
        raise ConfigError(f"{source} is no backup: it has neither {DATABASE} nor {DUMP}")
    shared = bool(url)
    if shared and not dumped.is_file():
        raise ConfigError(f"{source} is the backup of a cluster without PostgreSQL, but CLUSTERODM_DATABASE_URL is set")
    if not shared and not database.is_file():
        raise ConfigError(f"{source} is the backup of a cluster with PostgreSQL: set CLUSTERODM_DATABASE_URL")
    if not shared:
        require_whole(database)
        _require_known(database)
    identity = read_identity(source)
    if identity is None:  # made by a version without identities
        identity = Identity(new_id(), replaces="", files=(source / "spool").is_dir())
    if not identity.copied_at:
        at = (dumped if shared else database).stat().st_mtime
        identity = msgspec.structs.replace(identity, copied_at=at)
    return _Copy(source, identity, shared)


def _require_known(database: Path) -> None:
    """Raise DataFolderError for a database that this version cannot use."""
    with closing(sqlite3.connect(f"file:{database.resolve().as_posix()}?mode=ro", uri=True)) as connection:
        try:
            [version] = connection.execute("SELECT version_num FROM alembic_version").fetchone() or [""]
        except sqlite3.Error as error:
            raise DataFolderError(f"{database} is no database of a cluster: {error}") from None
    if version > HEAD:
        raise DataFolderError(f"{database} was written by a newer version (schema {version}; this one supports {HEAD})")


def _require_kin(folder: Path, copy: _Copy) -> None:
    """Check that a database alone belongs to the files in the folder. Raises DataFolderError."""
    present = read_identity(folder)
    is_other_cluster = present is not None and copy.identity.replaces is None and not present.matches(copy.identity.id)
    if is_other_cluster and not copy.identity.files:
        raise DataFolderError(
            f"{copy.folder} is the database of another data folder than {folder}; nothing was changed"
        )


async def _stage(folder: Path, copy: _Copy, url: str) -> Plan:
    """Copy everything into a staging folder, including the database that is replaced, which is needed to undo this."""
    names = [name for name in _names(folder) if copy.identity.files or name in (*DATABASE_FILES, FILE)]
    if mounts := [name for name in names if (folder / name).is_mount()]:
        raise DataFolderError(f"{folder / mounts[0]} is a mount point, which cannot be replaced: unmount it first")
    new = begin(folder)
    try:
        if copy.identity.files:
            copy_tree(copy.folder, new)
        if not copy.shared:
            shutil.copy2(copy.folder / DATABASE, new / DATABASE)
        elif await has_tables(url):
            await dump(url, folder / STAGE / DUMP)
        write_identity(new, copy.identity)
    except BaseException:
        shutil.rmtree(folder / STAGE, ignore_errors=True)
        raise
    into = f"{REPLACED}{time.strftime('%Y%m%d-%H%M%S', time.gmtime(Clock()()))}"
    while (folder / into).exists():
        into += "x"
    return Plan(names, into, copy.identity.files, secrets.token_hex(8) if copy.shared else "")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not stays(path.name))
