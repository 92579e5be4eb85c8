# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts that move tasks: to a node, on it, and after their end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from clusterodm.cluster.egress import EgressPolicy
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.state.outlook import Outlook
from clusterodm.cluster.tasks.accounts import Accounts
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.cluster.tasks.claims import Claims
from clusterodm.cluster.tasks.cleaner import Cleaner
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.cluster.tasks.control import Control
from clusterodm.cluster.tasks.dispatcher import Dispatcher
from clusterodm.cluster.tasks.drainer import Drainer
from clusterodm.cluster.tasks.fetcher import Fetcher
from clusterodm.cluster.tasks.forecasts import Forecasts
from clusterodm.cluster.tasks.notifier import Notifier
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.cluster.tasks.redelivery import Redelivery
from clusterodm.cluster.tasks.relay import Relay
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.cluster.tasks.submodels import Submodels
from clusterodm.cluster.tasks.tracker import Tracker
from clusterodm.cluster.tasks.waits import Waits
from clusterodm.nodeodm import RateLimit, Transfers
from clusterodm.server.assembly.base import Base


@dataclass(frozen=True)
class Following:
    """The parts that follow tasks on nodes."""

    attempts: Attempts
    collector: Collector
    drainer: Drainer
    tracker: Tracker
    replicas: Replicas


def follow_tasks(base: Base) -> Following:
    """Make the parts that follow tasks on nodes."""
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
    replicas = Replicas(state=state, poll=tracker.look, drop_grants=base.authenticator.forget, runtime=base.runtime)
    drainer = Drainer(state=state, collector=collector, results=files.results, clock=clock)
    return Following(attempts, collector, drainer, tracker, replicas)


@dataclass(frozen=True)
class Placing:
    """The parts that take tasks from their announcement to a node."""

    prefetcher: Prefetcher
    dispatcher: Dispatcher
    outlook: Outlook
    forecasts: Forecasts
    fetcher: Fetcher
    accounts: Accounts


def place_tasks(base: Base, following: Following) -> Placing:
    """Make the parts that take tasks to a node."""
    settings, state, spool = base.settings, base.state, base.files.spool
    limit = RateLimit(settings.upload_max_speed, base.runtime.clock)
    transfers = partial(Transfers, base.client.trust, limit, connections=settings.parallel_uploads)
    prefetcher = Prefetcher(
        state=state,
        spool=spool,
        client=base.client,
        transfers=transfers(most=settings.prefetch, urgent=False),
        callbacks=base.callbacks,
        sender=following.replicas.me.id,
        most=settings.prefetch,
        runtime=base.runtime,
    )
    outlook = Outlook()
    dispatcher = _dispatcher(base, following, prefetcher, transfers(most=settings.max_sending, urgent=True), outlook)
    forecasts = Forecasts(state=state, spool=spool, wanted=bool(base.fleet.providers), runtime=base.runtime)
    fetcher = Fetcher(
        tasks=state.tasks,
        spool=spool,
        holdings=base.holdings,
        forecasts=forecasts,
        bounds=base.files.bounds,
        egress=EgressPolicy(allow_private=settings.zipurl_allow_private),
        runtime=base.runtime,
    )
    accounts = Accounts(state=state, authenticator=base.authenticator, runtime=base.runtime)
    return Placing(prefetcher, dispatcher, outlook, forecasts, fetcher, accounts)


def _dispatcher(
    base: Base, following: Following, prefetcher: Prefetcher, transfers: Transfers, outlook: Outlook
) -> Dispatcher:
    clock, consoles = base.runtime.clock, base.files.consoles
    return Dispatcher(
        state=base.state,
        replicas=following.replicas,
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
        attempts=following.attempts,
        waits=Waits(consoles, outlook, clock),
        max_sending=base.settings.max_sending,
        runtime=base.runtime,
    )


@dataclass(frozen=True)
class Ending:
    """The parts that carry out requests of owners, and what follows the end of a task."""

    control: Control
    submodels: Submodels
    claims: Claims
    cleaner: Cleaner
    notifier: Notifier


def end_tasks(base: Base) -> Ending:
    """Make the parts that act on requests of owners and on ends."""
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
    claims = Claims(state.store, state.tasks)
    cleaner = Cleaner(state=state, client=base.client, runtime=runtime)
    notifier = Notifier(
        state=state,
        photos=base.photos,
        egress=EgressPolicy(allow_private=settings.webhook_allow_private),
        nodes_call=bool(settings.public_address),
        runtime=runtime,
    )
    return Ending(control, submodels, claims, cleaner, notifier)
