# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients and operators see of a cluster, its loops, and all of it together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from clusterodm.admin.feed import Feed
from clusterodm.admin.metrics import LiveGauges
from clusterodm.aio import Clock
from clusterodm.cluster.delivery import Delivery
from clusterodm.cluster.nodes.discovery import Discovery
from clusterodm.cluster.nodes.importer import Importer
from clusterodm.cluster.tasks.intake import Intake
from clusterodm.cluster.tasks.janitor import DEFAULT_HOURS, HOUR, Janitor
from clusterodm.cluster.tasks.reclaimer import Reclaimer
from clusterodm.server.assembly.base import Base, ClusterIdentity, make_base
from clusterodm.server.assembly.machines import Scaling, scale
from clusterodm.server.assembly.tasks import Ending, Following, Placing, end_tasks, follow_tasks, place_tasks
from clusterodm.server.context import Context
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


def build(
    settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, own: ClusterIdentity, clock: Clock
) -> Parts:
    """Build state, tasks, machines and planes, in this order: observers are called in the order of their creation."""
    base = make_base(settings, folder, store, session, own, clock)
    following = follow_tasks(base)
    placing = place_tasks(base, following)
    scaling = scale(base, following, placing)
    ending = end_tasks(base)
    context = _context(base, following, placing, scaling, ending)
    base.runtime.metrics.registry.register(LiveGauges(context))
    return _parts(base, following, placing, ending, context)


def _context(base: Base, following: Following, placing: Placing, scaling: Scaling, ending: Ending) -> Context:
    return Context(
        settings=base.settings,
        clock=base.runtime.clock,
        store=base.state.store,
        tasks=base.state.tasks,
        registry=base.state.registry,
        replicas=following.replicas,
        intake=Intake(
            state=base.state,
            files=base.files,
            callbacks=base.callbacks,
            accounts=placing.accounts,
            forecasts=placing.forecasts,
            prefetcher=placing.prefetcher,
            uploads=base.uploads,
            strays=base.strays,
        ),
        control=ending.control,
        uploads=base.uploads,
        submodels=ending.submodels,
        callbacks=base.callbacks,
        claims=ending.claims,
        attempts=following.attempts,
        dispatcher=placing.dispatcher,
        fair=base.fair,
        collector=following.collector,
        drainer=following.drainer,
        delivery=Delivery(
            registry=base.state.registry,
            collector=following.collector,
            client=base.client,
            results=base.files.results,
            fleet=base.fleet,
            redirect=base.settings.results_from_s3 == "redirect",
            metrics=base.runtime.metrics,
        ),
        tracker=following.tracker,
        consoles=base.files.consoles,
        spool=base.files.spool,
        holdings=base.holdings,
        results=base.files.results,
        photos=base.photos,
        machines=base.state.machines,
        forecasts=placing.forecasts,
        strays=base.strays,
        lifecycle=scaling.lifecycle,
        autoscaler=scaling.autoscaler,
        reaper=scaling.reaper,
        client=base.client,
        authenticator=base.authenticator,
        jobs=base.own.jobs,
        metrics=base.runtime.metrics,
        started_at=base.runtime.clock(),
    )


def _parts(base: Base, following: Following, placing: Placing, ending: Ending, context: Context) -> Parts:
    settings, state, clock = base.settings, base.state, base.runtime.clock

    async def close() -> None:
        for provider in base.fleet.providers.values():
            await provider.close()

    feed = Feed(context)
    schedule = Schedule(
        context,
        (
            state.registry,
            placing.dispatcher,
            placing.prefetcher,
            following.tracker,
            placing.fetcher,
            ending.submodels,
            ending.cleaner,
            ending.notifier,
            placing.accounts,
            context.lifecycle,
            placing.forecasts,
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
