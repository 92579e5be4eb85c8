# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Held files checked against the manifest: a node gets all accepted files, or none."""

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
    """Check the held files of tasks against their manifests."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool

    def path(self, uuid: str, name: str) -> Path:
        """Return the path of a held file."""
        return self._spool.path(uuid, name)

    async def whole(self, task: Task, *, besides: Collection[str] = ()) -> list[HeldFile]:
        """Return all accepted files of a task. Raises FilesLost when one is missing or damaged, except those in
        `besides`."""
        held, manifest = await self._spool.listing(task.uuid), await self._store.manifest(task.uuid)
        if manifest is None:
            return _counted(task, held)
        if not held and not besides:
            raise FilesLost(describe_none_held(manifest.files))
        _check([file for file in manifest.files if file.name not in besides], held)
        return manifest.files

    async def check_packed(self, uuid: str) -> None:
        """Raise FilesLost when an accepted archive is missing or damaged before unpacking began; later archives are
        deleted one by one."""
        held, manifest = await self._spool.listing(uuid), await self._store.manifest(uuid)
        accepted = {file.name for file in manifest.files} if manifest is not None else set()
        if manifest is None or any(file.name not in accepted for file in held):
            return
        if not held:
            raise FilesLost(describe_none_held(manifest.files))
        _check(manifest.files, held)

    async def restored(self, task: Task) -> TaskChanges:
        """Return the changes needed to run a task again: none if its files are held, its zipurl if they can be fetched
        again. Raises FilesLost when they are gone for good."""
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
        """Return how many images a node will count in these files; -1 if unknown."""
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
    if losses := describe_losses(accepted, held):
        raise FilesLost(f"files that were accepted are damaged or missing here: {losses}")


def _counted(task: Task, held: list[HeldFile]) -> list[HeldFile]:
    """Check the files of a task without a manifest (from an older version) by count and bytes."""
    count, size = len(held), sum(file.size for file in held)
    if not held:
        raise FilesLost("its files are not held here")
    if (count, size) != (task.file_count, task.byte_count):
        expected = f"{task.file_count} files with {task.byte_count} bytes"
        raise FilesLost(f"{expected} were accepted, but {count} with {size} bytes are here")
    return held
