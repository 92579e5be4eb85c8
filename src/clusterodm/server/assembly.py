# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wiring: builds the parts of a cluster and hands each its collaborators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import aiohttp
import msgspec

from clusterodm.admin.feed import Feed
from clusterodm.admin.metrics import LiveGauges
from clusterodm.aio import Clock, Leadership
from clusterodm.auth import Authenticator, JobTokens, make_authenticator
from clusterodm.cluster.context import Context
from clusterodm.cluster.egress import EgressPolicy
from clusterodm.cluster.machines.autoscaler import Autoscaler
from clusterodm.cluster.machines.lifecycle import Lifecycle
from clusterodm.cluster.machines.reaper import Reaper
from clusterodm.cluster.nodes.description import Description
from clusterodm.cluster.nodes.discovery import Discovery
from clusterodm.cluster.nodes.importer import Importer
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.outlook import Outlook
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.accounts import Accounts
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.claims import Claims
from clusterodm.cluster.tasks.cleaner import Cleaner
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.cluster.tasks.control import Control
from clusterodm.cluster.tasks.dispatcher import Dispatcher
from clusterodm.cluster.tasks.drainer import Drainer
from clusterodm.cluster.tasks.fairshare import FairShare
from clusterodm.cluster.tasks.fetcher import Fetcher
from clusterodm.cluster.tasks.forecasts import Forecasts
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.intake import Intake
from clusterodm.cluster.tasks.janitor import DEFAULT_HOURS, HOUR, Janitor
from clusterodm.cluster.tasks.notifier import Notifier
from clusterodm.cluster.tasks.photos import Photos
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.cluster.tasks.reclaimer import Reclaimer
from clusterodm.cluster.tasks.redelivery import Redelivery
from clusterodm.cluster.tasks.relay import Relay
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.submodels import Submodels
from clusterodm.cluster.tasks.tracker import Tracker
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.core.errors import ConfigError
from clusterodm.core.nodes import NodeInfo
from clusterodm.core.quota import parse_quota
from clusterodm.files.archives import Bounds
from clusterodm.files.bundle import Files
from clusterodm.files.console import Consoles
from clusterodm.files.results import Results
from clusterodm.files.spool import Spool
from clusterodm.files.trash import Trash
from clusterodm.nodeodm import NodeClient, RateLimit, Transfers, Trust
from clusterodm.observe import Metrics
from clusterodm.providers import Fleet, make_fleet
from clusterodm.server.schedule import Schedule
from clusterodm.settings import Settings
from clusterodm.store import Store


@dataclass(frozen=True)
class Parts:
    """What `build` made."""

    context: Context
    feed: Feed
    schedule: Schedule
    #: Before the loops end: waits for what would be done twice if it were cut off now.
    settle: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class ClusterIdentity:
    """What identifies a cluster, created at its first start."""

    jobs: JobTokens
    #: The tag of its machines.
    cluster: str


def build(
    settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, own: ClusterIdentity, clock: Clock
) -> Parts:
    """Build state, tasks, machines and planes, in this order: observers are called in the order of their creation."""
    base = _base(settings, folder, store, session, own, clock)
    running = _running_tasks(base)
    waiting = _waiting_tasks(base, running)
    machines = _machines(base, running, waiting)
    ending = _ended_tasks(base)
    context = _context(base, running, waiting, machines, ending)
    base.runtime.metrics.registry.register(LiveGauges(context))
    return _parts(base, running, waiting, ending, context)


@dataclass(frozen=True, kw_only=True)
class _Base:
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


def _base(
    settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, own: ClusterIdentity, clock: Clock
) -> _Base:
    runtime = Runtime(clock=clock, leadership=Leadership(clock), metrics=Metrics())
    client = NodeClient(session, Trust(settings.nodes_ca))
    authenticator = make_authenticator(settings, session, clock)
    fleet = make_fleet(settings.asr, session, runtime.metrics, clock)
    if settings.results_from_s3 == "redirect" and not any(map(fleet.bucket, fleet.providers)):
        raise ConfigError(f"--results-from-s3 needs a provider with s3 in {settings.asr}")
    held = _files(settings, folder, store, clock)
    state = _state(settings, store, client, authenticator, fleet, clock)
    uploads = Uploads(
        tasks=state.tasks,
        spool=held.spool,
        flood_limit=settings.flood_limit,
        clock=clock,
        metrics=runtime.metrics,
    )
    return _Base(
        settings=settings,
        folder=folder,
        own=own,
        runtime=runtime,
        client=client,
        authenticator=authenticator,
        fleet=fleet,
        files=held,
        state=state,
        holdings=Holdings(store, held.spool),
        photos=Photos(held.results, fleet),
        uploads=uploads,
        strays=Strays(store=store, files=held, uploads=uploads, clock=clock),
        fair=FairShare(store, state.tasks, ageing=settings.priority_ageing * 60, clock=clock),
        callbacks=Callbacks(
            jobs=own.jobs,
            registry=state.registry,
            public_address=settings.public_address,
            machines=bool(fleet.providers),
            splitmerge=settings.splitmerge,
        ),
    )


