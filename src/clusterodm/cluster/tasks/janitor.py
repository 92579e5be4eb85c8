# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Expiry: abandoned uploads, old tasks, and files no longer needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.errors import ProviderError, StaleTask
from clusterodm.core.tasks import Cleanup, Outcome, Phase
from clusterodm.files.bundle import Files
from clusterodm.providers import Fleet

_log = structlog.get_logger("janitor")

HOUR: Final = 3600.0
#: Hours after which an idle upload is abandoned by default, and for which the held files of failed and canceled tasks
#: are kept for a restart, as on a node.
DEFAULT_HOURS: Final = 48
_PAGE: Final = 200


@dataclass(kw_only=True, slots=True, eq=False)
class Janitor:
    """Remove what has expired."""

    state: ClusterState
    files: Files
    fleet: Fleet
    uploads: Uploads
    strays: Strays
    #: Seconds after which an upload without requests is given up.
    stale_uploads: float
    #: Seconds to keep finished tasks.
    keep_finished: float
    clock: Clock

    async def sweep(self) -> None:
        """Remove everything that has expired by now."""
        await self._give_up_uploads()
        await self._forget_old_tasks()
        await self._release_files()
        await self._drop_traces()
        await self.strays.sweep()

    async def _give_up_uploads(self) -> None:
        for entry in self.uploads.open():
            if self.uploads.idle(entry) > self.stale_uploads:
                await self.uploads.give_up(entry, self.stale_uploads, short=False)

    async def _forget_old_tasks(self) -> None:
        while True:
            page = await self.state.store.ended_before(self.clock() - self.keep_finished, limit=_PAGE)
            removed = 0
            for task, _ in page:
                old = self.clock.age(task.finished_at) > self.keep_finished
                if old and (entry := await self.state.tasks.find(task.uuid)):
                    removed += await self._remove(entry, "expired: it ended long ago")
            if not removed:
                return

    async def _remove(self, entry: Entry, text: str) -> bool:
        attempt = entry.attempt and msgspec.structs.replace(entry.attempt, cleanup=Cleanup.REMOVE)
        try:
            await self.state.tasks.advance(entry, Phase.REMOVED, text, attempt=attempt)
        except StaleTask:
            return False
        return True

    async def _release_files(self) -> None:
        """Delete held files of completed tasks, and of others that ended long ago."""
        for uuid in await self.files.spool.tasks():
            entry = None if self.files.spool.receives(uuid) else await self.state.tasks.find(uuid)
            if entry is None or entry.aside or entry.task.phase not in (Phase.FINISHED, Phase.REMOVED):
                continue
            completed = entry.task.outcome is Outcome.COMPLETED
            long_ago = self.clock.age(entry.task.finished_at) > DEFAULT_HOURS * HOUR
            if (completed or long_ago) and self.clock.age(entry.last_activity) > HOUR:
                await self.files.spool.drop(uuid)

    async def _clear_bucket(self, uuid: str, provider: str) -> bool:
        """Delete the results of a removed task from a bucket; return False if that must be retried."""
        bucket = self.fleet.bucket(provider) if provider else None
        if bucket is None:
            return True
        try:
            for attempt in await self.state.store.attempts(uuid):
                await bucket.clear(f"{attempt.node_uuid}/")
        except ProviderError as error:
            _log.warning("bucket cleanup failed", task=uuid, error=str(error))
            return False
        return True

    async def _drop_traces(self) -> None:
        """Delete files of removed tasks, and their rows once no cleanup on a node is pending."""
        last = ""
        while page := await self.state.store.removed(limit=_PAGE, after=last):
            last = page[-1][0]
            uuids = [uuid for uuid, provider in page if await self._clear_bucket(uuid, provider)]
            for uuid in uuids:
                await self.files.spool.drop(uuid)
                await self.files.consoles.drop(uuid)
                await self.files.results.drop(uuid)
            await self.state.store.forget(uuids)
