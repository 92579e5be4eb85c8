# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The exclusive rights to a task, among all coroutines of this process and all processes that share the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from clusterodm.aio import Clock, KeyedLock, to_end
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.errors import BadRequest
from clusterodm.store import Store

T = TypeVar("T")

#: Seconds for which a uuid can be claimed; the claim of a process that dies ends as soon as that is noticed.
_LONGEST_UPLOAD: Final = 86400.0
#: Seconds for which a task can be commanded on its node, and others wait: longer than a cancel, a restart and a look at
#: the task can take.
_LONGEST_COMMAND: Final = 180.0
#: Seconds for which a command that was canceled waits for the node's answer.
_PATIENCE: Final = 10.0
#: Seconds between two tries to get it from another process.
_PAUSE: Final = 0.2


class TaskLocks:
    """Three rights: to the files and the commit of a task, to a uuid that no task has yet, and to command a task on its
    node. `refresh(uuid)` reloads a task that another process may have changed before."""

    def __init__(self, store: Store, clock: Clock, refresh: Callable[[str], Awaitable[None]]) -> None:
        self._store = store
        self._clock = clock
        self._refresh = refresh
        self._commands: KeyedLock[str] = KeyedLock()

    @asynccontextmanager
    async def hold(self, entry: Entry) -> AsyncIterator[None]:
        """Hold the right to publish files of a task or to commit it."""
        async with entry.lock, self._store.locked(entry.task.uuid):
            if self._store.shared:
                await self._refresh(entry.task.uuid)
            yield

    @asynccontextmanager
    async def claim(self, uuid: str) -> AsyncIterator[bool]:
        """Yield True while this process holds the claim to a uuid that no task has yet."""
        async with self._try_lock(f"uuid {uuid}", _LONGEST_UPLOAD) as held:
            yield held

    async def command(self, uuid: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work`, which cancels, removes or restarts a task on its node, while no other process commands that task:
        a request that were overtaken would end a new run, or begin an unwanted one. A cancel of the caller waits
        for the node's answer. Raises BadRequest if others command it for too long. No database connection is held
        meanwhile, since a node may be slow."""
        async with self._commands.hold(uuid):
            end = self._clock.steady() + _LONGEST_COMMAND
            while self._clock.steady() < end:
                async with self._try_lock(f"command {uuid}", _LONGEST_COMMAND) as held:
                    if held:
                        if self._store.shared:
                            await self._refresh(uuid)
                        return await to_end(work(), _PATIENCE)
                await self._clock.sleep(_PAUSE)
        raise BadRequest("The task is changing, try again")

    @asynccontextmanager
    async def _try_lock(self, lock: str, seconds: float) -> AsyncIterator[bool]:
        """Yield True while this process, of all that share the database, holds a lock."""
        if not self._store.shared:
            yield True
            return
        held = await self._store.take(lock, self._store.origin, seconds)
        try:
            yield held
        finally:
            if held:
                await self._store.release(lock, self._store.origin)
