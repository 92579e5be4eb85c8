# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stray files, whose tasks are not in the database: reported at once, moved to the trash after a grace period, deleted
days later.

A database older than the data folder, or the wrong one, lacks tasks that were accepted, so stray files may be needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.durations import span
from clusterodm.core.ids import is_task_id
from clusterodm.files.bundle import Files
from clusterodm.store import Store

_log = structlog.get_logger("strays")

#: Seconds between the first sight of stray files and their move to the trash.
GRACE: Final = 48 * 3600.0
#: Seconds between two scans of consoles and results, whose space is not urgent.
_SLOW: Final = 3600.0
_NAMED: Final = 3


@dataclass(kw_only=True, slots=True, eq=False)
class Strays:
    """Track stray files, and since when (monotonic) they are known."""

    store: Store
    files: Files
    uploads: Uploads
    clock: Clock
    _first_seen: dict[tuple[str, str], float] = field(init=False, default_factory=dict)
    _scanned_at: float = field(init=False, default=float("-inf"))

    def problem(self) -> str:
        """Describe the stray files for an operator; empty if there are none."""
        tasks = {uuid for _, uuid in self._first_seen}
        if not tasks:
            return ""
        remaining = max(0.0, GRACE - (self.clock.steady() - min(self._first_seen.values())))
        return (
            f"the data folder has files of {len(tasks)} tasks that the database does not know, such as {min(tasks)}: "
            f"they go to {self.files.trash.root} in {span(remaining)}; "
            "is it the right database, or one older than the folder?"
        )

    async def sweep(self) -> None:
        """Scan for stray files, and expire the trash."""
        await self._scan("spool", await self.files.spool.tasks())
        if self.clock.steady() - self._scanned_at >= _SLOW:
            self._scanned_at = self.clock.steady()
            await self._scan("results", await asyncio.to_thread(self.files.results.uuids))
            await self._scan("console", await asyncio.to_thread(self.files.consoles.uuids))
        await self._move_away()
        await self.files.trash.measure()
        await self.files.trash.expire(self.clock.age)

    async def clear(self, uuid: str) -> None:
        """Move stray files away before a new task gets their uuid."""
        for kind in ("spool", "results", "console"):
            await self.take_away(kind, uuid)

    async def take_away(self, kind: str, uuid: str) -> bool:
        """Move files of a task to the trash; return False if there are none."""
        places: dict[str, tuple[Path, Callable[[str], None]]] = {
            "spool": (self.files.spool.folder(uuid), self.files.spool.took_away),
            "results": (self.files.results.folder(uuid), lambda uuid: None),
            "console": (self.files.consoles.path(uuid), self.files.consoles.forget),
        }
        path, forget = places[kind]
        moved = await self.files.trash.put(kind, uuid, path, at=self.clock())
        if moved:
            forget(uuid)
            _log.warning("moved to the trash", task=uuid, kind=kind)
        return moved

    def holds(self, uuid: str) -> bool:
        """Return True if files of a task are held."""
        return self.files.spool.folder(uuid).is_dir()

    async def _scan(self, kind: str, names: Iterable[str]) -> None:
        """Compare the uuids in a folder with those in the database."""
        uuids = [uuid for uuid in names if is_task_id(uuid)]
        known = await self.store.known_tasks(uuids)
        unknown = {uuid for uuid in uuids if uuid not in known and not self.uploads.is_arriving(uuid)}
        for key in [key for key in self._first_seen if key[0] == kind and key[1] not in unknown]:
            del self._first_seen[key]
        new = sorted(uuid for uuid in unknown if (kind, uuid) not in self._first_seen)
        self._first_seen |= {(kind, uuid): self.clock.steady() for uuid in new}
        if new:
            _log.warning(
                "stray files of tasks unknown to the database; they go to the trash after a grace period",
                kind=kind,
                tasks=len(new),
                examples=new[:_NAMED],
                hours=GRACE / 3600,
                trash=str(self.files.trash.root),
            )

    async def _move_away(self) -> None:
        for (kind, uuid), since in list(self._first_seen.items()):
            rested = kind != "spool" or self.clock.age(self.files.spool.last_change(uuid)) >= GRACE
            if self.clock.steady() - since >= GRACE and rested and not await self.store.known_tasks([uuid]):
                await self.take_away(kind, uuid)
                del self._first_seen[(kind, uuid)]
