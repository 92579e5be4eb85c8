# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The retry policy: retry a failed attempt elsewhere or on a larger node, or fail the task; and restart it in place if
only the delivery of its results failed."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeRefused, TokenRejected
from clusterodm.core.tasks import Attempt, Phase, Task


class Failure(StrEnum):
    """Why an attempt ended without a result."""

    UNREACHABLE = "the node could not be reached for too long"
    FORGOTTEN = "the node no longer knows the task"
    INTERRUPTED = "sending was interrupted"
    DISPATCH = "the task could not be handed to the node"
    REFUSED = "the node refused the task"
    TOKEN = "the node rejects the token that the cluster has for it"  # noqa: S105 - a sentence, not a token
    TOO_MANY = "the task has more files than the node takes"
    NO_RESULTS = "the node says completed, but its results cannot be fetched"
    NOT_DELIVERED = "the node processed the task, but could not pack or deliver the results"
    CANCELED_THERE = "the task was canceled on the node, not by its owner"
    MOVED = "an operator moved it"
    MACHINE = "its machine was taken away"
    RUNTIME = "its machine reached the time that it may run"
    UPLOAD = "its files took longer to send than its machine allows"
    MEMORY = "the node ran out of memory"
    HARDWARE = "the node cannot run the engine"
    NODE_FAULT = "something is wrong with the node's disk, permissions or installation"
    AT_ONCE = "processing failed within seconds"
    PROCESSING = "processing failed"
    FILES = "files of the task are missing or damaged here"
    MISCOUNTED = "the node does not count the images that were sent"
    MISCOUNTS = "nodes do not count the images that were sent, again and again"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the policy."""

    again: bool
    #: Counts against the limit of attempts: something was worked on, or the same would happen again.
    charged: bool
    #: Only a node that is larger than this one may take it.
    larger: bool = False
    #: The node is unschedulable for this many seconds.
    set_aside: float = 0.0
    #: The task goes to another node than this one, if any other could ever take it.
    avoid: bool = False
    #: The node is lost to everything that runs on it: a task is charged only if it was alone there.
    shared: bool = False
    #: At the end the owner is told the detail (most often the node's own words), not the name of the failure.
    quoted: bool = False
    #: The next attempt begins at once, and the client sees nothing of this one.
    unseen: bool = False


RULES: Final[dict[Failure, Rule]] = {
    Failure.UNREACHABLE: Rule(again=True, charged=True, shared=True, set_aside=60.0),
    Failure.FORGOTTEN: Rule(again=True, charged=True, shared=True, set_aside=10.0),
    Failure.DISPATCH: Rule(again=True, charged=False, set_aside=30.0),
    Failure.INTERRUPTED: Rule(again=True, charged=False),
    Failure.REFUSED: Rule(again=True, charged=True, avoid=True, quoted=True),
    Failure.TOKEN: Rule(again=True, charged=False),
    Failure.TOO_MANY: Rule(again=True, charged=False, quoted=True),
    Failure.NO_RESULTS: Rule(again=True, charged=True, set_aside=60.0),
    Failure.NOT_DELIVERED: Rule(again=True, charged=True, avoid=True),
    Failure.CANCELED_THERE: Rule(again=True, charged=True, set_aside=10.0),
    Failure.MOVED: Rule(again=True, charged=False, set_aside=10.0),
    Failure.MACHINE: Rule(again=True, charged=False),
    Failure.RUNTIME: Rule(again=True, charged=True),
    Failure.UPLOAD: Rule(again=True, charged=True),
    Failure.MEMORY: Rule(again=True, charged=True, larger=True, quoted=True),
    Failure.HARDWARE: Rule(again=True, charged=False, quoted=True),
    Failure.NODE_FAULT: Rule(again=True, charged=False, quoted=True),
    Failure.AT_ONCE: Rule(again=True, charged=True, avoid=True, quoted=True),
    Failure.PROCESSING: Rule(again=False, charged=True, quoted=True),
    Failure.FILES: Rule(again=True, charged=True, quoted=True),
    Failure.MISCOUNTED: Rule(again=True, charged=False, unseen=True),
    Failure.MISCOUNTS: Rule(again=True, charged=True, set_aside=30.0, quoted=True),
}

#: How a node's own error text is read, first match first; facts in the API description.
_TEXTS: Final = (
    ("invalid authentication", Failure.TOKEN),
    ("can only process up to", Failure.TOO_MANY),
    ("not enough memory", Failure.MEMORY),
    ("code 137", Failure.MEMORY),
    ("unsupported cpu", Failure.HARDWARE),
    ("code 132", Failure.HARDWARE),
    ("installation issue", Failure.HARDWARE),
    ("cannot process dataset", Failure.PROCESSING),
    ("could not start process", Failure.NODE_FAULT),
    ("directory exists and we couldn't remove it", Failure.NODE_FAULT),  # quoted
    ("could not archive .zip file", Failure.NODE_FAULT),
    ("could not load list of options", Failure.NODE_FAULT),
    ("no space left on device", Failure.NODE_FAULT),
    ("read-only file system", Failure.NODE_FAULT),
    ("permission denied", Failure.NODE_FAULT),
    ("too many open files", Failure.NODE_FAULT),
)
#: Errors of the operating system as Node.js writes them: of the disk, of permissions, of what is installed.
_SYSTEM: Final = re.compile(r"\b(E(?:ACCES|AGAIN|BUSY|DQUOT|IO|MFILE|NFILE|NOENT|NOMEM|NOSPC|NXIO|PERM|ROFS|STALE))\b")
#: Seconds of processing up to which a failure came at once: no engine has looked at the images by then.
AT_ONCE: Final = 15.0


def classify(text: str, seconds: float = AT_ONCE) -> Failure:
    """Read the error text of a task that failed on its node after so many seconds of processing.

    Without a text the engine succeeded, and packing or delivering the results failed. A text that is not known is final
    (of the data or the engine), unless the failure came at once: then another node is asked for its opinion.
    """
    if not text:
        return Failure.NOT_DELIVERED
    named = _named_failure(text)
    return named or (Failure.AT_ONCE if seconds < AT_ONCE else Failure.PROCESSING)


def classify_refusal(error: NodeRefused) -> Failure:
    """Read the answer with which a node refused to take a task."""
    if isinstance(error, TokenRejected):
        return Failure.TOKEN
    named = _named_failure(str(error))
    return named if named in (Failure.TOKEN, Failure.TOO_MANY, Failure.NODE_FAULT) else Failure.REFUSED


def _named_failure(text: str) -> Failure | None:
    lowered = text.lower()
    failure = next((each for part, each in _TEXTS if part in lowered), None)
    return failure or (Failure.NODE_FAULT if _SYSTEM.search(text) else None)


_LIMIT: Final = re.compile(r"can only process up to (\d{1,9})\b", re.IGNORECASE)


def told_limit(text: str) -> int | None:
    """Return the limit of files that a node named when it refused a task."""
    match = _LIMIT.search(text)
    return int(match[1]) if match else None


#: Characters of a node's text that are kept.
_LONGEST_TEXT: Final = 500


def describe(failure: Failure, detail: str) -> str:
    """Return the reason of an attempt's end, with the node's own words."""
    return f"{failure} ({detail[:_LONGEST_TEXT]})" if detail else str(failure)


def failure_of(reason: str) -> Failure | None:
    """Return the failure in a reason made by `describe`; None for an attempt that did not fail."""
    return next((each for each in Failure if reason == each or reason.startswith(f"{each} (")), None)


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The task goes back to the queue with these changes."""

    charged: int
    not_before: float
    larger: bool
    #: It has its next node to itself, because it was lost together with others.
    alone: bool


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """The task ends; `error` is shown to its owner."""

    error: str


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of a failed attempt."""

    max_attempts: int
    #: There is a node or a machine that is larger than the one that failed.
    larger_exists: bool = False
    #: Others ran on the node when it was lost, or were lost with it a moment ago.
    with_others: bool = False
    #: An earlier attempt ended in the same way with the same words: it is not the node.
    confirmed: bool = False


#: Attempts from which on a node's fault is charged, too: it was met so often that the task may be its cause.
PATIENCE: Final = 12


def decide(
    task: Task, failure: Failure, detail: str, now: float, around: Circumstances, chance: float = 0.0
) -> Again | Over:
    """What follows when the current attempt of `task` ends with `failure`.

    `detail` is the node's own text. A task that ran out of memory is not tried again where no larger node exists: the
    same would happen. Of several tasks that are lost with one node none is charged; each is alone on its next one.
    `chance`: a random number for the back-off.
    """
    rule = RULES[failure]
    bystander = rule.shared and around.with_others and not task.alone
    charges = (rule.charged or _too_often(task, failure)) and not bystander
    charged = task.charged + int(charges)
    tired = charges and charged >= around.max_attempts
    vain = (rule.larger and not around.larger_exists) or (rule.avoid and around.confirmed)
    if not rule.again or tired or vain:
        return Over(error=_final(failure, detail, task.attempts, tired=tired))
    return Again(
        charged=charged,
        not_before=now + (0.0 if rule.unseen else BACK_OFF.wait(task.attempts, chance)),
        larger=rule.larger,
        alone=task.alone or bystander,
    )


def _too_often(task: Task, failure: Failure) -> bool:
    return failure in (Failure.NODE_FAULT, Failure.HARDWARE) and task.attempts >= PATIENCE


def _final(failure: Failure, detail: str, attempts: int, *, tired: bool) -> str:
    if detail and RULES[failure].quoted:
        return detail
    return f"{failure}; given up after {attempts} attempts" if tired and attempts > 1 else str(failure)


#: Seconds between two attempts at most.
LONGEST_BACK_OFF: Final = 60.0
#: Between two attempts: short at first.
BACK_OFF: Final = Backoff(first=1.0, longest=LONGEST_BACK_OFF)


# Results that were not delivered

#: Times that a node is told to begin such a task again.
RESTARTS: Final = 3
#: Before each of them. By its own retries the node has tried to deliver for two minutes by then.
RESTART_BACK_OFF: Final = Backoff(first=60.0, longest=600.0, factor=3.0)
#: Seconds that a restart must leave of the time that its node has, for the engine's last steps and the delivery.
RESTART_TAKES: Final = 300.0
_RESTART: Final = f"its results could not be delivered; restart {{}} of {RESTARTS} on the same node"
_RESTARTED: Final = re.compile(re.escape(_RESTART).replace(r"\{\}", r"(\d)"))


def restarts(reason: str) -> int:
    """Return how often a node was told to begin an attempt again, by the reason that `restart_reason` gave it."""
    match = _RESTARTED.match(reason)
    return int(match[1]) if match else 0


def restart_reason(number: int) -> str:
    """Return the reason of an attempt that goes on because its node begins it again."""
    return _RESTART.format(number)


def awaits_restart(task: Task, attempt: Attempt | None) -> bool:
    """Return True if a restart on its node was decided for an attempt and not ordered yet; `not_before` says when."""
    if attempt is None or task.phase is not Phase.RUNNING:
        return False
    return bool(restarts(attempt.reason) and task.not_before)


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Its node is to begin the task again after so many seconds: the engine finds its own results there, and the node
    delivers them once more. The attempt goes on with this reason."""

    wait: float
    reason: str


