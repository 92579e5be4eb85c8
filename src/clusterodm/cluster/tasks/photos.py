# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Photo metadata written by the engine (`images.json`), for owners' webhooks: from the results, or from a node's own
webhook call. Nothing large is fetched for it."""

from __future__ import annotations

import asyncio
import zipfile
import zlib
from typing import IO, Final

import msgspec

from clusterodm.core.errors import BadRequest, ProviderError
from clusterodm.core.tasks import Attempt, Phase, Task
from clusterodm.files.results import ARCHIVE, Content, Results, find_asset
from clusterodm.providers import Fleet

_NAME: Final = "images.json"
#: Its largest size in bytes.
_MOST: Final = 8 << 20
_UNREADABLE: Final = (OSError, EOFError, zipfile.BadZipFile, zlib.error, BadRequest, ProviderError)


class Photos:
    """Find the photo metadata of a task."""

    def __init__(self, results: Results, fleet: Fleet) -> None:
        self._results = results
        self._fleet = fleet

    async def note(self, task: Task, text: str) -> None:
        """Store the photo metadata that a node reports; ignore anything but a list."""
        if task.phase not in (Phase.RECEIVING, Phase.QUEUED, Phase.REMOVED) and _listed(text.encode()) is not None:
            await self._results.note(task.uuid, _NAME, text.encode())

    async def of(self, task: Task, attempt: Attempt | None) -> list[msgspec.Raw] | None:
        """Return the photo metadata of a task; None if there is none."""
        try:
            content = await self._stored(task.uuid) or await self._in_bucket(task, attempt)
        except _UNREADABLE:
            return None
        return _listed(content) if content else None

    async def _stored(self, uuid: str) -> bytes:
        noted = await self._results.noted(uuid, _NAME)
        if noted or self._results.archive(uuid) is None:
            return noted
        content: Content = await self._results.asset(uuid, _NAME)
        try:
            if content.size > _MOST:
                return b""
            return b"".join([block async for block in content.blocks(0, content.size)])
        finally:
            content.close()

    async def _in_bucket(self, task: Task, attempt: Attempt | None) -> bytes:
        bucket = self._fleet.bucket(task.results_in) if task.results_in else None
        if bucket is None or attempt is None:
            return b""
        key = f"{attempt.node_uuid}/{ARCHIVE}"
        archive = await bucket.find(key)
        return await asyncio.to_thread(_read, bucket.open(key, archive.size)) if archive is not None else b""


def _read(file: IO[bytes]) -> bytes:
    with file:
        asset = find_asset(file, _NAME)
        return asset.archive.read(asset.entry) if asset.entry.file_size <= _MOST else b""


def _listed(content: bytes) -> list[msgspec.Raw] | None:
    try:
        return msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return None
