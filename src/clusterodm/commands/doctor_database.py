# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on the database: integrity, version, unreadable rows, and the data folder that it belongs to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from clusterodm.cluster.pairing import check_pair
from clusterodm.commands.finding import Finding
from clusterodm.core.errors import ClusterError, StoreDown
from clusterodm.server.restoring import DATABASE
from clusterodm.settings import Settings
from clusterodm.store import HEAD, ask_version, examine, require_whole, untouched

#: Unreadable rows that are listed.
_LISTED: Final = 10
_RESTORE: Final = "restore a backup: clusterodm restore (docs/how-to/backup.md)"
_BAD_ROW: Final = "everything else works without it; correct that column, or restore a backup (docs/how-to/stuck.md)"


async def check_database(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings; nothing is changed."""
    url, path = settings.database_url.get_secret_value(), settings.data_dir / DATABASE
    if not url and not path.exists():
        yield _well(f"{path.resolve()} will be created")
        return
    try:
        if url:
            yield _well(f"PostgreSQL {await ask_version(url)} answers")
        else:
            require_whole(path)
            yield _well(f"{path.resolve()} is intact")
        async for finding in _contents(settings, url or f"sqlite+aiosqlite:///{path}"):
            yield finding
    except StoreDown as error:
        yield _wrong(str(error), "check that it is running, and that --database-url is correct" if url else _RESTORE)
    except ClusterError as error:
        yield _wrong(str(error), _RESTORE)


async def _contents(settings: Settings, url: str) -> AsyncIterator[Finding]:
    report = await examine(url)
    if report.newer:
        yield _wrong(
            f"written by a newer version (schema {report.schema}; this one supports up to {HEAD})",
            "install that version again, or restore an earlier backup (docs/how-to/upgrade.md)",
        )
        return
    if report.schema != HEAD:
        was = f"schema {report.schema}" if report.schema else "empty"
        yield _well(f"{was}: the next start migrates it to {HEAD}")
        if report.schema:
            return
    for row in report.bad_rows[:_LISTED]:
        yield _wrong(f"cannot be read, and is set aside: {row}", _BAD_ROW)
    if (more := len(report.bad_rows) - _LISTED) > 0:
        yield _wrong(f"{more} more rows cannot be read", _BAD_ROW)
    if report.schema == HEAD:
        async with untouched(url) as store:
            why = await check_pair(settings.data_dir, store)
        if why:
            yield _wrong(f"{why}. The cluster will not start", "use the folder and the database that belong together")
        else:
            yield _well("it belongs to the data folder")


def _well(text: str) -> Finding:
    return Finding("database", "ok", text)


def _wrong(text: str, fix: str) -> Finding:
    return Finding("database", "error", text, fix)
