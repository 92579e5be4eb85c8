# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Migrate a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from clusterodm.core.errors import DataFolderError
from clusterodm.store import schema

#: The latest migration; a database that has it, or is new, does not need Alembic, which takes long to load.
HEAD: Final = "0014"


def migrate(connection: Connection) -> None:
    """Create all tables in an empty database, else run the migrations that are missing. Raises DataFolderError for a
    database of a newer version."""
    if schema_version(connection) == HEAD:
        return
    if not inspect(connection).get_table_names():
        schema.metadata.create_all(connection)
        _stamp(connection)
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise DataFolderError(
            f"the database was written by a newer version (this one knows schemas up to {HEAD}); nothing was changed"
        ) from None


def _stamp(connection: Connection) -> None:
    """Record the schema as Alembic does, without the time that it takes to load."""
    connection.execute(
        text(
            "CREATE TABLE alembic_version "
            "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def schema_version(connection: Connection) -> str | None:
    """Return the schema of a database; None for one that has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
