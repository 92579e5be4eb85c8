# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How nodes call back: the webhook of a task, and the address for the submodels of a split-merge job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from clusterodm.auth import JobTokens
from clusterodm.cluster.state.registry import Registry
from clusterodm.core.options import split_cluster, with_job_token, with_split_cluster
from clusterodm.core.splitmerge import unusable
from clusterodm.core.tasks import Task


@dataclass(kw_only=True, slots=True, eq=False)
class Callbacks:
    """Make callback addresses, with the keys and tokens that they need."""

    jobs: JobTokens
    registry: Registry
    public_address: str
    #: True if nodes run on machines of providers, which are other hosts.
    machines: bool
    splitmerge: bool

    def webhook(self, uuid: str) -> str:
        """Return the webhook that a node gets for a task; empty without a public address."""
        query = urlencode({"task": uuid, "key": self.jobs.callback_key(uuid)})
        return f"{self.public_address}/commit?{query}" if self.public_address else ""

    def with_cluster(self, options: list[dict[str, Any]], address: str) -> list[dict[str, Any]]:
        """Return the options, with `address` for the submodels of a split-merge job if split-merge is enabled."""
        return with_split_cluster(options, address if self.splitmerge else None)

    def for_node(self, task: Task, attempt: int) -> Task:
        """Return a task as sent to the node of an attempt."""
        return msgspec.structs.replace(task, options=self.options(task.uuid, task.options, attempt))

    def options(self, uuid: str, options: list[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
        """Return options as sent to the node of an attempt."""
        return with_job_token(options, self.jobs.token(uuid, attempt))

    def trouble(self, options: list[dict[str, Any]]) -> str:
        """Return why a split-merge job with these options cannot send its submodels here; empty if nothing is wrong,
        and for other tasks."""
        address = split_cluster(options)
        return self.address_trouble(address) if address else ""

    def address_trouble(self, address: str) -> str:
        """Return why nodes cannot use this address of the cluster; empty if nothing is wrong."""
        hosts = [node.address.host for node in self.registry.nodes()]
        why = unusable(address, hosts or ["elsewhere"] * self.machines)
        return f"split-merge jobs cannot send their submodels to {address}: {why} (see --public-address)" if why else ""
