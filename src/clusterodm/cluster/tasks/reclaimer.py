# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Free space when an upload finds none: the trash first, then abandoned uploads, then leftovers of tasks that are over.
Held files of running tasks go only if the operator allows it, stray files never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.quota import Holding, Rank, to_release
from clusterodm.core.tasks import Phase
from clusterodm.files.bundle import Files

_log = structlog.get_logger("room")

#: Seconds without a byte after which an upload is abandoned when space is short.
ABANDONED: Final = 600.0
#: Seconds between two releases.
_PAUSE: Final = 0.5
_TEXTS: Final = {
    Rank.LEFTOVER: "held files released to make room for uploads: it can only be restarted on a node that still has "
    "them",
    Rank.RUNNING: "held files released to make room for uploads: it keeps running, but cannot be retried elsewhere "
    "if its node is lost",
}
_PHASES: Final = {Rank.LEFTOVER: Phase.FINISHED, Rank.RUNNING: Phase.RUNNING}


@dataclass(kw_only=True, slots=True, eq=False)
class Reclaimer:
    """Release held files."""

    tasks: Tasks
    files: Files
    uploads: Uploads
    release_running: bool
    clock: Clock
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    async def run(self) -> None:
        """Free space whenever an upload finds none, until canceled."""
        room = self.files.spool.room
        while True:
            await room.short.wait()
            room.short.clear()
            try:
                await self.make_room()
            except Exception as error:  # noqa: BLE001 - one of the three edges: a work item
                _log.warning("space cannot be freed", error=str(error) or type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def make_room(self) -> None:
        """Release what the waiting uploads need; nothing if all that may go would not be enough for any of them."""
        room = self.files.spool.room
        if self.tasks.others:
            await self.files.spool.measure()
        holdings = [holding async for holding in self._holdings()]
        missing = room.missing(self.files.trash.size + sum(holding.size for holding in holdings))
        missing -= await self.files.trash.release(missing)
        for holding in to_release(holdings, missing):
            await self._release(holding)

    async def _holdings(self) -> AsyncIterator[Holding]:
        for uuid in self.files.spool.room.tasks():
            entry = await self.tasks.find(uuid)
            placed = self._rank(entry) if entry is not None and not entry.aside else None
            if placed is not None:
                rank, since = placed
                yield Holding(uuid, self.files.spool.room.of(uuid).size, rank, since)

    def _rank(self, entry: Entry) -> tuple[Rank, float] | None:
        """Return how early a task's files may go, and since when they are of less use; None if they may not go."""
        match entry.task.phase:
            case Phase.RECEIVING if self.uploads.idle(entry) > ABANDONED and self._clients_had_time():
                return Rank.ABANDONED, self.uploads.active_at(entry)
            case Phase.REMOVED:
                return Rank.ABANDONED, 0.0
            case Phase.FINISHED:
                return Rank.LEFTOVER, entry.task.finished_at
            case Phase.RUNNING if self.release_running and entry.attempt is not None:
                return Rank.RUNNING, entry.attempt.started_at
        return None

    def _clients_had_time(self) -> bool:
        """Return True if clients have had time to continue their uploads since the start."""
        return self.clock.age(self._began) > ABANDONED

    async def _release(self, holding: Holding) -> None:
        entry = await self.tasks.find(holding.task)
        if entry is None:
            return
        if entry.task.phase is Phase.REMOVED:
            await self.files.spool.drop(holding.task)
        elif holding.rank is Rank.ABANDONED:
            await self.uploads.give_up(entry, ABANDONED, short=True)
        else:
            await self._release_of(entry, holding.rank)

    async def _release_of(self, entry: Entry, rank: Rank) -> None:
        """Release under the task's lock, so that it is not restarted from files that go at this moment."""
        async with self.tasks.locks.hold(entry):
            if entry.task.phase is _PHASES[rank]:
                await self.files.spool.drop(entry.task.uuid)
                await self.tasks.note(entry, _TEXTS[rank])
