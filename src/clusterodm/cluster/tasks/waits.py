# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waits that do not end by themselves: shown to owners in the console, and to operators as problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.outlook import Outlook
from clusterodm.core.placement import Wait
from clusterodm.files.console import Consoles

_log = structlog.get_logger("waits")

#: Seconds before a wait is shown that a returning node would end; one that nothing would end is shown at once.
PATIENCE: Final = 60.0
#: Consoles written between two looks at the queue, so that placement is not delayed.
_AT_A_TIME: Final = 50
#: Reasons listed as problems.
_LISTED: Final = 3


class Waits:
    """Track tasks that no free slot will help."""

    def __init__(self, consoles: Consoles, outlook: Outlook, clock: Clock) -> None:
        self._consoles = consoles
        self._clock = clock
        self.outlook = outlook
        self._stuck: Mapping[str, Wait] = {}
        #: Since when (monotonic) each task is stuck, and what its owner was told.
        self._since: dict[str, float] = {}
        self._written: dict[str, str] = {}

    def record(self, stuck: Mapping[str, Wait], texts: Mapping[str, str], *, machines_known: bool = True) -> None:
        """Record all stuck tasks with the texts on their waits. `machines_known`: False if this replica does not know
        for which of them a machine is on its way."""
        now = self._clock.steady()
        self._stuck = stuck = {
            uuid: wait if wait.never else Wait(texts[uuid], stuck=True)
            for uuid, wait in stuck.items()
            if wait.never or (machines_known and uuid not in self.outlook.served)
        }
        self._since = {uuid: self._since.get(uuid, now) for uuid in stuck}
        self._written = {uuid: text for uuid, text in self._written.items() if uuid in stuck}

    async def write(self) -> None:
        """Write lasting waits to the consoles, once for each. Call it while no attempt of these tasks can begin: a
        node's lines are counted from the start of its attempt."""
        unwritten = [(uuid, wait) for uuid, wait in self._lasting().items() if self._written.get(uuid) != _key(wait)]
        for uuid, wait in unwritten[:_AT_A_TIME]:
            line = f"[clusterodm] {'no node accepts this task' if wait.never else 'waiting'}: {wait.text}"
            try:
                if await self._last_line(uuid) != line:
                    await self._consoles.append(uuid, [line])
            except OSError as error:  # a full disk: try again later
                _log.warning("console not written", task=uuid, error=str(error))
                continue
            self._written[uuid] = _key(wait)

    async def _last_line(self, uuid: str) -> str:
        lines = msgspec.json.decode(await self._consoles.read(uuid, -1), type=list[str])
        return lines[-1] if lines else ""

    def is_stuck(self, uuid: str) -> bool:
        """Return True if the wait of a task cannot be estimated."""
        return uuid in self._stuck

    def problems(self) -> list[str]:
        """Describe lasting waits for operators, one sentence per reason."""
        reasons = Counter(wait.text for wait in self._lasting().values()).most_common()
        listed = [
            f"no node for a waiting task: {text}" if count == 1 else f"no node for {count} waiting tasks: {text}"
            for text, count in reasons[:_LISTED]
        ]
        more = len(reasons) - _LISTED
        return listed + ([f"{more} more reasons why tasks get no node"] if more > 0 else [])

    def _lasting(self) -> dict[str, Wait]:
        now = self._clock.steady()
        return {uuid: wait for uuid, wait in self._stuck.items() if wait.never or now - self._since[uuid] >= PATIENCE}


def _key(wait: Wait) -> str:
    """Return what identifies a wait for its owner: texts that name nodes change with them."""
    return wait.text if wait.never else ""
