# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detect unhealthy nodes: how recent tasks ended there, compared with other nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from clusterodm.core.backoff import Backoff
from clusterodm.core.nodes import LONGEST_SET_ASIDE
from clusterodm.core.retry import AT_ONCE, Failure

#: Seconds for which an ill node is set aside the first time; then twice as long each time.
FIRST: Final = 30.0
#: The same at most, where it is only likely that the node is at fault and not the tasks.
LONGEST_DOUBT: Final = 600.0
#: Different tasks in a row after which a node is set aside, whatever its words were.
ENOUGH: Final = 2
#: Tasks that are remembered of a node.
_MOST: Final = 10
#: Ends that nothing but the node, or how it is set up, can be blamed for.
_ITS_OWN: Final = frozenset({Failure.NODE_FAULT, Failure.TOKEN, Failure.HARDWARE})
#: Ends of which it is not known whose fault they are before the task completes elsewhere.
_DOUBTED: Final = frozenset({Failure.REFUSED, Failure.NO_RESULTS})


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a node by how tasks ended there. Times are seconds since the epoch."""

    #: Tasks that failed there in a row, each blamed on the node.
    failed: tuple[str, ...] = ()
    #: Tasks that it refused or whose results it lost, and that have not completed elsewhere yet.
    doubted: tuple[str, ...] = ()
    #: Its last task completed.
    well: bool = False
    #: How often it was set aside in a row, and until when.
    times: int = 0
    until: float = 0.0
    #: What it said when the last of them failed, and when.
    words: str = ""
    at: float = 0.0

    def failed_task(
        self, task: str, failure: Failure, words: str, now: float, *, seconds: float, others: Iterable[Health]
    ) -> Health:
        """The same after a task ended there with `failure` after so many seconds of processing. `others`: the health of
        the other nodes."""
        if failure in _ITS_OWN:
            longest = failure is Failure.HARDWARE
            failing = msgspec.structs.replace(self, well=False, words=words, at=now, failed=_with(self.failed, task))
            return failing._aside(now, LONGEST_SET_ASIDE, LONGEST_SET_ASIDE if longest else FIRST)
        if failure in _DOUBTED:
            return msgspec.structs.replace(self, doubted=_with(self.doubted, task), words=words, at=now)
        at_once = failure is Failure.PROCESSING and seconds < AT_ONCE
        if at_once or failure in (Failure.AT_ONCE, Failure.NOT_DELIVERED):
            return self._blamed(task, words, now, others)
        return self

    def completed_elsewhere(self, task: str, now: float, others: Iterable[Health]) -> Health:
        """The same after a task that ended badly there completed on another node."""
        if task not in self.doubted:
            return self
        rest = tuple(each for each in self.doubted if each != task)
        return msgspec.structs.replace(self, doubted=rest)._blamed(task, self.words, now, others)

    def absolved(self, task: str) -> Health:
        """The same after it turned out that a task was at fault itself."""
        failed = tuple(each for each in self.failed if each != task)
        doubted = tuple(each for each in self.doubted if each != task)
        return msgspec.structs.replace(self, failed=failed, doubted=doubted)

    def _blamed(self, task: str, words: str, now: float, others: Iterable[Health]) -> Health:
        failing = msgspec.structs.replace(self, well=False, words=words, at=now, failed=_with(self.failed, task))
        if len(failing.failed) < ENOUGH or _fail_everywhere(others):
            return failing
        return failing._aside(now, LONGEST_DOUBT, FIRST)

    def _aside(self, now: float, longest: float, first: float) -> Health:
        if now < self.until <= now + LONGEST_SET_ASIDE:  # tasks that were on it when it was set aside
            return self
        seconds = Backoff(first=first, longest=longest).wait(self.times + 1, 0.0)
        return msgspec.structs.replace(self, until=now + seconds, times=self.times + 1)


#: The health of a node after one of its tasks completed.
WELL: Final = Health(well=True)


def _with(tasks: tuple[str, ...], task: str) -> tuple[str, ...]:
    return (*(each for each in tasks if each != task), task)[-_MOST:]


def _fail_everywhere(others: Iterable[Health]) -> bool:
    """Return True if tasks fail on more nodes than they complete on: then the tasks are at fault."""
    others = list(others)
    return sum(bool(each.failed) for each in others) > sum(each.well for each in others)
