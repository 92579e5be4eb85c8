# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads that are at least as new as the request, so that a client never sees an older state because its last request
went to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from clusterodm.aio import Clock
from clusterodm.core.errors import ClusterError

_log = structlog.get_logger("tasks")

#: Seconds that a query of the store may take.
_PATIENCE: Final = 1.0


class Freshness:
    """Batches checks: one query answers all that arrived before it began. Queries run in a loop of their own, so that
    a client that disconnects meanwhile cancels no other answer."""

    def __init__(self, refresh: Callable[[set[str]], Awaitable[None]], clock: Clock) -> None:
        """`refresh(uuids)` makes memory as new as the store is."""
        self._refresh = refresh
        self._clock = clock
        self._pending: set[str] = set()
        self._answer: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()

    async def check(self, uuid: str) -> None:
        """Return once memory is as new as the store was when this call began, or the store has not answered in time: an
        old answer is better than none."""
        self._pending.add(uuid)
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        self._wake.set()
        with suppress(TimeoutError):
            async with self._clock.timeout(2 * _PATIENCE):  # the query under way, and the next one
                await asyncio.shield(self._answer)

    async def run(self) -> None:
        """Query until canceled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            (uuids, self._pending), (answer, self._answer) = (self._pending, set()), (self._answer, None)
            try:
                await self._query(uuids)
            finally:
                if answer is not None:
                    answer.set_result(None)

    async def _query(self, uuids: set[str]) -> None:
        try:
            with suppress(ClusterError, TimeoutError):
                async with self._clock.timeout(_PATIENCE):
                    await self._refresh(uuids)
        except Exception:  # noqa: BLE001 - an old answer is better than none, and the loop goes on
            _log.exception("tasks could not be read again")
