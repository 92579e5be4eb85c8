# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""SQLite without threads: aiosqlite's calls run on the loop, one after another for each connection, and those that
wait for a disk take virtual time."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from clusterodm.testing.simulation.disk import Disk, watched
from clusterodm.testing.simulation.loop import VirtualLoop

#: One call in so many takes time although it does not commit: another process had the CPU.
_INTERRUPTED: Final = 0.03
#: The value of the pragma from which on each commit is synced.
_FULL: Final = 2


class InlineThread:
    """A thread that never starts."""

    def __init__(self, target: Any = None, args: Any = ()) -> None:
        pass

    def start(self) -> None:
        """Do nothing: the queue runs what it is given."""


class _Inline:
    """The queue between a connection and its thread, without the thread."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        self._busy = False

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        """Run a call now if it is quick and nothing waits, else later."""
        if not self._busy and not _commits(item[1]) and self._loop.chance.random() >= _INTERRUPTED:
            _run(*item)
            return
        self._waiting.append(item)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = True
        self._loop.call_later(self._loop.hop(), self._one)

    def _one(self) -> None:
        _run(*self._waiting.popleft())
        self._busy = False
        if self._waiting:
            self._next()


def inline_queue(loop: VirtualLoop) -> _Inline:
    """Return the queue of a connection."""
    return _Inline(loop)


def _run(future: asyncio.Future[Any] | None, function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - as the thread does: the error belongs to whoever waits
        if future is not None and not future.done():
            future.set_exception(error)
    else:
        if future is not None and not future.done():
            future.set_result(result)


def _commits(function: Callable[[], Any]) -> bool:
    name = getattr(getattr(function, "func", function), "__name__", "")
    return name in ("commit", "connector")


def sync_aware_commit(commit: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return the commit of a connection that tells the disk whether it was synced."""

    async def committed(self: Any) -> None:
        await commit(self)
        if (disk := watched()) is not None:
            await self._execute(partial(_note, disk, self._conn))

    return committed


def _note(disk: Disk, connection: sqlite3.Connection) -> None:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    log = f"{path}-wal"
    if connection.execute("PRAGMA synchronous").fetchone()[0] >= _FULL:
        disk.unsynced_log.pop(log, None)
    elif os.path.exists(log):
        disk.unsynced_log.setdefault(log, []).append(os.path.getsize(log))