def _files(settings: Settings, folder: Path, store: Store, clock: Clock) -> Files:
    most = parse_quota(settings.spool_max)
    spool = Spool(folder / "spool", most, owner=store.origin, shared=store.shared, clock=clock)
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
    registry = Registry(
        store,
        tasks,
        client,
        _shipped_description(),
        interval=settings.node_poll_interval,
        machines=fleet.takes,
        clock=clock,
    )
    return ClusterState(store=store, tasks=tasks, registry=registry, machines=Machines(store, tasks, registry, clock))


@dataclass(frozen=True, kw_only=True)
class _Running:
    """The parts that follow tasks on nodes."""

    attempts: Attempts
    collector: Collector
    drainer: Drainer
    tracker: Tracker
    replicas: Replicas


def _running_tasks(base: _Base) -> _Running:
    settings, state, files, clock = base.settings, base.state, base.files, base.runtime.clock
    attempts = Attempts(
        state=state,
        consoles=files.consoles,
        holdings=base.holdings,
        max_attempts=settings.max_attempts,
        runtime=base.runtime,
    )
    collector = Collector(
        state=state,
        client=base.client,
        files=files,
        fleet=base.fleet,
        keep=settings.results == "keep",
        runtime=base.runtime,
    )
    tracker = Tracker(
        state=state,
        attempts=attempts,
        collector=collector,
        redelivery=Redelivery(
            tasks=state.tasks, consoles=files.consoles, client=base.client, fleet=base.fleet, clock=clock
        ),
        relay=Relay(tasks=state.tasks, consoles=files.consoles, client=base.client),
        interval=settings.task_poll_interval,
        lost_after=settings.node_lost_after,
        runtime=base.runtime,
    )
    replicas = Replicas(
        state.store,
        base.runtime.leadership,
        state.tasks,
        state.registry,
        state.machines,
        look=tracker.look,
        forget=base.authenticator.forget,
        clock=clock,
    )
    drainer = Drainer(state=state, collector=collector, results=files.results, clock=clock)
    return _Running(attempts=attempts, collector=collector, drainer=drainer, tracker=tracker, replicas=replicas)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """The parts that take tasks from their announcement to a node."""

    prefetcher: Prefetcher
    dispatcher: Dispatcher
    outlook: Outlook
    sizes: Forecasts
    fetcher: Fetcher
    accounts: Accounts


def _waiting_tasks(base: _Base, running: _Running) -> _Waiting:
    settings, state, spool = base.settings, base.state, base.files.spool
    limit = RateLimit(settings.upload_max_speed, base.runtime.clock)
    transfers = partial(Transfers, base.client.trust, limit, connections=settings.parallel_uploads)
    prefetcher = Prefetcher(
        state=state,
        spool=spool,
        client=base.client,
        transfers=transfers(most=settings.prefetch, urgent=False),
        callbacks=base.callbacks,
        sender=running.replicas.me.id,
        most=settings.prefetch,
        runtime=base.runtime,
    )
    outlook = Outlook()
    dispatcher = _dispatcher(base, running, prefetcher, transfers(most=settings.max_sending, urgent=True), outlook)
    sizes = Forecasts(state=state, spool=spool, wanted=bool(base.fleet.providers), runtime=base.runtime)
    fetcher = Fetcher(
        tasks=state.tasks,
        spool=spool,
        holdings=base.holdings,
        forecasts=sizes,
        bounds=base.files.bounds,
        egress=EgressPolicy(allow_private=settings.zipurl_allow_private),
        runtime=base.runtime,
    )
    return _Waiting(
        prefetcher=prefetcher,
        dispatcher=dispatcher,
        outlook=outlook,
        sizes=sizes,
        fetcher=fetcher,
        accounts=Accounts(state=state, authenticator=base.authenticator, runtime=base.runtime),
    )


def _dispatcher(
    base: _Base, running: _Running, prefetcher: Prefetcher, transfers: Transfers, outlook: Outlook
) -> Dispatcher:
    clock, consoles = base.runtime.clock, base.files.consoles
    return Dispatcher(
        state=base.state,
        replicas=running.replicas,
        placer=Placer(state=base.state, prefetcher=prefetcher, fair=base.fair, clock=clock),
        sender=Sender(
            state=base.state,
            prefetcher=prefetcher,
            holdings=base.holdings,
            consoles=consoles,
            client=base.client,
            transfers=transfers,
            callbacks=base.callbacks,
            runtime=base.runtime,
        ),
        attempts=running.attempts,
        waits=Waits(consoles, outlook, clock),
        max_sending=base.settings.max_sending,
        runtime=base.runtime,
    )


@dataclass(frozen=True, kw_only=True)
class _Scaling:
    """The parts that launch and delete machines."""

    lifecycle: Lifecycle
    autoscaler: Autoscaler
    reaper: Reaper


