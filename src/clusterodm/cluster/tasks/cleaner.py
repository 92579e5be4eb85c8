# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cleanup on nodes: attempts are canceled or removed there, repeatedly until the node confirms it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.errors import NodeForgot, NodeRefused, StaleTask
from clusterodm.core.tasks import Attempt, Cleanup
from clusterodm.nodeodm import NodeClient

_log = structlog.get_logger("cleaner")

#: Seconds after which a node has dropped the task by itself (nodes keep tasks for two days).
_GIVE_UP: Final = 3 * 86400.0
#: Seconds for which what was sent may still arrive after the request to cancel or remove: a kernel repeats it through a
#: partition, also for a connection that was closed.
_SETTLE: Final = 120.0
#: Seconds between the first requests until then; later ones are half as far apart as the request is old.
_PAUSE: Final = 5.0


@dataclass(kw_only=True, slots=True, eq=False)
class Cleaner:
    """Carry out the `cleanup` of attempts."""

    state: ClusterState
    client: NodeClient
    runtime: Runtime
    _due: dict[tuple[str, int], Attempt] = field(init=False, default_factory=dict)
    _queue: Controller[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "cleaner",
            self._clean,
            "cancels and removes on nodes until it is done",
            keys=self._keys,
            concurrency=20,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.tasks.watch(self._task_changed)

    async def _keys(self) -> list[tuple[str, int]]:
        self._due.clear()
        for attempt in await self.state.store.attempts_to_clean():
            self._due[attempt.task, attempt.number] = attempt
        return list(self._due)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    def _task_changed(self, entry: Entry) -> None:
        if self.runtime.leadership.held and entry.attempt and entry.attempt.cleanup is not Cleanup.NONE:
            self._put(entry.attempt)

    def _put(self, attempt: Attempt) -> None:
        key = (attempt.task, attempt.number)
        self._due[key] = attempt
        self._queue.put(key)

    async def _still_wanted(self, attempt: Attempt) -> bool:
        """Return False if the task was restarted since, perhaps through another replica."""
        attempts = {each.number: each for each in await self.state.store.attempts(attempt.task)}
        stored = attempts.get(attempt.number)
        return stored is None or stored.cleanup is not Cleanup.NONE

    async def _clean(self, key: tuple[str, int]) -> float | None:
        return await self.state.tasks.locks.command(key[0], lambda: self._clean_now(key))

    async def _clean_now(self, key: tuple[str, int]) -> float | None:
        attempt = self._due.get(key)
        if attempt is None:
            return None
        node = self.state.registry.get(attempt.node_id)
        age = self.runtime.clock.age(attempt.ended_at)
        too_old = attempt.ended_at and age > _GIVE_UP
        if node is not None and not too_old and await self._still_wanted(attempt):
            act = self.client.remove if attempt.cleanup is Cleanup.REMOVE else self.client.cancel
            try:
                await act(node.address, attempt.node_uuid)
            except NodeForgot:  # without its files a commit that arrives even later begins nothing
                await self.client.discard(node.address, attempt.node_uuid)
                if 0 <= age < _SETTLE:
                    return max(_PAUSE, age / 2)
            except NodeRefused as error:
                _log.info("node refused cleanup", task=attempt.task, node=attempt.node_name, error=str(error))
        with suppress(StaleTask):  # a stronger cleanup was ordered meanwhile
            await self.state.store.change_attempt(attempt, cleanup=Cleanup.NONE)
        if self._due.get(key) is attempt:  # otherwise a newer cleanup is queued
            del self._due[key]
        return None
