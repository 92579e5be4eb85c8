# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What follows when an attempt ends badly: again elsewhere, again on a larger node, or the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clusterodm.core.backoff import Backoff
from clusterodm.core.nodes import LONGEST_SET_ASIDE
from clusterodm.core.tasks import Task


class Failure(StrEnum):
    """Why an attempt ended without a result."""

    UNREACHABLE = "the node could not be reached for too long"
    FORGOTTEN = "the node no longer knows the task"
    INTERRUPTED = "we were interrupted while sending it"
    DISPATCH = "the task could not be handed to the node"
    REFUSED = "the node refused the task"
    NO_RESULTS = "the node says completed, but its results cannot be fetched"
    CANCELED_THERE = "the task was canceled on the node, not by its owner"
    MOVED = "an operator moved it"
    MACHINE = "its machine was taken away"
    RUNTIME = "its machine reached the time that it may run"
    UPLOAD = "its files took longer to send than its machine allows"
    MEMORY = "the node ran out of memory"
    HARDWARE = "the node cannot run the engine"
    PROCESSING = "processing failed"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the policy."""

    again: bool
    #: Counts against the limit of attempts: something was worked on, or the same would happen again.
    charged: bool
    #: Only a node that is larger than this one may take it.
    larger: bool = False
    #: The node gets nothing new for this many seconds.
    set_aside: float = 0.0


RULES: Final[dict[Failure, Rule]] = {
    Failure.UNREACHABLE: Rule(again=True, charged=True, set_aside=60.0),
    Failure.FORGOTTEN: Rule(again=True, charged=True, set_aside=10.0),
    Failure.DISPATCH: Rule(again=True, charged=False, set_aside=30.0),
    Failure.INTERRUPTED: Rule(again=True, charged=False),
    Failure.REFUSED: Rule(again=True, charged=True, set_aside=30.0),
    Failure.NO_RESULTS: Rule(again=True, charged=True, set_aside=60.0),
    Failure.CANCELED_THERE: Rule(again=True, charged=True, set_aside=10.0),
    Failure.MOVED: Rule(again=True, charged=False, set_aside=10.0),
    Failure.MACHINE: Rule(again=True, charged=False),
    Failure.RUNTIME: Rule(again=True, charged=True),
    Failure.UPLOAD: Rule(again=True, charged=True),
    Failure.MEMORY: Rule(again=True, charged=True, larger=True),
    Failure.HARDWARE: Rule(again=True, charged=True, set_aside=LONGEST_SET_ASIDE),
    Failure.PROCESSING: Rule(again=False, charged=True),
}

#: How a node's own error text is read, first match first; facts in the API description.
_TEXTS: Final = (
    ("not enough memory", Failure.MEMORY),
    ("code 137", Failure.MEMORY),
    ("unsupported cpu", Failure.HARDWARE),
    ("code 132", Failure.HARDWARE),
    ("installation issue", Failure.HARDWARE),
)


def classify(error_message: str) -> Failure:
    """Read a node's error text; what we do not know is a failure of the data or the engine: final."""
    text = error_message.lower()
    return next((failure for part, failure in _TEXTS if part in text), Failure.PROCESSING)


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The task goes back to the queue with these changes."""

    charged: int
    not_before: float
    larger: bool


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """The task is over; `error` is what its owner is told."""

    error: str


def decide(
    task: Task,
    failure: Failure,
    detail: str,
    now: float,
    *,
    max_attempts: int,
    larger_exists: bool,
    chance: float = 0.0,
) -> Again | Over:
    """What follows when the current attempt of `task` ends with `failure`.

    `detail` is the node's own text; it is what the owner sees at the end. A task that ran out of memory is not tried
    again where no larger node exists: the same would happen. `chance`: a random number for the back-off.
    """
    rule = RULES[failure]
    charged = task.charged + int(rule.charged)
    tired = charged >= max_attempts and rule.charged
    if not rule.again or tired or (rule.larger and not larger_exists):
        return Over(error=detail or str(failure))
    return Again(charged=charged, not_before=now + BACK_OFF.wait(task.attempts, chance), larger=rule.larger)


#: Seconds between two attempts at most.
LONGEST_BACK_OFF: Final = 60.0
#: Between two attempts: short at first.
BACK_OFF: Final = Backoff(first=1.0, longest=LONGEST_BACK_OFF)