def _machines(base: _Base, running: _Running, waiting: _Waiting) -> _Scaling:
    fleet, state, cluster, clock = base.fleet, base.state, base.own.cluster, base.runtime.clock
    lifecycle = Lifecycle(
        fleet,
        state.machines,
        state.registry,
        running.attempts,
        cluster=cluster,
        interval=base.settings.machine_poll_interval,
        leadership=base.runtime.leadership,
        clock=clock,
    )
    autoscaler = Autoscaler(
        fleet=fleet,
        state=state,
        lifecycle=lifecycle,
        spool=base.files.spool,
        sizes=waiting.sizes,
        outlook=waiting.outlook,
        cluster=cluster,
        clock=clock,
    )
    reaper = Reaper(fleet=fleet, machines=state.machines, cluster=cluster, clock=clock)
    return _Scaling(lifecycle=lifecycle, autoscaler=autoscaler, reaper=reaper)


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """The parts that carry out requests of owners, and what follows the end of a task."""

    control: Control
    submodels: Submodels
    claims: Claims
    cleaner: Cleaner
    notifier: Notifier


def _ended_tasks(base: _Base) -> _Ended:
    settings, state, runtime = base.settings, base.state, base.runtime
    control = Control(
        state=state,
        client=base.client,
        files=base.files,
        holdings=base.holdings,
        uploads=base.uploads,
        callbacks=base.callbacks,
        before_restart=lambda uuid: submodels.drop(uuid),  # noqa: PLW0108 - which needs the control itself
        clock=runtime.clock,
    )
    submodels = Submodels(state=state, control=control, runtime=runtime)
    return _Ended(
        control=control,
        submodels=submodels,
        claims=Claims(state.store, state.tasks),
        cleaner=Cleaner(state=state, client=base.client, runtime=runtime),
        notifier=Notifier(
            state=state,
            photos=base.photos,
            egress=EgressPolicy(allow_private=settings.webhook_allow_private),
            nodes_call=bool(settings.public_address),
            runtime=runtime,
        ),
    )


def _context(base: _Base, running: _Running, waiting: _Waiting, machines: _Scaling, ending: _Ended) -> Context:
    return Context(
        settings=base.settings,
        clock=base.runtime.clock,
        store=base.state.store,
        tasks=base.state.tasks,
        registry=base.state.registry,
        replicas=running.replicas,
        intake=Intake(
            state=base.state,
            files=base.files,
            callbacks=base.callbacks,
            accounts=waiting.accounts,
            forecasts=waiting.sizes,
            prefetcher=waiting.prefetcher,
            uploads=base.uploads,
            strays=base.strays,
        ),
        control=ending.control,
        uploads=base.uploads,
        submodels=ending.submodels,
        callbacks=base.callbacks,
        claims=ending.claims,
        attempts=running.attempts,
        dispatcher=waiting.dispatcher,
        fair=base.fair,
        collector=running.collector,
        drainer=running.drainer,
        tracker=running.tracker,
        consoles=base.files.consoles,
        spool=base.files.spool,
        holdings=base.holdings,
        results=base.files.results,
        photos=base.photos,
        machines=base.state.machines,
        sizes=waiting.sizes,
        strays=base.strays,
        lifecycle=machines.lifecycle,
        autoscaler=machines.autoscaler,
        reaper=machines.reaper,
        client=base.client,
        authenticator=base.authenticator,
        jobs=base.own.jobs,
        metrics=base.runtime.metrics,
        started_at=base.runtime.clock(),
    )


def _parts(base: _Base, running: _Running, waiting: _Waiting, ending: _Ended, context: Context) -> Parts:
    settings, state, clock = base.settings, base.state, base.runtime.clock

    async def close() -> None:
        for provider in base.fleet.providers.values():
            await provider.close()

    feed = Feed(context)
    schedule = Schedule(
        context,
        (
            state.registry,
            waiting.dispatcher,
            waiting.prefetcher,
            running.tracker,
            waiting.fetcher,
            ending.submodels,
            ending.cleaner,
            ending.notifier,
            waiting.accounts,
            context.lifecycle,
            waiting.sizes,
        ),
        discovery=Discovery(state.registry, file=settings.nodes_file, name=settings.nodes_dns, clock=clock),
        feed=feed,
        importer=Importer(
            store=state.store,
            registry=state.registry,
            authenticator=base.authenticator,
            folder=base.folder,
            clock=clock,
        ),
        janitor=Janitor(
            state=state,
            files=base.files,
            fleet=base.fleet,
            uploads=base.uploads,
            strays=base.strays,
            stale_uploads=(settings.stale_uploads_timeout or DEFAULT_HOURS) * HOUR,
            keep_finished=settings.keep_finished * HOUR,
            clock=clock,
        ),
        reclaimer=Reclaimer(
            tasks=state.tasks,
            files=base.files,
            uploads=base.uploads,
            release_running=settings.release_running_files,
            clock=clock,
        ),
    )
    return Parts(context, feed, schedule, ending.notifier.settle, close)


def _shipped_description() -> Description:
    """Return the shipped options of a NodeODM, for as long as no node was ever online."""
    content = files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    return Description(NodeInfo(engine="odm"), msgspec.json.decode(content))
