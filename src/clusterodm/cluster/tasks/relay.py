# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies the console of a task on its node into the task's own, which only grows: also when the node numbers its lines
anew, and when there are more of them than belong in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
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

#: Lines that are known and asked for again: when they differ, the node has begun anew.
_OVERLAP: Final = 5
#: Times that an attempt's console may begin anew; a node that never says the same twice would fill the disk.
_BEGINNINGS: Final = 20
#: Seconds before each further try to read a long console.
_PAUSES: Final = (0.5, 2.0, 5.0)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A node's answer about a task, and the known lines with which its lines should begin."""

    snapshot: Snapshot
    #: The number of the first line on the node that was asked for.
    line: int
    known: list[str]
    #: False: there were too many lines; none of them is in the snapshot.
    whole: bool


class Relay:
    """Asks nodes for tasks, and keeps what is new of their consoles."""

    def __init__(self, tasks: Tasks, consoles: Consoles, client: NodeClient) -> None:
        self._tasks = tasks
        self._consoles = consoles
        self._client = client
        #: How often the console of an attempt began anew, by the attempt's uuid on its node.
        self._beginnings: dict[str, int] = {}

    def forget(self, attempt: Attempt) -> None:
        """The attempt is over."""
        self._beginnings.pop(attempt.node_uuid, None)

    async def look(self, attempt: Attempt, node: Node, seconds: float) -> Look:
        """Ask for a task with the lines that are not known yet, and some that are; each call may take so long. Raises a
        NodeError."""
        line, known = await self._known(attempt)
        try:
            snapshot = await self._client.task(node.address, attempt.node_uuid, from_line=line, seconds=seconds)
        except AnswerTooLarge:
            snapshot = await self._client.task(node.address, attempt.node_uuid, seconds=seconds)
            return Look(snapshot=snapshot, line=line, known=known, whole=False)
        return Look(snapshot=snapshot, line=line, known=known, whole=True)

    async def keep(self, entry: Entry, attempt: Attempt, node: Node, look: Look) -> bool:
        """Append what is new of a console; False when not all of it could be read."""
        if look.whole:
            lines = [shortened(line) for line in look.snapshot.output]
            if lines[: len(look.known)] == look.known or not self._may_begin(attempt):
                await self._consoles.append(attempt.task, lines[len(look.known) :])
                return True
            attempt = await self._begin_anew(entry, attempt)
        for pause in (*_PAUSES, None):
            try:
                await self._read(entry, entry.attempt or attempt, node)
            except NodeError as error:
                _log.info("a console could not be read", task=attempt.task, why=str(error))
                if pause is not None:
                    await asyncio.sleep(pause)
            else:
                return True
        return False

    async def _known(self, attempt: Attempt) -> tuple[int, list[str]]:
        """The number of the line on the node from which on to ask, and the lines from there on that are known."""
        count = await self._consoles.count(attempt.task) - attempt.console_start
        overlap = min(_OVERLAP, count)
        known = await self._consoles.read(attempt.task, -overlap) if overlap else b"[]"
        return count - overlap, msgspec.json.decode(known, type=list[str])

    async def _read(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Copy a console piece by piece from the first line that is not known."""
        line, known = await self._known(attempt)
        async with aclosing(self._client.output(node.address, attempt.node_uuid, line)) as pieces:
            first = await _first(pieces, len(known))
            if first[: len(known)] == known or not self._may_begin(attempt):
                await self._append(attempt, first[len(known) :])
                async for piece in pieces:
                    await self._append(attempt, piece)
                return
        attempt = await self._begin_anew(entry, attempt)
        async with aclosing(self._client.output(node.address, attempt.node_uuid, 0)) as pieces:
            async for piece in pieces:
                await self._append(attempt, piece)

    async def _append(self, attempt: Attempt, lines: list[str]) -> None:
        await self._consoles.append(attempt.task, [shortened(line) for line in lines])

    def _may_begin(self, attempt: Attempt) -> bool:
        return self._beginnings.get(attempt.node_uuid, 0) < _BEGINNINGS

    async def _begin_anew(self, entry: Entry, attempt: Attempt) -> Attempt:
        """From now on the node's line 0 is the next one of ours."""
        self._beginnings[attempt.node_uuid] = self._beginnings.get(attempt.node_uuid, 0) + 1
        start = await self._consoles.count(attempt.task)
        return await self._tasks.change_attempt(entry, attempt, console_start=start)


async def _first(pieces: AsyncGenerator[list[str], None], count: int) -> list[str]:
    """At least so many lines, unless there are fewer."""
    lines: list[str] = []
    while len(lines) < max(1, count) and (piece := await anext(pieces, None)) is not None:
        lines += [shortened(line) for line in piece]
    return lines
