# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cluster's own `/info`, aggregated from its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from clusterodm.core.nodes import NodeInfo

#: The version of the NodeODM API that the cluster speaks; clients compare it.
API_VERSION: Final = "2.2.4"
#: The product name in requests and responses; without versions, which would help attackers.
PROGRAM: Final = "ClusterODM"


def cluster_info(online: Iterable[NodeInfo], described: NodeInfo, waiting: int) -> dict[str, Any]:
    """Return the body of `/info`: sums over the `online` nodes; with none, the last one seen (`described`).

    `waiting` is the number of queued tasks: clients choose the least loaded node by it.
    """
    nodes = list(online) or [described]
    limits = [node.max_images for node in nodes]
    return {
        "version": API_VERSION,
        "taskQueueCount": waiting,
        "totalMemory": sum(node.total_memory for node in nodes),
        "availableMemory": sum(node.available_memory for node in nodes),
        "cpuCores": sum(node.cpu_cores for node in nodes),
        "maxImages": None if None in limits else max(limit for limit in limits if limit is not None),
        "maxParallelTasks": sum(node.max_parallel_tasks for node in nodes),
        "engineVersion": described.engine_version,
        "engine": described.engine,
    }
