# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The life of a task: its phases, which may follow which, and what a client is shown of each.

RECEIVING ─▶ QUEUED ─▶ DISPATCHING ─▶ RUNNING ─▶ COLLECTING ─▶ FINISHED
               ▲            │            │            │            │
               └────────────┴────────────┴────────────┴────────────┘
back to QUEUED when an attempt is lost, or on restart; REMOVED from everywhere;
FINISHED from every phase after the commit, when the owner cancels.
"""

from __future__ import annotations

import uuid as uuid_module
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from clusterodm.core.errors import StaleTask
from clusterodm.core.names import SEED
from clusterodm.core.options import added_options

#: Status codes of the NodeODM API.
QUEUED_CODE: Final = 10
RUNNING_CODE: Final = 20
FAILED_CODE: Final = 30
COMPLETED_CODE: Final = 40
CANCELED_CODE: Final = 50


class Phase(StrEnum):
    """The phase of a task; not to be confused with the API's status codes."""

    #: Files are coming in; invisible to everybody until the commit.
    RECEIVING = "receiving"
    #: Committed; waits for a slot.
    QUEUED = "queued"
    #: Files are on their way to a node.
    DISPATCHING = "dispatching"
    #: The node has accepted the commit.
    RUNNING = "running"
    #: The node is done; the results are checked, and fetched if configured.
    COLLECTING = "collecting"
    #: Over; `outcome` says how.
    FINISHED = "finished"
    #: Forgotten towards clients; only traces on disk and on nodes may remain to be cleaned.
    REMOVED = "removed"


class Outcome(StrEnum):
    """How a FINISHED task ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.RECEIVING: frozenset({Phase.QUEUED, Phase.REMOVED}),
    Phase.QUEUED: frozenset({Phase.DISPATCHING, Phase.FINISHED, Phase.REMOVED}),
    Phase.DISPATCHING: frozenset({Phase.RUNNING, Phase.QUEUED, Phase.FINISHED, Phase.REMOVED}),
    Phase.RUNNING: frozenset({Phase.COLLECTING, Phase.QUEUED, Phase.FINISHED, Phase.REMOVED}),
    Phase.COLLECTING: frozenset({Phase.FINISHED, Phase.QUEUED, Phase.REMOVED}),
    Phase.FINISHED: frozenset({Phase.QUEUED, Phase.RUNNING, Phase.REMOVED}),
    Phase.REMOVED: frozenset(),
}

#: Phases in which a task is on a node or on its way there.
ON_NODE: Final = frozenset({Phase.DISPATCHING, Phase.RUNNING, Phase.COLLECTING})
#: Phases in which its node has a task, and is polled for it or for its results.
FOLLOWED: Final = frozenset({Phase.RUNNING, Phase.COLLECTING})
#: Phases that loops work on; memory holds these, the rest is read on demand.
ACTIVE: Final = frozenset({Phase.RECEIVING, Phase.QUEUED}) | ON_NODE


def require_transition(source: Phase, to: Phase) -> None:
    """Raise StaleTask unless `to` may follow `source`."""
    if to not in TRANSITIONS[source]:
        raise StaleTask(f"a task cannot go from {source} to {to}")


#: In place of a zipurl; clients cannot send it, because it is no URL.
HELD: Final = "held"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task as stored. Times are seconds since the epoch unless the name says otherwise."""

    uuid: str
    owner: str
    phase: Phase
    name: str = ""
    #: As the client gave them and the node would keep them: `[{"name": ..., "value": ...}]`.
    options: list[dict[str, Any]] = []
    skip_post_processing: bool = False
    outputs: list[str] = []
    webhook: str = ""
    #: Where the images are fetched from, HELD: out of the archives that were uploaded; empty once they are here.
    zipurl: str = ""
    #: Milliseconds, as the API speaks of it.
    date_created: int = 0
    #: A part of a split-merge job: its client must see it RUNNING while it waits.
    submodel: bool = False
    #: The split-merge job that sent it, and the attempt of that job; empty and 0: none did.
    job: str = ""
    job_attempt: int = 0
    priority: int = 0
    #: The part of the cluster that its owner has against others, and the tasks that its owner may have on nodes at a
    #: time (-1: any number), both as the token said at the commit.
    share: float = 1.0
    concurrency: int = -1
    file_count: int = 0
    image_count: int = 0
    #: Files that count against a node's limit: all but a seed, whatever they are.
    counted_files: int = 0
    byte_count: int = 0
    created_at: float = 0.0
    committed_at: float = 0.0
    finished_at: float = 0.0
    outcome: Outcome | None = None
    error: str = ""
    #: How many attempts there were; the latest has this number.
    attempts: int = 0
    #: How many attempts count against the limit.
    charged: int = 0
    #: Not dispatched before this time (back-off after a lost attempt), or not begun again on its node (back-off after
    #: results that were not delivered).
    not_before: float = 0.0
    #: After "Not enough memory": only nodes that take more images, or have more memory, than the one that failed.
    larger_than: int = 0
    more_memory_than: int = 0
    #: It was lost together with others: until it is over it has its node to itself.
    alone: bool = False
    #: Nodes (their ids) that refused it or failed it at once: it goes to others, where there are any.
    avoid: list[int] = []
    #: What the node said last: 0-100, milliseconds or -1, and its status code (0: nothing yet). While it waits again
    #: after it ran, the code stays RUNNING_CODE.
    progress: float = 0
    processing_time: int = -1
    node_code: int = 0
    #: Options that its node added to those of its owner.
    added_options: list[dict[str, Any]] = []
    #: The owner's webhook still has to be called.
    webhook_due: bool = False
    #: The service that knows its owner has still to approve it, or still to be told that it is over.
    approval_due: bool = False
    billing_due: bool = False
    #: Bytes of memory that similar tasks used; 0: unknown.
    expected_memory: int = 0
    #: The provider in whose bucket its results are; empty: they are here, or on its node.
    results_in: str = ""
    #: How often it was changed: of two states the one with more is the newer one.
    version: int = 0

    @property
    def given_date(self) -> int:
        """The date of creation that its client gave; 0 when it is that of the commit. A node is told no other: it
        deletes results some time after that date, and the task may have waited for days."""
        return self.date_created if self.date_created != int(self.committed_at * 1000) else 0


