# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts of a cluster that operators reach."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.aio import Clock
from clusterodm.cluster.delivery import Delivery
from clusterodm.cluster.machines.autoscaler import Autoscaler
from clusterodm.cluster.machines.lifecycle import Lifecycle
from clusterodm.cluster.machines.reaper import Reaper
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.control import Control
from clusterodm.cluster.tasks.dispatcher import Dispatcher
from clusterodm.cluster.tasks.drainer import Drainer
from clusterodm.cluster.tasks.fairshare import FairShare
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.submodels import Submodels
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.files.console import Consoles
from clusterodm.files.results import Results
from clusterodm.files.spool import Spool
from clusterodm.observe import Metrics
from clusterodm.settings import Settings
from clusterodm.store import Store


@dataclass(frozen=True, kw_only=True)
class OperatorPlane:
    """What operations, shell, feed and metrics need of a cluster."""

    settings: Settings
    clock: Clock
    store: Store
    tasks: Tasks
    registry: Registry
    machines: Machines
    replicas: Replicas
    control: Control
    uploads: Uploads
    submodels: Submodels
    callbacks: Callbacks
    attempts: Attempts
    dispatcher: Dispatcher
    fair: FairShare
    drainer: Drainer
    consoles: Consoles
    spool: Spool
    holdings: Holdings
    results: Results
    strays: Strays
    delivery: Delivery
    lifecycle: Lifecycle
    autoscaler: Autoscaler
    reaper: Reaper
    metrics: Metrics
    #: Seconds since the epoch.
    started_at: float
