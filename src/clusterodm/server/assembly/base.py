# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What all parts stand on: runtime, files, state, and the clients of nodes and providers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import aiohttp
import msgspec

from clusterodm.aio import Clock, Leadership
from clusterodm.auth import Authenticator, JobTokens, make_authenticator
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.description import Description
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.sizes import Sizes
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.fairshare import FairShare
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.photos import Photos
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.errors import ConfigError
from clusterodm.core.nodes import NodeInfo
from clusterodm.core.quota import parse_quota
from clusterodm.files.archives import Bounds
from clusterodm.files.bundle import Files
from clusterodm.files.console import Consoles
from clusterodm.files.results import Results
from clusterodm.files.spool import Spool
from clusterodm.files.trash import Trash
from clusterodm.nodeodm import NodeClient, Trust
from clusterodm.observe import Metrics
from clusterodm.providers import Fleet, make_fleet
from clusterodm.settings import Settings
from clusterodm.store import Store


@dataclass(frozen=True)
class ClusterIdentity:
    """What identifies a cluster, created at its first start."""

    jobs: JobTokens
    #: The tag of its machines.
    cluster: str


@dataclass(frozen=True)
class Base:
    """What all parts stand on."""

    settings: Settings
    folder: Path
    own: ClusterIdentity
    runtime: Runtime
    client: NodeClient
    authenticator: Authenticator
    fleet: Fleet
    files: Files
    state: ClusterState
    holdings: Holdings
    photos: Photos
    uploads: Uploads
    strays: Strays
    fair: FairShare
    callbacks: Callbacks


def make_base(
    settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, own: ClusterIdentity, clock: Clock
) -> Base:
    """Make it. Raises ConfigError."""
    runtime = Runtime(clock=clock, leadership=Leadership(clock), metrics=Metrics())
    client = NodeClient(session, Trust(settings.nodes_ca))
    authenticator = make_authenticator(settings, session, clock)
    fleet = make_fleet(settings.asr, session, runtime.metrics, clock)
    if settings.results_from_s3 == "redirect" and not any(map(fleet.bucket, fleet.providers)):
        raise ConfigError(f"--results-from-s3 needs a provider with s3 in {settings.asr}")
    held = _files(settings, folder, store, clock)
    state = _state(settings, store, client, authenticator, fleet, clock)
    uploads = Uploads(
        tasks=state.tasks, spool=held.spool, flood_limit=settings.flood_limit, clock=clock, metrics=runtime.metrics
    )
    holdings = Holdings(store, held.spool)
    photos = Photos(held.results, fleet)
    strays = Strays(store=store, files=held, uploads=uploads, clock=clock)
    fair = FairShare(store, state.tasks, ageing=settings.priority_ageing * 60, clock=clock)
    callbacks = Callbacks(
        jobs=own.jobs,
        registry=state.registry,
        public_address=settings.public_address,
        machines=bool(fleet.providers),
        splitmerge=settings.splitmerge,
    )
    return Base(
        settings,
        folder,
        own,
        runtime,
        client,
        authenticator,
        fleet,
        held,
        state,
        holdings,
        photos,
        uploads,
        strays,
        fair,
        callbacks,
    )


def _files(settings: Settings, folder: Path, store: Store, clock: Clock) -> Files:
    quota = parse_quota(settings.spool_max)
    spool = Spool(folder / "spool", quota, owner=store.origin, shared=store.shared, clock=clock)
    return Files(
        spool=spool,
        consoles=Consoles(folder / "console", shared=store.shared),
        results=Results(folder / "results", owner=store.origin, clock=clock),
        trash=Trash(folder / "trash", spool.room),
        bounds=Bounds(settings.max_files, settings.zipurl_max_size),
    )


def _state(
    settings: Settings, store: Store, client: NodeClient, authenticator: Authenticator, fleet: Fleet, clock: Clock
) -> ClusterState:
    tasks = Tasks(store, clock, billed=authenticator.billing)
    sizes = Sizes(offering for provider in fleet.providers.values() for offering in provider.offerings)
    registry = Registry(
        store,
        tasks,
        client,
        _shipped_description(),
        interval=settings.node_poll_interval,
        machines=sizes.capacities,
        clock=clock,
    )
    machines = Machines(store, tasks, registry, clock)
    return ClusterState(store=store, tasks=tasks, registry=registry, machines=machines, sizes=sizes)


def _shipped_description() -> Description:
    """Return the shipped options of a NodeODM, for as long as no node was ever online."""
    content = files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    return Description(NodeInfo(engine="odm"), msgspec.json.decode(content))
