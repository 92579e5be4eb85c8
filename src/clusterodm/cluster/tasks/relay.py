# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copy the console of a task from its node into the task's own console, which only grows: even if the node restarts its
line numbers, or has more lines than belong in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import AnswerTooLarge, NodeError
from clusterodm.core.tasks import Attempt
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import NodeClient, Snapshot
from clusterodm.nodeodm.output import shortened

_log = structlog.get_logger("relay")

#: Known lines requested again: if they differ, the node has restarted its console.
_OVERLAP: Final = 5
#: Restarts of an attempt's console at most: a node that never repeats itself would fill the disk.
_RESTARTS: Final = 20
#: Seconds before each further try to read a long console.
_PAUSES: Final = (0.5, 2.0, 5.0)


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """A node's response about a task, and the known lines that its lines should begin with."""

    snapshot: Snapshot
    #: Number of the first line requested from the node.
    line: int
    known: list[str]
    #: False: too many lines, so the snapshot has none.
    whole: bool


@dataclass(kw_only=True, slots=True, eq=False)
class Relay:
    """Poll nodes for tasks, and append new lines to their consoles."""

    tasks: Tasks
    consoles: Consoles
    client: NodeClient
    #: Restarts of the console of each attempt, by its uuid on the node.
    _restarts: dict[str, int] = field(init=False, default_factory=dict)

    def forget(self, attempt: Attempt) -> None:
        """Forget an attempt that is over."""
        self._restarts.pop(attempt.node_uuid, None)

    async def poll(self, attempt: Attempt, node: Node, seconds: float) -> Poll:
        """Poll a task with its new lines and a few known ones; each call may take this long. Raises a NodeError."""
        line, known_lines = await self._known_lines(attempt)
        try:
            snapshot = await self.client.task(node.address, attempt.node_uuid, from_line=line, seconds=seconds)
        except AnswerTooLarge:
            snapshot = await self.client.task(node.address, attempt.node_uuid, seconds=seconds)
            return Poll(snapshot=snapshot, line=line, known=known_lines, whole=False)
        return Poll(snapshot=snapshot, line=line, known=known_lines, whole=True)

    async def keep(self, entry: Entry, attempt: Attempt, node: Node, poll: Poll) -> bool:
        """Append the new lines of a console; return False if not all of them could be read."""
        if poll.whole:
            lines = [shortened(line) for line in poll.snapshot.output]
            if lines[: len(poll.known)] == poll.known or not self._may_restart(attempt):
                await self.consoles.append(attempt.task, lines[len(poll.known) :])
                return True
            attempt = await self._restart(entry, attempt)
        for pause in (*_PAUSES, None):
            try:
                await self._read(entry, entry.attempt or attempt, node)
            except NodeError as error:
                _log.info("console unreadable", task=attempt.task, error=str(error))
                if pause is not None:
                    await asyncio.sleep(pause)
            else:
                return True
        return False

    async def _known_lines(self, attempt: Attempt) -> tuple[int, list[str]]:
        """Return the number of the first line to request, and the known lines from there on."""
        count = await self.consoles.count(attempt.task) - attempt.console_start
        overlap = min(_OVERLAP, count)
        known_lines = await self.consoles.read(attempt.task, -overlap) if overlap else b"[]"
        return count - overlap, msgspec.json.decode(known_lines, type=list[str])

    async def _read(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Copy a console piece by piece, from the first unknown line."""
        line, known_lines = await self._known_lines(attempt)
        async with aclosing(self.client.output(node.address, attempt.node_uuid, line)) as pieces:
            first = await _first(pieces, len(known_lines))
            if first[: len(known_lines)] == known_lines or not self._may_restart(attempt):
                await self._append(attempt, first[len(known_lines) :])
                async for piece in pieces:
                    await self._append(attempt, piece)
                return
        attempt = await self._restart(entry, attempt)
        async with aclosing(self.client.output(node.address, attempt.node_uuid, 0)) as pieces:
            async for piece in pieces:
                await self._append(attempt, piece)

    async def _append(self, attempt: Attempt, lines: list[str]) -> None:
        await self.consoles.append(attempt.task, [shortened(line) for line in lines])

    def _may_restart(self, attempt: Attempt) -> bool:
        return self._restarts.get(attempt.node_uuid, 0) < _RESTARTS

    async def _restart(self, entry: Entry, attempt: Attempt) -> Attempt:
        """Map the node's line 0 to the next line of the task's console."""
        self._restarts[attempt.node_uuid] = self._restarts.get(attempt.node_uuid, 0) + 1
        start = await self.consoles.count(attempt.task)
        return await self.tasks.change_attempt(entry, attempt, console_start=start)


async def _first(pieces: AsyncGenerator[list[str], None], count: int) -> list[str]:
    """Return at least this many lines, if there are as many."""
    lines: list[str] = []
    while len(lines) < max(1, count) and (piece := await anext(pieces, None)) is not None:
        lines += [shortened(line) for line in piece]
    return lines
