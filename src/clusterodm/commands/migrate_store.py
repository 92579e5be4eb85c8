# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm migrate-store`: copy the database of a single process into one that replicas share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clusterodm.aio import Clock
from clusterodm.cluster.pairing import KEY, pair
from clusterodm.commands.ending import run_until_done
from clusterodm.core.errors import ConfigError
from clusterodm.files.folder import locked_folder
from clusterodm.files.identity import Identity, new_id, write_identity
from clusterodm.settings import Settings, load_settings
from clusterodm.store import Store, copy_store, require_empty


def migrate_store(
    data_dir: Annotated[
        str | None, typer.Option(help="Folder with clusterodm.db. Default: data. [CLUSTERODM_DATA_DIR]")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Empty PostgreSQL to copy into; better set in the environment, which hides its password. "
            "[CLUSTERODM_DATABASE_URL]"
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the same keys. [CLUSTERODM_CONFIG]")] = None,
) -> None:
    """Copy the database of a data folder into an empty PostgreSQL, for replicas. The old one is not changed."""
    flags: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    run_until_done(_migrate(load_settings(flags, config=config)))


async def _migrate(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    path = settings.data_dir / "clusterodm.db"
    if not url:
        raise ConfigError("CLUSTERODM_DATABASE_URL is required")
    if not path.is_file():
        raise ConfigError(f"there is no {path}")
    with locked_folder(settings.data_dir, shared=False):
        source = await Store.open(f"sqlite+aiosqlite:///{path}")
        try:
            was = await pair(settings.data_dir, source, Clock())
            target = await Store.open(url)
            try:
                # the old database must not count as that of the folder any more
                new = Identity(new_id(), replaces=was.id, copied_at=was.copied_at)
                await require_empty(target)
                write_identity(settings.data_dir, new)
                counts = await copy_store(source, target, {KEY: new.id})
                write_identity(settings.data_dir, Identity(new.id, copied_at=was.copied_at))
            finally:
                await target.close()
        finally:
            await source.close()
    for table, count in counts.items():
        typer.echo(f"{count:>9} {table}")
    typer.echo("Start replicas with the same CLUSTERODM_DATABASE_URL and data folder; clusterodm.db is no longer used.")
