# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All loops of a process, in the order of their election work, and what comes before the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from clusterodm.admin.feed import TICK, Feed
from clusterodm.cluster.controller import Loop, Loops, Periodic, Scope, Service, Step, Work
from clusterodm.cluster.nodes.discovery import Discovery
from clusterodm.cluster.nodes.importer import Importer
from clusterodm.cluster.tasks.janitor import Janitor
from clusterodm.cluster.tasks.reclaimer import Reclaimer
from clusterodm.server.context import Context

#: Seconds between two flushes of progress to the store (and with it to other replicas).
_FLUSH: Final = 5.0
_FLUSH_SHARED: Final = 1.0
#: Seconds between two sweeps.
_SWEEP = 60.0
_DRAIN = 5.0
_DISCOVER = 2.0
_SCALE = 1.0
_STANDSTILL = 5.0
_REAP = 120.0
_REMAINS = 300.0
#: Seconds for which a part must not have grown before it counts as a leftover.
_RESTED = 3600.0


class Part(Protocol):
    """A part that brings loops of its own."""

    def loops(self) -> tuple[Loop, ...]:
        """Return them."""


class Schedule:
    """Registers the loops of one process. Election work follows the order of registration: first memory is brought up
    to date, then loops queue what they find in it."""

    def __init__(
        self,
        context: Context,
        parts: Iterable[Part],
        *,
        discovery: Discovery,
        feed: Feed,
        importer: Importer,
        janitor: Janitor,
        reclaimer: Reclaimer,
    ) -> None:
        self._context = context
        self._importer = importer
        self.loops = Loops()
        self.loops.add(*self._first(discovery))
        for part in parts:
            self.loops.add(*part.loops())
        self.loops.add(*self._leader_sweeps(janitor), *self._replica_loops(feed, reclaimer))
        self.loops.add(*context.replicas.loops(self.loops))

    def _first(self, discovery: Discovery) -> Iterator[Loop]:
        """Yield what brings memory up to date before other loops look at it."""
        autoscaler = self._context.autoscaler
        yield Step("reload", self._reload, "reads what other replicas changed, counted and learned")
        yield self._sweep(
            "remains",
            self._drop_remains,
            _REMAINS,
            "deletes what dead processes left: files that they were receiving, uuids that they had claimed",
            elected=self._drop_remains,
        )
        yield Step("import", self._import, "imports `nodes.json` and `routes.json` of the original")
        yield self._sweep(
            "discovery",
            discovery.sweep,
            _DISCOVER,
            "nodes of a watched file and of a name, leases that expire",
            elected=discovery.sync_file,
        )
        yield self._sweep(
            "autoscaler",
            autoscaler.sweep,
            _SCALE,
            "decides which machines are launched and drained (`core/scaling.py`), counts costs",
            elected=autoscaler.on_elected,
        )
        does, scope = "checks that every provider can be used", Scope.LEADER
        yield Service("providers", autoscaler.check, does, scope=scope, rhythm="once a term")

    def _leader_sweeps(self, janitor: Janitor) -> Iterator[Loop]:
        context, sweep = self._context, self._sweep
        flush = _FLUSH_SHARED if context.store.shared else _FLUSH
        submodels, reaper = context.submodels, context.reaper
        yield sweep("standstill", submodels.give_back, _STANDSTILL, "gives back submodels that wait behind their jobs")
        yield sweep("jobs", submodels.sweep, _SWEEP, "queues all jobs that have submodels")
        yield sweep("reaper", reaper.sweep, _REAP, "deletes machines with the cluster's tag that it does not know")
        yield sweep("janitor", janitor.sweep, _SWEEP, "deletes expired uploads, old tasks, files without a task")
        yield sweep("drainer", context.drainer.sweep, _DRAIN, "collects results from nodes that are about to end")
        yield sweep("nodes", context.registry.forget_removed, _SWEEP, "deletes removed nodes that no task refers to")
        yield sweep("flush", context.tasks.flush, flush, "writes progress to the store (every 1 s with replicas)")

    def _replica_loops(self, feed: Feed, reclaimer: Reclaimer) -> Iterator[Loop]:
        context, scope = self._context, Scope.REPLICA
        yield self._sweep("usage", context.spool.measure, _SWEEP, "measures held files", scope)
        yield self._sweep("figures", self._follow, _SWEEP, "reads costs, forecasts and shares of other replicas", scope)
        yield self._sweep("feed", feed.tick, TICK, "sends operators what changed", scope)
        yield Service("freshness", context.tasks.freshness.run, "answers reads by what other replicas wrote last")
        yield Service(
            "reclaimer",
            reclaimer.run,
            "makes room for uploads: abandoned ones go, then leftovers, in the order of `core/quota.py`",
        )

    def _sweep(
        self,
        name: str,
        work: Work,
        every: float,
        does: str,
        scope: Scope = Scope.LEADER,
        elected: Work | None = None,
    ) -> Periodic:
        """Return a sweep by the clock of this cluster."""
        clock = self._context.clock
        return Periodic(name, work, does, scope=scope, every=every, clock=clock, elected=elected)

    async def prepare(self) -> None:
        """Before the first loop: fill memory from the store, and become the leader if there is none."""
        context = self._context
        await context.spool.measure()
        await context.strays.files.trash.measure()
        await context.registry.load()
        await context.tasks.load()
        await context.claims.load()
        await context.fair.load()
        await context.machines.load()
        await context.forecasts.load()
        await context.replicas.begin(self.loops)

    async def _reload(self) -> None:
        context = self._context
        if context.store.shared:
            await context.replicas.reload()
            await context.fair.load()
            await context.forecasts.load()

    async def _drop_remains(self) -> None:
        """Delete what dead processes left. A process whose heartbeat is only late must not lose what it works on."""
        context = self._context
        rested = _RESTED if context.store.shared else 0.0
        await context.spool.drop_parts(context.replicas.alive, rested=rested)
        await context.results.drop_parts(context.replicas.alive, rested=rested)
        if context.store.shared:
            await context.store.drop_locks()

    async def _import(self) -> None:
        if await self._importer.run():
            await self._context.tasks.reload()

    async def _follow(self) -> None:
        """Read what other replicas count; the leader drops what no longer counts."""
        context = self._context
        if context.replicas.leads:
            await context.store.drop_accounts(context.clock())
        else:
            await context.autoscaler.read_costs()
            await context.forecasts.load()
        await context.fair.load()