#: The reason of an attempt whose results are fetched through its node, because that could not deliver them.
FETCHED: Final = "its results could not be delivered; they are fetched through the node"


#: What a node says in the console before it packs the results; when that fails it says nothing more.
_PACKING: Final = "Compressing "


def is_packed(last_line: str) -> bool:
    """Return whether a node has packed the results of a task that failed without a reason, by the last line of its
    console. An archive that it serves although it could not pack them is of an earlier run with other options."""
    return not last_line.lstrip().startswith(_PACKING)


class Fetch(msgspec.Struct, frozen=True):
    """Its results are fetched through the node."""

    why: str


def undelivered(reason: str, last_line: str, time_left: float, chance: float) -> Restart | Fetch | None:
    """Decide what follows when the engine finished a task, but its node could not pack or deliver the results; None:
    the attempt has failed.

    `reason`: that of the attempt so far; `last_line`: of its console; `time_left`: seconds until the node goes away.
    Hours of work are there, so the task goes elsewhere only after all else.
    """
    number = restarts(reason) + 1
    wait = RESTART_BACK_OFF.wait(number, chance)
    in_time = time_left >= wait + RESTART_TAKES
    if number <= RESTARTS and in_time:
        return Restart(wait=wait, reason=restart_reason(number))
    if not is_packed(last_line):
        return None
    return Fetch(f"{RESTARTS} restarts did not help" if in_time else "its node is about to go away")
