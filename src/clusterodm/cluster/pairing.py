# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pairing of data folder and database: they carry one id, and a mismatch is refused.

A start on the wrong database, on an empty one, or without the disk of the data folder would treat accepted tasks as
unknown, or their files as lost. So it is refused unless an operator adopts the pair.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.errors import DataFolderError, StaleTask
from clusterodm.core.ids import is_task_id
from clusterodm.core.tasks import DISCARDED, Attempt, Phase, Stage, node_uuid
from clusterodm.files.identity import Identity, new_id, read_identity, write_identity
from clusterodm.store import Store

_log = structlog.get_logger("pairing")

#: Key in the database of the id that it shares with its folder.
KEY: Final = "folder"
_WHAT_TO_DO: Final = (
    "Start with the right --data-dir and CLUSTERODM_DATABASE_URL, or put both back from one copy with `clusterodm "
    "restore`. If they are to be used together from now on, start once with --adopt: nothing is deleted at once, files "
    "of tasks that the database does not know go to the trash folder after 48 hours"
)


async def pair(folder: Path, store: Store, clock: Clock, *, adopt: bool = False) -> Identity:
    """Return the identity of a data folder whose database is its own; give both an id if neither has one. Raises
    DataFolderError."""
    async with store.locked("identity"):
        stored = str(await store.value(KEY) or "")
        try:
            identity = read_identity(folder)
        except DataFolderError:
            if not adopt:
                raise
            identity = Identity("?")
        if identity is None and not stored:
            why = await _unrelated(folder, store)
            if why and not adopt:
                raise DataFolderError(f"{why}. {_WHAT_TO_DO}")
            identity = Identity(new_id(), replaces="", copied_at=clock() if why else 0)
        elif identity is None or not identity.matches(stored):
            why = _mismatch(folder, identity, stored, empty=not await store.has_tasks())
            if not adopt:
                raise DataFolderError(f"{why}. {_WHAT_TO_DO}")
            _log.warning("folder and database adopted as a pair", folder=str(folder), was=why)
            identity = Identity(new_id(), replaces=stored, copied_at=clock())
        return await _settle(folder, store, identity, stored)


def require_new(folder: Path) -> None:
    """Raise DataFolderError before a database is created in a folder that belongs to another one."""
    if (identity := read_identity(folder)) is not None:
        raise DataFolderError(f"{_mismatch(folder, identity, '', empty=True)}. {_WHAT_TO_DO}")


async def check_pair(folder: Path, store: Store) -> str:
    """Return why a folder and a database do not belong together; empty if they do. Changes nothing."""
    stored, identity = str(await store.value(KEY) or ""), read_identity(folder)
    if identity is None and not stored:
        return await _unrelated(folder, store)
    if identity is None or not identity.matches(stored):
        return _mismatch(folder, identity, stored, empty=not await store.has_tasks())
    return ""


async def _settle(folder: Path, store: Store, identity: Identity, stored: str) -> Identity:
    """Write one id to both. The folder notes first which id is replaced: the process may die in between."""
    if identity.id != stored:
        await asyncio.to_thread(write_identity, folder, identity)
        await store.keep_value(KEY, identity.id)
    if identity.replaces is not None:
        identity = msgspec.structs.replace(identity, replaces=None)
        await asyncio.to_thread(write_identity, folder, identity)
    return identity


def _mismatch(folder: Path, identity: Identity | None, stored: str, *, empty: bool) -> str:
    if identity is None:
        return (
            f"the data folder {folder.resolve()} is new, but the database belongs to another one (id {stored}): is the "
            "disk of the data folder mounted?"
        )
    database = "is empty" if empty else f"belongs to another folder (id {stored})" if stored else "carries no id"
    return f"the data folder {folder.resolve()} belongs to another database (id {identity.id}); this one {database}"


async def _unrelated(folder: Path, store: Store) -> str:
    """Return why two without ids, as earlier versions left them, cannot be a pair; empty if they can."""
    held = await asyncio.to_thread(held_tasks, folder)
    if held and not await store.known_tasks(held):
        return (
            f"the data folder {folder.resolve()} holds files of {len(held)} tasks, and the database knows none of them"
        )
    if not held and (count := await store.unsent()):
        return (
            f"the database knows {count} tasks that wait, and the data folder {folder.resolve()} holds files of none: "
            "is its disk mounted?"
        )
    return ""


def held_tasks(folder: Path) -> list[str]:
    """Return the uuids of tasks with files in a data folder; reads the disk."""
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(folder / "spool") if is_task_id(name)]
    return []


async def after_copy(
    folder: Path, identity: Identity, tasks: Tasks, uploads: Uploads, strays: Strays, clock: Clock
) -> None:
    """After a restore, before ports open: drop uploads and count attempts that may have been lost with it."""
    if not identity.copied_at:
        return
    at = datetime.fromtimestamp(identity.copied_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    why = f"the cluster was put back to an earlier state ({at}), and files that were uploaded since are lost"
    dropped = uploads.open()
    for entry in dropped:
        await strays.take_away("spool", entry.task.uuid)
        await uploads.remove(entry, by="a restore", why=why)
    for entry in [entry for entry in tasks.active() if entry.task.phase is Phase.QUEUED]:
        with suppress(StaleTask):
            await _skip_attempt(tasks, entry, f"put back to an earlier state ({at})", clock)
    waiting = [entry.task for entry in tasks.active() if entry.task.phase is Phase.QUEUED and entry.task.byte_count]
    without = [task.uuid for task in waiting if not strays.holds(task.uuid)]
    if without:
        _log.error(
            "the files of tasks that wait are not here: these tasks will fail", tasks=without[:10], count=len(without)
        )
    write_identity(folder, msgspec.structs.replace(identity, copied_at=0))
    _log.warning("put back from a copy", made=at, uploads_to_begin_again=len(dropped))


async def _skip_attempt(tasks: Tasks, entry: Entry, text: str, clock: Clock) -> None:
    """Skip an attempt number that may have been used after the copy: a node refuses a uuid that it has seen."""
    task, number = entry.task, entry.task.attempts + 1
    attempt = Attempt(
        task=task.uuid,
        number=number,
        node_id=0,
        node_name="?",
        node_uuid=node_uuid(task.uuid, number),
        stage=Stage.ENDED,
        started_at=clock(),
        ended_at=clock(),
        reason=DISCARDED,
    )
    if entry.attempt is None or entry.attempt.stage is not Stage.PREFETCHING:
        await tasks.change(entry, text, attempt=attempt, attempts=number)
