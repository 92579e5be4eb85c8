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
from clusterodm.auth import JobTokens, make_authenticator
from clusterodm.cluster.context import Context
from clusterodm.cluster.machines.autoscaler import Autoscaler
from clusterodm.cluster.machines.lifecycle import Lifecycle
from clusterodm.cluster.machines.reaper import Reaper
from clusterodm.cluster.nodes.description import Description
from clusterodm.cluster.nodes.discovery import Discovery
from clusterodm.cluster.nodes.importer import Importer
from clusterodm.cluster.replicas import Replicas
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
from clusterodm.cluster.tasks.janitor import Janitor
from clusterodm.cluster.tasks.notifier import Notifier
from clusterodm.cluster.tasks.photos import Photos
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.cluster.tasks.reclaimer import Reclaimer
from clusterodm.cluster.tasks.redelivery import Redelivery
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.submodels import Submodels
from clusterodm.cluster.tasks.tracker import Tracker
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.core.errors import ConfigError
from clusterodm.core.machines import PENDING_STATES
from clusterodm.core.nodes import NodeInfo
from clusterodm.core.quota import parse_quota
from clusterodm.files.archives import Bounds
from clusterodm.files.console import Consoles
from clusterodm.files.results import Results
from clusterodm.files.spool import Spool
from clusterodm.files.trash import Trash
from clusterodm.nodeodm import NodeClient, RateLimit, Transfers, Trust
from clusterodm.observe import Metrics
from clusterodm.providers import make_fleet
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
    client, metrics = NodeClient(session, Trust(settings.nodes_ca)), Metrics()
    authenticator = make_authenticator(settings, session, clock)
    fleet = make_fleet(settings.asr, session, metrics, clock)
    if settings.results_from_s3 == "redirect" and not any(map(fleet.bucket, fleet.providers)):
        raise ConfigError(f"--results-from-s3 needs a provider with s3 in {settings.asr}")
    spool, consoles, results = (
        Spool(folder / "spool", parse_quota(settings.spool_max), owner=store.origin, shared=store.shared, clock=clock),
        Consoles(folder / "console", shared=store.shared),
        Results(folder / "results", owner=store.origin, clock=clock),
    )
    trash = Trash(folder / "trash", spool.room)
    holdings, photos = Holdings(store, spool), Photos(results, fleet)
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
    uploads = Uploads(tasks, spool, metrics, flood_limit=settings.flood_limit, clock=clock)
    strays = Strays(store, spool, consoles, results, trash, uploads, clock=clock)
    fair = FairShare(store, tasks, ageing=settings.priority_ageing * 60, clock=clock)
    machines = Machines(store, tasks, registry, clock)
    leadership = Leadership(clock)
    attempts = Attempts(
        store,
        tasks,
        registry,
        consoles,
        holdings,
        metrics,
        max_attempts=settings.max_attempts,
        clock=clock,
    )
    collector = Collector(
        tasks, registry, client, spool, results, metrics, fleet, keep=settings.results == "keep", clock=clock
    )
    drainer = Drainer(store, tasks, registry, collector, results, clock=clock)
    discovery = Discovery(registry, file=settings.nodes_file, name=settings.nodes_dns, clock=clock)
    tracker = Tracker(
        tasks,
        registry,
        attempts,
        collector,
        Redelivery(tasks, consoles, client, fleet, clock=clock),
        consoles,
        client,
        leadership=leadership,
        interval=settings.task_poll_interval,
        lost_after=settings.node_lost_after,
        clock=clock,
    )
    replicas = Replicas(
        store, leadership, tasks, registry, machines, look=tracker.look, forget=authenticator.forget, clock=clock
    )
    limit = RateLimit(settings.upload_max_speed, clock)
    transfers = partial(Transfers, client.trust, limit, connections=settings.parallel_uploads)
    callbacks = Callbacks(
        own.jobs,
        registry,
        public_address=settings.public_address,
        machines=bool(fleet.providers),
        splitmerge=settings.splitmerge,
    )
    prefetcher = Prefetcher(
        tasks,
        registry,
        spool,
        client,
        metrics,
        most=settings.prefetch,
        transfers=transfers(most=settings.prefetch, urgent=False),
        callbacks=callbacks,
        sender=replicas.me.id,
        leadership=leadership,
        clock=clock,
    )
    outlook = Outlook()
    dispatcher = Dispatcher(
        tasks,
        registry,
        replicas,
        Placer(tasks=tasks, registry=registry, prefetcher=prefetcher, fair=fair, clock=clock),
        Sender(
            tasks=tasks,
            registry=registry,
            prefetcher=prefetcher,
            holdings=holdings,
            consoles=consoles,
            client=client,
            transfers=transfers(most=settings.max_sending, urgent=True),
            callbacks=callbacks,
            metrics=metrics,
            clock=clock,
        ),
        attempts,
        metrics,
        Waits(consoles, outlook, clock),
        outlook,
        leadership=leadership,
        max_sending=settings.max_sending,
        clock=clock,
    )
    sizes = Forecasts(store, tasks, machines, spool, wanted=bool(fleet.providers), leadership=leadership, clock=clock)
    fetcher = Fetcher(
        tasks,
        spool,
        holdings=holdings,
        forecasts=sizes,
        max_size=settings.zipurl_max_size,
        max_files=settings.max_files,
        allow_private=settings.zipurl_allow_private,
        leadership=leadership,
        clock=clock,
    )
    lifecycle = Lifecycle(
        fleet,
        machines,
        registry,
        attempts,
        cluster=own.cluster,
        interval=settings.machine_poll_interval,
        leadership=leadership,
        clock=clock,
    )
    autoscaler = Autoscaler(
        fleet,
        machines,
        lifecycle,
        tasks,
        dispatcher,
        registry,
        spool,
        sizes,
        store,
        outlook=outlook,
        cluster=own.cluster,
        clock=clock,
    )
    reaper = Reaper(fleet, machines, cluster=own.cluster, clock=clock)
    accounts = Accounts(store, tasks, authenticator, leadership=leadership, clock=clock)
    janitor = Janitor(
        store,
        tasks,
        spool,
        consoles,
        results,
        fleet,
        uploads,
        strays,
        stale_uploads_hours=settings.stale_uploads_timeout,
        keep_finished_hours=settings.keep_finished,
        clock=clock,
    )
    control = Control(
        tasks,
        registry,
        client,
        spool,
        holdings,
        consoles,
        results,
        uploads,
        callbacks,
        before_restart=lambda uuid: submodels.drop(uuid),  # noqa: PLW0108 - which needs the control itself
        clock=clock,
    )
    submodels = Submodels(
        store,
        tasks,
        control,
        machines_coming=lambda: any(machine.state in PENDING_STATES for machine in machines.alive()),
        leadership=leadership,
        clock=clock,
    )
    context = Context(
        settings=settings,
        clock=clock,
        store=store,
        tasks=tasks,
        registry=registry,
        replicas=replicas,
        intake=Intake(
            tasks,
            spool,
            registry,
            consoles,
            splitmerge=settings.splitmerge,
            bounds=Bounds(settings.max_files, settings.zipurl_max_size),
            accounts=accounts,
            forecasts=sizes,
            prefetcher=prefetcher,
            uploads=uploads,
            strays=strays,
            callbacks=callbacks,
            clock=clock,
        ),
        control=control,
        uploads=uploads,
        submodels=submodels,
        callbacks=callbacks,
        claims=Claims(store, tasks),
        attempts=attempts,
        dispatcher=dispatcher,
        fair=fair,
        collector=collector,
        drainer=drainer,
        tracker=tracker,
        consoles=consoles,
        spool=spool,
        holdings=holdings,
        results=results,
        photos=photos,
        machines=machines,
        sizes=sizes,
        strays=strays,
        lifecycle=lifecycle,
        autoscaler=autoscaler,
        reaper=reaper,
        client=client,
        authenticator=authenticator,
        jobs=own.jobs,
        metrics=metrics,
        started_at=clock(),
    )
    metrics.registry.register(LiveGauges(context))

    async def close() -> None:
        for provider in fleet.providers.values():
            await provider.close()

    feed = Feed(context)
    cleaner = Cleaner(store, tasks, registry, client, leadership=leadership, clock=clock)
    notifier = Notifier(
        store,
        tasks,
        photos,
        metrics,
        leadership=leadership,
        clock=clock,
        allow_private=settings.webhook_allow_private,
        nodes_call=bool(settings.public_address),
    )
    schedule = Schedule(
        context,
        (
            registry,
            dispatcher,
            prefetcher,
            tracker,
            fetcher,
            submodels,
            cleaner,
            notifier,
            accounts,
            lifecycle,
            sizes,
        ),
        discovery=discovery,
        feed=feed,
        importer=Importer(store, registry, authenticator, folder, clock),
        janitor=janitor,
        reclaimer=Reclaimer(tasks, spool, uploads, trash, release_running=settings.release_running_files, clock=clock),
    )
    return Parts(context, feed, schedule, notifier.settle, close)


def _shipped_description() -> Description:
    """Return the shipped options of a NodeODM, for as long as no node was ever online."""
    content = files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    return Description(NodeInfo(engine="odm"), msgspec.json.decode(content))
