# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Persistent state, in SQL; knows the records of `core`, not the cluster."""

from clusterodm.store.asking import ask_options
from clusterodm.store.checking import Report, examine, has_tables, require_whole, untouched, value_of
from clusterodm.store.copying import copy_store, require_empty
from clusterodm.store.database import ask_version
from clusterodm.store.history import EndedTask, PastAttempt, TaskFilter
from clusterodm.store.machines import Cost
from clusterodm.store.migrate import HEAD
from clusterodm.store.nodes import ask_nodes
from clusterodm.store.replicas import SILENT, Replica
from clusterodm.store.store import Store

__all__ = [
    "HEAD",
    "SILENT",
    "Cost",
    "EndedTask",
    "PastAttempt",
    "Replica",
    "Report",
    "Store",
    "TaskFilter",
    "ask_nodes",
    "ask_options",
    "ask_version",
    "copy_store",
    "examine",
    "has_tables",
    "require_empty",
    "require_whole",
    "untouched",
    "value_of",
]
