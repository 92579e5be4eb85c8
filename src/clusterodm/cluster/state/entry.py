# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One task in memory, with what only matters while this process lives."""

from __future__ import annotations

import asyncio

import msgspec

from clusterodm.core.errors import BadRequest, StaleTask
from clusterodm.core.tasks import ON_NODE, Attempt, OnNode, Task, task_info

_encode = msgspec.json.Encoder().encode


class Entry:
    """One task in memory, with what only matters while this process lives."""

    __slots__ = (
        "_info",
        "_info_of",
        "aside",
        "attempt",
        "confirmed",
        "counted",
        "last_activity",
        "lock",
        "miscounts",
        "misses",
        "task",
        "unreachable_since",
        "wait",
    )

    def __init__(self, task: Task, attempt: Attempt | None = None, *, aside: str = "") -> None:
        self.task = task
        self.attempt = attempt
        #: Why it is set aside: its row cannot be read, so that this is only what could be made out of it. Empty: it is
        #: not.
        self.aside = aside
        #: Why it waits in the queue.
        self.wait = ""
        #: Held while files are published and at the commit.
        self.lock = asyncio.Lock()
        self.last_activity = 0.0
        #: Files that count against a node's limit: at least as many as came in here.
        self.counted = 0
        #: Since when (by a clock that nobody sets) its node does not answer, and how often in a row it denied it.
        self.unreachable_since = 0.0
        self.misses = 0
        #: The attempt whose images its node has counted as expected, and how many attempts it counted otherwise.
        self.confirmed = 0
        self.miscounts = 0
        self._info = b""
        self._info_of: Task | None = None

    @property
    def on_node(self) -> OnNode | None:
        """The task with its attempt while it is on a node or on its way there."""
        attempt = self.attempt
        return OnNode(self.task, attempt) if attempt is not None and self.task.phase in ON_NODE else None

    def require_on_node(self) -> OnNode:
        """The same; raises StaleTask when it is not, or no longer."""
        if there := self.on_node:
            return there
        raise StaleTask(f"task {self.task.uuid} is {self.task.phase}, on no node")

    def require_readable(self) -> None:
        """Raise BadRequest when it is set aside."""
        if self.aside:
            raise BadRequest("This task is set aside: its record is damaged. Ask the operator of this cluster")

    def info(self) -> bytes:
        """The body of `/task/<uuid>/info`, made once for each change of the task."""
        if self._info_of is not self.task:
            self._info_of = self.task
            self._info = _encode(task_info(self.task))
        return self._info
