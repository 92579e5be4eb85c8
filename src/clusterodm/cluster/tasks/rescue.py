# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finished results on a machine that is about to go: collected before it is terminated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import StaleTask
from clusterodm.core.retry import FETCHED, awaits_restart, is_packed
from clusterodm.core.tasks import Phase
from clusterodm.files.console import Consoles

#: Seconds for collecting results before their machine goes; a spot machine has two minutes.
_RESCUE: Final = 90.0


class Rescue:
    """Hold a machine back until its finished results are collected."""

    def __init__(self, tasks: Tasks, registry: Registry, consoles: Consoles) -> None:
        self._tasks = tasks
        self._registry = registry
        self._consoles = consoles
        #: Set once the results of a task are collected or known to be lost.
        self._collected: dict[str, asyncio.Event] = {}
        tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        if entry.task.phase is not Phase.COLLECTING and (collected := self._collected.get(entry.task.uuid)):
            collected.set()

    async def collect(self, entries: Iterable[Entry]) -> None:
        """Wait until the results of finished tasks are collected, at most as long as their machine can wait."""
        finished = [entry for entry in entries if await self._is_finished(entry)]
        for entry in finished:
            if entry.attempt is not None and entry.task.phase is Phase.RUNNING:
                text = f"collecting the results from {entry.attempt.node_name} before its machine goes"
                fetched = msgspec.structs.replace(entry.attempt, reason=FETCHED)
                with suppress(StaleTask):
                    await self._tasks.advance(entry, Phase.COLLECTING, text, attempt=fetched, not_before=0.0)
        uuids = [entry.task.uuid for entry in finished if entry.task.phase is Phase.COLLECTING]
        events = [self._collected.setdefault(uuid, asyncio.Event()) for uuid in uuids]
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESCUE):
                for event in events:
                    await event.wait()
        for uuid in uuids:
            self._collected.pop(uuid, None)

    async def _is_finished(self, entry: Entry) -> bool:
        """Return True if the node of a task is online and done with it."""
        node = self._registry.get(entry.attempt.node_id) if entry.attempt is not None else None
        if node is None or not node.online:
            return False
        if awaits_restart(entry.task, entry.attempt):
            return is_packed(await self._consoles.last_line(entry.task.uuid))
        return entry.task.phase is Phase.COLLECTING
