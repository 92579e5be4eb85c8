# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What nodes are told about the way back: the webhook of a task, and where the submodels of a split-merge job go."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from clusterodm.auth import JobTokens
from clusterodm.core.options import with_job_token, with_split_cluster
from clusterodm.core.tasks import Task


class Callbacks:
    """Knows the cluster's address and makes the keys and tokens that go with it."""

    def __init__(self, jobs: JobTokens, *, public_address: str, splitmerge: bool) -> None:
        self._jobs = jobs
        self._public_address = public_address
        self._splitmerge = splitmerge

    def webhook(self, uuid: str) -> str:
        """Return the webhook of a task that nodes get; empty while the cluster's address is not known."""
        query = urlencode({"task": uuid, "key": self._jobs.callback_key(uuid)})
        return f"{self._public_address}/commit?{query}" if self._public_address else ""

    def with_cluster(self, options: list[dict[str, Any]], address: str) -> list[dict[str, Any]]:
        """Return the options of a task, with `address` for its submodels if it is split and may send them."""
        return with_split_cluster(options, address if self._splitmerge else None)

    def for_node(self, task: Task, attempt: int) -> Task:
        """Return the task as the node of an attempt gets it."""
        return msgspec.structs.replace(task, options=self.options(task.uuid, task.options, attempt))

    def options(self, uuid: str, options: list[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
        """Return the options of a task as the node of an attempt gets them."""
        return with_job_token(options, self._jobs.token(uuid, attempt))
