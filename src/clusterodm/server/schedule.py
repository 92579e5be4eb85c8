# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What runs when: before the first loop, in every replica, and only where the leadership is held."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.aio import every
from clusterodm.cluster.context import Context
from clusterodm.cluster.nodes.discovery import Discovery
from clusterodm.cluster.nodes.importer import Importer
from clusterodm.cluster.replicas import Loops
from clusterodm.cluster.tasks.accounts import Accounts
from clusterodm.cluster.tasks.cleaner import Cleaner
from clusterodm.cluster.tasks.fetcher import Fetcher
from clusterodm.cluster.tasks.janitor import Janitor
from clusterodm.cluster.tasks.notifier import Notifier
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.cluster.tasks.reclaimer import Reclaimer

#: Seconds between two times that progress reaches the store (and with it other replicas), between two rounds of the
#: janitor, between two looks at nodes that leave and at lists of nodes, at what machines are needed, at submodels
#: that wait in vain, and between two searches for orphans.
_FLUSH = 5.0
_FLUSH_SHARED = 1.0
_SWEEP = 60.0
_DRAIN = 5.0
_DISCOVER = 2.0
_SCALE = 1.0
_STANDSTILL = 5.0
_REAP = 120.0
#: Seconds between two looks for what dead replicas left, and for which a part must not have grown.
_REMAINS = 300.0
_RESTED = 3600.0


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Parts that nothing but the schedule knows."""

    prefetcher: Prefetcher
    importer: Importer
    discovery: Discovery
    fetcher: Fetcher
    cleaner: Cleaner
    notifier: Notifier
    accounts: Accounts
    janitor: Janitor
    reclaimer: Reclaimer


class Schedule:
    """The loops of one process."""

    def __init__(self, context: Context, workers: Workers) -> None:
        self._context = context
        self._workers = workers

    async def prepare(self) -> None:
        """Before the first loop: memory is filled from the store, and the leadership begins if nobody else has it."""
        context = self._context
        await context.spool.measure()
        await context.strays.trash.measure()
        await context.registry.load()
        await context.tasks.load()
        await context.claims.load()
        await context.fair.load()
        await context.machines.load()
        await context.sizes.load()
        await context.replicas.begin(self._take_up)

    async def _take_up(self) -> None:
        """The leadership begins: know what others knew, and go on with all that is under way."""
        context, workers = self._context, self._workers
        if context.store.shared:
            await context.replicas.reload()
            await context.fair.load()
            await context.sizes.load()
        await self._drop_remains()
        if await workers.importer.run():
            await context.tasks.reload()
        await workers.discovery.look_at_file()
        context.autoscaler.begin()
        await context.dispatcher.on_elected()
        workers.prefetcher.on_elected()
        context.tracker.on_elected()
        workers.fetcher.on_elected()
        await context.submodels.sweep()
        await workers.cleaner.on_elected()
        await workers.notifier.on_elected()
        await workers.accounts.on_elected()
        context.lifecycle.on_elected()

    async def _drop_remains(self) -> None:
        """Delete what dead processes left: files that they were receiving, and uuids that they had taken. A process
        that is only slow to give a sign of life must not lose what it is working on."""
        context = self._context
        rested = _RESTED if context.store.shared else 0.0
        await context.spool.drop_parts(context.replicas.alive, rested=rested)
        await context.results.drop_parts(context.replicas.alive, rested=rested)
        if context.store.shared:
            await context.store.drop_locks()

    async def settle(self) -> None:
        """Before the loops end: what would be done twice if it were cut off now."""
        await self._workers.notifier.settle()

    async def _follow(self) -> None:
        """Read again what other replicas count, and forget what counts no more."""
        context = self._context
        if context.replicas.leads:
            await context.store.drop_accounts(context.clock())
        else:
            await context.autoscaler.read_costs()
            await context.sizes.load()
        await context.fair.load()

    def loops(self) -> Loops:
        """What every process does."""
        context = self._context
        return {
            "registry": context.registry.run,
            "freshness": context.tasks.freshness.run,
            "dispatcher": context.dispatcher.run,
            "prefetch sends": self._workers.prefetcher.send,
            "room": self._workers.reclaimer.run,
            "measure": lambda: every(_SWEEP, context.spool.measure, "spool"),
            "figures": lambda: every(_SWEEP, self._follow, "figures"),
            "beat": context.replicas.beat,
            "listen": context.replicas.listen,
            "follow": context.replicas.follow,
            "duties": lambda: context.replicas.run(self._take_up, self._duties()),
        }

    def _duties(self) -> Loops:
        """What one process does for all."""
        context, workers = self._context, self._workers
        flush = _FLUSH_SHARED if context.store.shared else _FLUSH
        return {
            "tracker": context.tracker.run,
            "prefetch": workers.prefetcher.run,
            "fetcher": workers.fetcher.run,
            "cleaner": workers.cleaner.run,
            "notifier": workers.notifier.run,
            "submodels": context.submodels.run,
            "standstill": lambda: every(_STANDSTILL, context.submodels.give_back, "submodels"),
            "split-merge jobs": lambda: every(_SWEEP, context.submodels.sweep, "submodels"),
            "accounts": workers.accounts.run,
            "lifecycle": context.lifecycle.run,
            "sizes": context.sizes.run,
            "providers": context.autoscaler.check,
            "autoscaler": lambda: every(_SCALE, context.autoscaler.sweep, "autoscaler"),
            "reaper": lambda: every(_REAP, context.reaper.sweep, "reaper"),
            "janitor": lambda: every(_SWEEP, workers.janitor.sweep, "janitor"),
            "drainer": lambda: every(_DRAIN, context.drainer.sweep, "drainer"),
            "discovery": lambda: every(_DISCOVER, workers.discovery.sweep, "discovery"),
            "nodes": lambda: every(_SWEEP, context.registry.forget_removed, "registry"),
            "remains": lambda: every(_REMAINS, self._drop_remains, "remains"),
            "flush": lambda: every(flush, context.tasks.flush, "flush"),
        }
