# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a data folder and a database belong together, and what follows when they are those of a copy.

A start on the wrong database, an empty one or one whose folder is not there (a disk that is not mounted) would take
accepted tasks for unknown, or their files for lost. So it is refused, until an operator says otherwise.
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

#: Under which the database keeps the id of its folder.
KEY: Final = "folder"
_WHAT_TO_DO: Final = (
    "Start with the right --data-dir and CLUSTERODM_DATABASE_URL, or put both back from one copy with `clusterodm "
    "restore`. If they are to be used together from now on, start once with --adopt: nothing is deleted at once, files "
    "of tasks that the database does not know go to the trash folder after 48 hours"
)


async def pair(folder: Path, store: Store, clock: Clock, *, adopt: bool = False) -> Identity:
    """Return what a folder says of itself once it is sure that the database is its own; both get an id where neither
    has one. Raises DataFolderError."""
    async with store.locked("identity"):
        there = str(await store.value(KEY) or "")
        try:
            here = read_identity(folder)
        except DataFolderError:
            if not adopt:
                raise
            here = Identity("?")
        if here is None and not there:
            why = await _unrelated(folder, store)
            if why and not adopt:
                raise DataFolderError(f"{why}. {_WHAT_TO_DO}")
            here = Identity(new_id(), replaces="", copied_at=clock() if why else 0)
        elif here is None or not here.matches(there):
            why = _mismatch(folder, here, there, empty=not await store.has_tasks())
            if not adopt:
                raise DataFolderError(f"{why}. {_WHAT_TO_DO}")
            _log.warning("folder and database are used together from now on", folder=str(folder), was=why)
            here = Identity(new_id(), replaces=there, copied_at=clock())
        return await _settle(folder, store, here, there)


def require_new(folder: Path) -> None:
    """Raise DataFolderError where a database is about to be made in a folder that had one."""
    if (here := read_identity(folder)) is not None:
        raise DataFolderError(f"{_mismatch(folder, here, '', empty=True)}. {_WHAT_TO_DO}")


async def check_pair(folder: Path, store: Store) -> str:
    """Return why a folder and a database do not belong together; empty: they do. Nothing is changed."""
    there, here = str(await store.value(KEY) or ""), read_identity(folder)
    if here is None and not there:
        return await _unrelated(folder, store)
    if here is None or not here.matches(there):
        return _mismatch(folder, here, there, empty=not await store.has_tasks())
    return ""


async def _settle(folder: Path, store: Store, here: Identity, there: str) -> Identity:
    """Have one id in both. The folder says first what is about to be replaced: a process may die in between."""
    if here.id != there:
        await asyncio.to_thread(write_identity, folder, here)
        await store.keep_value(KEY, here.id)
    if here.replaces is not None:
        here = msgspec.structs.replace(here, replaces=None)
        await asyncio.to_thread(write_identity, folder, here)
    return here


def _mismatch(folder: Path, here: Identity | None, there: str, *, empty: bool) -> str:
    if here is None:
        return (
            f"the data folder {folder.resolve()} is new, but the database belongs to another one (id {there}): is the "
            "disk of the data folder mounted?"
        )
    database = "is empty" if empty else f"belongs to another folder (id {there})" if there else "carries no id"
    return f"the data folder {folder.resolve()} belongs to another database (id {here.id}); this one {database}"


async def _unrelated(folder: Path, store: Store) -> str:
    """Return why two without ids, as earlier versions left them, cannot be those of one cluster; empty: they can."""
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
    """Return the uuids of tasks that have files in a data folder; reads the disk."""
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(folder / "spool") if is_task_id(name)]
    return []


async def after_copy(
    folder: Path, identity: Identity, tasks: Tasks, uploads: Uploads, strays: Strays, clock: Clock
) -> None:
    """On a folder that was put back from a copy: end what cannot go on from there. Before clients are let in."""
    if not identity.copied_at:
        return
    at = datetime.fromtimestamp(identity.copied_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = f"the cluster was put back to an earlier state ({at}), and files that were uploaded since are lost"
    dropped = uploads.open()
    for entry in dropped:
        await strays.take_away("spool", entry.task.uuid)
        await uploads.remove(entry, by="a restore", why=told)
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
    """Count an attempt that the copy may not know: a node that has its uuid would refuse the next one under it."""
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
