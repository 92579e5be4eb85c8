# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads that are no older than the question, so that a client never sees an older state because its last request went
to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from clusterodm.core.errors import ClusterError

_log = structlog.get_logger("tasks")

#: Seconds for which a query of the store may run.
_PATIENCE: Final = 1.0


class Freshness:
    """One query answers all questions that came before it began. Queries run in a loop of their own: a client that
    leaves while one is under way takes nobody's answer with it."""

    def __init__(self, refresh: Callable[[set[str]], Awaitable[None]]) -> None:
        """`refresh(uuids)` makes memory as new as the store is."""
        self._refresh = refresh
        self._asked: set[str] = set()
        self._answer: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()

    async def check(self, uuid: str) -> None:
        """Return once memory is as new as the store was after this call began; also when the store does not answer in
        time, because an old answer is better than none."""
        self._asked.add(uuid)
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * _PATIENCE):  # the query under way, and the next one
                await asyncio.shield(self._answer)

    async def run(self) -> None:
        """Answer questions until canceled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            (asked, self._asked), (answer, self._answer) = (self._asked, set()), (self._answer, None)
            try:
                await self._query(asked)
            finally:
                if answer is not None:
                    answer.set_result(None)

    async def _query(self, asked: set[str]) -> None:
        try:
            with suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._refresh(asked)
        except Exception:  # noqa: BLE001 - an old answer is better than none, and the loop goes on
            _log.exception("tasks could not be read again")