class Stage(StrEnum):
    """The stage of an attempt."""

    #: Files go to the node while the client still uploads, or the task waits: no slot is taken by it.
    PREFETCHING = "prefetching"
    #: Init and files; nothing runs on the node yet.
    SENDING = "sending"
    #: The commit was sent: from here on the node may be working.
    COMMITTING = "committing"
    RUNNING = "running"
    ENDED = "ended"


class Cleanup(StrEnum):
    """What remains to be done on the attempt's node."""

    NONE = "none"
    CANCEL = "cancel"
    REMOVE = "remove"


#: Reasons with which attempts end that did not go wrong.
COMPLETED: Final = "completed"
BY_OWNER: Final = "ended by its owner"
#: That of a prefetch that was of no use at the commit, or before.
DISCARDED: Final = "discarded"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a task on one node."""

    task: str
    number: int
    node_id: int
    node_name: str
    node_uuid: str
    stage: Stage = Stage.SENDING
    started_at: float = 0.0
    ended_at: float = 0.0
    #: Why it ended, in words for the timeline; of one that is under way: why its node begins it again.
    reason: str = ""
    #: The line number in the console of the task at which this attempt's lines begin.
    console_start: int = 0
    cleanup: Cleanup = Cleanup.NONE
    #: The replica that sends its files; empty: whichever comes first.
    sender: str = ""
    #: Images that the node must count among the files that were sent to it; -1: not known.
    expected_images: int = -1

    def ended(self, now: float, reason: str, cleanup: Cleanup) -> Attempt:
        """The same at its end, with what is still to be done on its node; one that is over ended when it did."""
        at = max(self.ended_at or now, self.started_at)  # the clock may have been set back
        return msgspec.structs.replace(self, stage=Stage.ENDED, ended_at=at, reason=reason, cleanup=cleanup)


class OnNode(NamedTuple):
    """A task that is on a node or on its way there, and its attempt."""

    task: Task
    attempt: Attempt


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a task's timeline."""

    task: str
    at: float
    text: str


def node_uuid(task: str, number: int) -> str:
    """The uuid under which attempt `number` (from 1) of `task` runs on its node.

    A node keeps files of an earlier try under the same uuid and would add duplicates, so each attempt has its own.
    """
    if number <= 1:
        return task
    return str(uuid_module.uuid5(uuid_module.UUID(task), str(number)))


_OUTCOME_CODES: Final = {
    Outcome.COMPLETED: COMPLETED_CODE,
    Outcome.FAILED: FAILED_CODE,
    Outcome.CANCELED: CANCELED_CODE,
}


def shown_code(task: Task) -> int:
    """The API status code that a client is shown (only for committed tasks). One that ran and waits again, because its
    node was lost, is still shown as running: a lost node is the problem of the cluster, not of the client."""
    if task.phase in (Phase.FINISHED, Phase.REMOVED) and task.outcome is not None:
        return _OUTCOME_CODES[task.outcome]
    waits_here = task.phase is Phase.QUEUED and task.node_code != RUNNING_CODE
    waits_there = task.phase is Phase.RUNNING and task.node_code == QUEUED_CODE
    return QUEUED_CODE if (waits_here or waits_there) and not task.submodel else RUNNING_CODE


def has_results(task: Task, attempt: Attempt | None) -> bool:
    """Return True if clients may fetch results of a task: a completed one keeps them when it is canceled later."""
    canceled_later = task.outcome is Outcome.CANCELED and attempt is not None and attempt.reason == COMPLETED
    return task.phase is Phase.FINISHED and (task.outcome is Outcome.COMPLETED or canceled_later)


def visible(task: Task) -> bool:
    """Return True if the task is visible to clients: not before the commit, and not after removal."""
    return task.phase not in (Phase.RECEIVING, Phase.REMOVED)


def task_info(task: Task) -> dict[str, Any]:
    """The body of `/task/<uuid>/info` without output. `error` never is a key of it: clients test for its presence."""
    status: dict[str, Any] = {"code": shown_code(task)}
    if task.error and status["code"] == FAILED_CODE:
        status["errorMessage"] = task.error
    progress = 100 if task.outcome is Outcome.COMPLETED else task.progress
    return {
        "uuid": task.uuid,
        "name": task.name,
        "dateCreated": task.date_created,
        "processingTime": task.processing_time,
        "status": status,
        "options": [*task.options, *added_options(task.options, task.added_options)],
        "imagesCount": task.image_count,
        "progress": int(progress) if progress == int(progress) else progress,
    }


#: What separates the owner of a split-merge job from its id in the owner of its submodels; other owners have none.
OWNER_MARK: Final = "#"


def is_submodel(outputs: list[str], skip_post_processing: bool, file_names: list[str]) -> bool:
    """Return True if a task comes from a split-merge job: it names outputs, or has a seed."""
    return SEED in file_names or (bool(outputs) and skip_post_processing)
