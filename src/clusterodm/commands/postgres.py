# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backup and restore of PostgreSQL by its own programs; passwords are passed in the environment, not as arguments."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from clusterodm.core.errors import ConfigError, DataFolderError, Rejected
from clusterodm.providers.schedulers.subprocesses import run

#: Drop all tables, also those of a newer version; refused while a replica sends heartbeats.
_EMPTY: Final = """
DO $$
DECLARE found record; alive bigint := 0;
BEGIN
    IF to_regclass('replicas') IS NOT NULL THEN
        EXECUTE 'SELECT count(*) FROM replicas WHERE seen_at > extract(epoch FROM clock_timestamp()) - 6' INTO alive;
    END IF;
    IF alive > 0 THEN RAISE EXCEPTION 'replicas work on this database; stop all of them'; END IF;
    FOR found IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I CASCADE', found.tablename);
    END LOOP;
END $$;
"""
_MARK: Final = """INSERT INTO public.meta (key, value) VALUES ('{key}', '"{mark}"')
ON CONFLICT (key) DO UPDATE SET value = excluded.value;
"""


def environment(url: str) -> dict[str, str]:
    """Return a URL as environment variables of PostgreSQL's programs."""
    split = urlsplit(url)
    variables = {
        "PGHOST": split.hostname,
        "PGPORT": split.port,
        "PGUSER": split.username and unquote(split.username),
        "PGPASSWORD": split.password and unquote(split.password),
        "PGDATABASE": split.path.strip("/"),
    }
    return {name: str(value) for name, value in variables.items() if value}


async def dump(url: str, target: Path) -> None:
    """Back up a database as of one moment. Raises ConfigError and DataFolderError."""
    # a replica that is running now would be taken for one that runs where the copy is put back
    await _run(url, "pg_dump", "--format=custom", "--exclude-table-data=*.replicas", f"--file={target}")


async def replace(url: str, source: Path, key: str, mark: str) -> None:
    """Replace the content of a database by a backup and a mark, in one transaction. Raises ConfigError and
    DataFolderError; then nothing has changed."""
    with tempfile.TemporaryDirectory(prefix="clusterodm-") as scratch:
        script, before, after = (Path(scratch) / name for name in ("dump.sql", "before.sql", "after.sql"))
        await _run(url, "pg_restore", "--no-owner", "--no-privileges", f"--file={script}", str(source))
        before.write_text(_EMPTY)
        # no SQL injection: the key is fixed, the mark is hexadecimal
        after.write_text(_MARK.format(key=key, mark=mark))
        files = [f"--file={path}" for path in (before, script, after)]
        await _run(url, "psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", *files)


async def _run(url: str, *words: str) -> None:
    try:
        ended = await run(words, environ=environment(url))
    except Rejected as error:
        raise ConfigError(f"{error}; it is part of PostgreSQL's client") from None
    if ended.status:
        errors = [line.partition("ERROR:")[2].strip() for line in ended.err.splitlines() if "ERROR:" in line]
        raise DataFolderError(f"{words[0]} failed: {errors[0][:300] if errors else ended.error}")
