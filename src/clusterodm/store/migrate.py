# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Brings a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from clusterodm.core.errors import DataFolderError


def migrate(connection: Connection) -> None:
    """Run all migrations that are missing. Raises DataFolderError for a database of a newer version."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        head = ScriptDirectory.from_config(config).get_current_head()
        raise DataFolderError(
            f"the database was written by a newer version (this one knows schemas up to {head}); nothing was changed"
        ) from None
