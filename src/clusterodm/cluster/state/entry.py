# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A task in memory, with state that lives only as long as the process."""

from __future__ import annotations

import asyncio

import msgspec

from clusterodm.core.errors import BadRequest, StaleTask
from clusterodm.core.tasks import ON_NODE, Attempt, OnNode, Task, task_info

_encode = msgspec.json.Encoder().encode


class Entry:
    """A task in memory, with state that lives only as long as the process."""

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
        #: Why it is set aside: its row is damaged, and this is what could be read of it. Empty if it is not.
        self.aside = aside
        #: Why it waits in the queue, for operators.
        self.wait = ""
        #: Held while files are published, and during the commit.
        self.lock = asyncio.Lock()
        self.last_activity = 0.0
        #: Files that count against a node's limit: at least those received by this process.
        self.counted = 0
        #: Since when (monotonic) its node has not answered, and how often in a row the node did not know it.
        self.unreachable_since = 0.0
        self.misses = 0
        #: The attempt whose image count was confirmed by its node, and how many attempts had a different count.
        self.confirmed = 0
        self.miscounts = 0
        self._info = b""
        self._info_of: Task | None = None

    @property
    def on_node(self) -> OnNode | None:
        """Return the task with its attempt while it is on a node or on its way there, else None."""
        attempt = self.attempt
        return OnNode(self.task, attempt) if attempt is not None and self.task.phase in ON_NODE else None

    def require_on_node(self) -> OnNode:
        """Return the task with its attempt. Raises StaleTask when it is not on a node, or no longer."""
        if (on_node := self.on_node) is not None:
            return on_node
        raise StaleTask(f"task {self.task.uuid} is {self.task.phase}, on no node")

    def reset_misses(self) -> None:
        """Count the silence of its node, and its denials, from the beginning."""
        self.unreachable_since, self.misses = 0.0, 0

    def require_readable(self) -> None:
        """Raise BadRequest if it is set aside."""
        if self.aside:
            raise BadRequest("This task is set aside: its record is damaged. Ask the operator of this cluster")

    def info(self) -> bytes:
        """Return the body of `/task/<uuid>/info`, encoded once per change of the task."""
        if self._info_of is not self.task:
            self._info_of = self.task
            self._info = _encode(task_info(self.task))
        return self._info
