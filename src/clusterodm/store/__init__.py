# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must survive a restart, in SQL."""

from clusterodm.store.copying import copy_store
from clusterodm.store.database import ask_version
from clusterodm.store.history import EndedTask, PastAttempt, TaskFilter
from clusterodm.store.machines import Cost
from clusterodm.store.nodes import ask_nodes
from clusterodm.store.replicas import SILENT, Replica
from clusterodm.store.store import Store
from clusterodm.store.tasks import PROGRESS

__all__ = [
    "PROGRESS",
    "SILENT",
    "Cost",
    "EndedTask",
    "PastAttempt",
    "Replica",
    "Store",
    "TaskFilter",
    "ask_nodes",
    "ask_version",
    "copy_store",
]
