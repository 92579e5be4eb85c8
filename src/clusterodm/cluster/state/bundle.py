# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of one cluster, handed over together."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.sizes import Sizes
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterState:
    """Tasks, nodes, machines and their sizes in memory, and the store that outlives them."""

    store: Store
    tasks: Tasks
    registry: Registry
    machines: Machines
    sizes: Sizes
