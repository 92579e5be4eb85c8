# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The held files of tasks against what was accepted of them: nothing less ever goes to a node."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from clusterodm.core.changes import TaskChanges
from clusterodm.core.errors import FilesLost
from clusterodm.core.files import HeldFile, counted_images, describe_losses, describe_none_held
from clusterodm.core.tasks import Task
from clusterodm.files.spool import Spool
from clusterodm.store import Store

_SEED: Final = "seed.zip"


class Holdings:
    """Knows what was accepted of each task, and whether it is still here."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool

    def path(self, uuid: str, name: str) -> Path:
        """Return where a held file lies."""
        return self._spool.path(uuid, name)

    async def whole(self, task: Task, *, besides: Collection[str] = ()) -> list[HeldFile]:
        """Return all files that were accepted of a task. Raises FilesLost when one is not held as it was; those in
        `besides` are not needed any more."""
        held, manifest = await self._spool.listing(task.uuid), await self._store.manifest(task.uuid)
        if manifest is None:
            return _counted(task, held)
        if not held and not besides:
            raise FilesLost(describe_none_held(manifest.files))
        _check([file for file in manifest.files if file.name not in besides], held)
        return manifest.files

    async def check_packed(self, uuid: str) -> None:
        """Raise FilesLost when what was accepted is not held as it was, and nothing was unpacked of it yet: archives go
        one by one, once they are unpacked."""
        held, manifest = await self._spool.listing(uuid), await self._store.manifest(uuid)
        accepted = {file.name for file in manifest.files} if manifest is not None else set()
        if manifest is None or any(file.name not in accepted for file in held):
            return
        if not held:
            raise FilesLost(describe_none_held(manifest.files))
        _check(manifest.files, held)

    async def restored(self, task: Task) -> TaskChanges:
        """Return the changes with which a task can begin again: none when its files are here, its zipurl when they are
        to be fetched once more. Raises FilesLost when they are gone for good."""
        try:
            await self.whole(task)
        except FilesLost:
            manifest = await self._store.manifest(task.uuid)
            if manifest is None or not manifest.zipurl:
                raise
            await self._spool.drop(task.uuid)
            return {"zipurl": manifest.zipurl}
        return {}

    async def expected_images(self, uuid: str, files: Sequence[HeldFile]) -> int:
        """Return how many images a node counts among these files; -1 when that cannot be told."""
        names = [file.name for file in files]
        try:
            seeded = await asyncio.to_thread(self._seeded, uuid) if _SEED in names else []
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
            return -1
        return counted_images(names, seeded)

    def _seeded(self, uuid: str) -> list[str]:
        with zipfile.ZipFile(self._spool.path(uuid, _SEED)) as archive:
            return archive.namelist()


def _check(accepted: Sequence[HeldFile], held: Sequence[HeldFile]) -> None:
    if lost := describe_losses(accepted, held):
        raise FilesLost(f"files that were accepted are damaged or missing here: {lost}")


def _counted(task: Task, held: list[HeldFile]) -> list[HeldFile]:
    """The held files of a task that was accepted before names were kept: as many, and as many bytes."""
    count, size = len(held), sum(file.size for file in held)
    if not held:
        raise FilesLost("its files are not held here")
    if (count, size) != (task.file_count, task.byte_count):
        expected = f"{task.file_count} files with {task.byte_count} bytes"
        raise FilesLost(f"{expected} were accepted, but {count} with {size} bytes are here")
    return held
