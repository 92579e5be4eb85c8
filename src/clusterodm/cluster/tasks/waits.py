# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waits that do not end by themselves: their owners read of them in the console, operators among the problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.core.placement import Wait
from clusterodm.files.console import Consoles

_log = structlog.get_logger("waits")

#: Seconds after which a wait that a node's return would end is told of; one that nothing would end is told of at once.
PATIENCE: Final = 60.0
#: Tasks whose owners are told between two looks at the queue, so that those who can go are not kept waiting.
_AT_A_TIME: Final = 50
#: Reasons that are listed among the problems.
_LISTED: Final = 3


class Waits:
    """Tasks that no slot that comes free will help."""

    def __init__(self, consoles: Consoles, clock: Clock) -> None:
        self._consoles = consoles
        self._clock = clock
        #: Whether a machine comes for a task.
        self.coming: Callable[[str], bool] = lambda uuid: False
        self._stuck: Mapping[str, Wait] = {}
        #: Since when each of them is (by a clock that nobody sets), and those whose owners were told of what.
        self._since: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def look(self, stuck: Mapping[str, Wait], texts: Mapping[str, str], *, machines_known: bool = True) -> None:
        """Take note of all tasks that are stuck now, with all that is to be said of their waits. `machines_known`:
        whether it is known here for which of them a machine comes."""
        now = self._clock.steady()
        self._stuck = stuck = {
            uuid: wait if wait.never else Wait(texts[uuid], stuck=True)
            for uuid, wait in stuck.items()
            if wait.never or (machines_known and not self.coming(uuid))
        }
        self._since = {uuid: self._since.get(uuid, now) for uuid in stuck}
        self._told = {uuid: text for uuid, text in self._told.items() if uuid in stuck}

    async def tell(self) -> None:
        """Say it in the consoles, once for each wait; also where it was said before a restart. To be called while no
        attempt of these tasks can begin, because a node's lines are counted from the start of its attempt."""
        untold = [(uuid, wait) for uuid, wait in self._lasting().items() if self._told.get(uuid) != _key(wait)]
        for uuid, wait in untold[:_AT_A_TIME]:
            line = f"[clusterodm] {'no node accepts this task' if wait.never else 'waiting'}: {wait.text}"
            try:
                if await self._last_line(uuid) != line:
                    await self._consoles.append(uuid, [line])
            except OSError as error:  # a full disk: it is said later
                _log.warning("a wait cannot be told of", task=uuid, error=str(error))
                continue
            self._told[uuid] = _key(wait)

    async def _last_line(self, uuid: str) -> str:
        lines = msgspec.json.decode(await self._consoles.read(uuid, -1), type=list[str])
        return lines[-1] if lines else ""

    def is_stuck(self, uuid: str) -> bool:
        """Whether it cannot be guessed how long a task will wait."""
        return uuid in self._stuck

    def problems(self) -> list[str]:
        """What operators should know, a sentence for each reason."""
        found = Counter(wait.text for wait in self._lasting().values()).most_common()
        listed = [
            f"no node for a waiting task: {text}" if count == 1 else f"no node for {count} waiting tasks: {text}"
            for text, count in found[:_LISTED]
        ]
        return listed + ([f"{len(found) - _LISTED} more reasons why tasks get no node"] if len(found) > _LISTED else [])

    def _lasting(self) -> dict[str, Wait]:
        now = self._clock.steady()
        return {uuid: wait for uuid, wait in self._stuck.items() if wait.never or now - self._since[uuid] >= PATIENCE}


def _key(wait: Wait) -> str:
    """What its owner is told once: the words of other waits change with the nodes they speak of."""
    return wait.text if wait.never else ""
