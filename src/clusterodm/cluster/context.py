# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts of a cluster that both planes, clients' and operators', work with."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.aio import Clock
from clusterodm.auth import Authenticator, JobTokens
from clusterodm.cluster.attempts import Attempts
from clusterodm.cluster.autoscaler import Autoscaler
from clusterodm.cluster.callbacks import Callbacks
from clusterodm.cluster.claims import Claims
from clusterodm.cluster.collector import Collector
from clusterodm.cluster.control import Control
from clusterodm.cluster.dispatcher import Dispatcher
from clusterodm.cluster.drainer import Drainer
from clusterodm.cluster.fairshare import FairShare
from clusterodm.cluster.forecasts import Forecasts
from clusterodm.cluster.holdings import Holdings
from clusterodm.cluster.intake import Intake
from clusterodm.cluster.lifecycle import Lifecycle
from clusterodm.cluster.machines import Machines
from clusterodm.cluster.photos import Photos
from clusterodm.cluster.reaper import Reaper
from clusterodm.cluster.registry import Registry
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.strays import Strays
from clusterodm.cluster.submodels import Submodels
from clusterodm.cluster.tasks import Tasks
from clusterodm.cluster.tracker import Tracker
from clusterodm.cluster.uploads import Uploads
from clusterodm.console import Consoles
from clusterodm.nodeodm import NodeClient
from clusterodm.observe import Metrics
from clusterodm.results import Results
from clusterodm.settings import Settings
from clusterodm.spool import Spool
from clusterodm.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """Made by the composition root."""

    settings: Settings
    clock: Clock
    store: Store
    tasks: Tasks
    registry: Registry
    replicas: Replicas
    intake: Intake
    control: Control
    uploads: Uploads
    submodels: Submodels
    callbacks: Callbacks
    claims: Claims
    attempts: Attempts
    dispatcher: Dispatcher
    fair: FairShare
    collector: Collector
    drainer: Drainer
    tracker: Tracker
    consoles: Consoles
    spool: Spool
    holdings: Holdings
    results: Results
    photos: Photos
    machines: Machines
    sizes: Forecasts
    strays: Strays
    lifecycle: Lifecycle
    autoscaler: Autoscaler
    reaper: Reaper
    client: NodeClient
    authenticator: Authenticator
    jobs: JobTokens
    metrics: Metrics
    #: Seconds since the epoch.
    started_at: float
