# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cleanup on nodes: attempts are canceled or removed there, repeatedly until the node confirms it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import structlog

from clusterodm.aio import Clock, Leadership
from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.errors import NodeForgot, NodeRefused, StaleTask
from clusterodm.core.tasks import Attempt, Cleanup
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store

_log = structlog.get_logger("cleaner")

#: Seconds after which a node has dropped the task by itself (nodes keep tasks for two days).
_GIVE_UP: Final = 3 * 86400.0
#: Seconds for which a commit may still arrive after the request to cancel or remove.
_SETTLE: Final = 30.0


class Cleaner:
    """Carry out the `cleanup` of attempts."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        registry: Registry,
        client: NodeClient,
        *,
        leadership: Leadership,
        clock: Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._client = client
        self._clock = clock
        self._due: dict[tuple[str, int], Attempt] = {}
        self._queue = Controller(
            "cleaner",
            self._clean,
            "cancels and removes on nodes until it is done",
            keys=self._keys,
            concurrency=20,
            leadership=leadership,
            clock=clock,
        )
        self._leadership = leadership
        tasks.watch(self._task_changed)

    async def _keys(self) -> list[tuple[str, int]]:
        self._due.clear()
        for attempt in await self._store.attempts_to_clean():
            self._due[attempt.task, attempt.number] = attempt
        return list(self._due)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    def _task_changed(self, entry: Entry) -> None:
        if self._leadership.held and entry.attempt and entry.attempt.cleanup is not Cleanup.NONE:
            self._put(entry.attempt)

    def _put(self, attempt: Attempt) -> None:
        key = (attempt.task, attempt.number)
        self._due[key] = attempt
        self._queue.put(key)

    async def _still_wanted(self, attempt: Attempt) -> bool:
        """Return False if the task was restarted since, perhaps through another replica."""
        attempts = {each.number: each for each in await self._store.attempts(attempt.task)}
        stored = attempts.get(attempt.number)
        return stored is None or stored.cleanup is not Cleanup.NONE

    async def _clean(self, key: tuple[str, int]) -> float | None:
        attempt = self._due.get(key)
        if attempt is None:
            return None
        node = self._registry.get(attempt.node_id)
        age = self._clock.age(attempt.ended_at)
        too_old = attempt.ended_at and age > _GIVE_UP
        if node is not None and not too_old and await self._still_wanted(attempt):
            act = self._client.remove if attempt.cleanup is Cleanup.REMOVE else self._client.cancel
            try:
                await act(node.address, attempt.node_uuid)
            except NodeForgot:
                if attempt.cleanup is Cleanup.REMOVE:
                    await self._client.discard(node.address, attempt.node_uuid)
                if 0 <= age < _SETTLE:
                    return _SETTLE / 6
            except NodeRefused as error:
                _log.info("node refused cleanup", task=attempt.task, node=attempt.node_name, error=str(error))
        with suppress(StaleTask):  # a stronger cleanup was ordered meanwhile
            await self._store.change_attempt(attempt, cleanup=Cleanup.NONE)
        if self._due.get(key) is attempt:  # otherwise a newer cleanup is queued
            del self._due[key]
        return None
