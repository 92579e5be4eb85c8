# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one implementation of the store, on SQLAlchemy Core: domain verbs outside, SQL inside."""

from __future__ import annotations

from clusterodm.store.history import HistoryVerbs
from clusterodm.store.machines import MachineVerbs
from clusterodm.store.nodes import NodeVerbs
from clusterodm.store.replicas import ReplicaVerbs
from clusterodm.store.tasks import TaskVerbs


class Store(TaskVerbs, NodeVerbs, MachineVerbs, HistoryVerbs, ReplicaVerbs):
    """Tasks, attempts, timelines, nodes, machines and their costs, a few single values, and their history."""
