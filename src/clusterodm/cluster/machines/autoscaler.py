# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines on demand: observe the queue, the nodes and the machines, have `core.scaling` decide, and act on it.

A plan is stored before it is carried out; lifecycle.py does the rest.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.machines.lifecycle import Lifecycle
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.outlook import Outlook
from clusterodm.cluster.state.sizes import Sizes
from clusterodm.core.errors import ProviderError, StaleMachine, Throttled
from clusterodm.core.machines import PENDING_STATES, Machine, State
from clusterodm.core.names import counted_files
from clusterodm.core.placement import Needs, refusal
from clusterodm.core.scaling import Budget, Demand, Launch, MachineLoad, Rules, ScalePlan, plan
from clusterodm.core.tasks import Phase
from clusterodm.files.spool import Spool
from clusterodm.providers import BoundedProvider, Fleet
from clusterodm.store import Cost

_log = structlog.get_logger("autoscaler")

#: Seconds between two writes of costs.
_KEEP_COSTS: Final = 60.0
#: Seconds to keep machines that are gone, and costs.
_KEEP: Final = 400 * 86400.0
#: Tasks considered in one round.
_MOST: Final = 1000
#: Seconds without a file after which no machine is prewarmed for an upload.
_RESTING: Final = 900.0


@dataclass(kw_only=True, slots=True, eq=False)
class Autoscaler:
    """Launches machines for waiting tasks, and drains idle ones."""

    fleet: Fleet
    state: ClusterState
    lifecycle: Lifecycle
    spool: Spool
    outlook: Outlook
    #: The tag of the machines.
    cluster: str
    clock: Clock
    #: Problems of providers at the start, by name.
    troubles: dict[str, str] = field(init=False, default_factory=dict)
    _costs: dict[tuple[str, str, str], Cost] = field(init=False, default_factory=dict)
    _counted_at: float = field(init=False)
    _kept_at: float = field(init=False)
    _spent: tuple[str, float] = field(init=False, default=("", 0.0))

    def __post_init__(self) -> None:
        self._counted_at = self._kept_at = self.clock.steady()

    async def on_elected(self) -> None:
        """Start the clocks of idle times and costs anew, and forget what was known to be spent."""
        self.state.machines.begin()
        self._counted_at = self._kept_at = self.clock.steady()
        self._spent = ("", 0.0)

    async def check(self) -> None:
        """Check every provider once; problems are shown to operators."""
        async with asyncio.TaskGroup() as group:
            for provider in self.fleet.providers.values():
                group.create_task(self._check(provider))

    async def _check(self, provider: BoundedProvider) -> None:
        try:
            await provider.check()
        except Throttled:
            await asyncio.sleep(provider.pause.remaining)
            await self._check(provider)
        except ProviderError as error:
            _log.error("provider unusable", provider=provider.name, error=str(error))
            self.troubles[provider.name] = str(error)

    async def sweep(self) -> None:
        """One round: observe, decide, act."""
        await self._count_costs()
        if not self.fleet.providers:
            return
        self._note_idle()
        demands = [self._demand(uuid) for uuid in self.outlook.wanting[:_MOST]]
        demands += [self._demand(uuid, soon=True) for uuid in self.outlook.soon[:_MOST]]
        demands += await self._early()
        scale_plan = self.decide(demands)
        self._remark(scale_plan)
        for launch in scale_plan.launches:
            provider = self.fleet.providers[launch.offering.provider]
            if not provider.pause.remaining:  # the launch before may have begun one
                await self._launch(launch)
        for machine_id, why in scale_plan.drain.items():
            await self._drain(machine_id, why)

    def decide(self, demands: list[Demand]) -> ScalePlan:
        """Return the plan for these tasks now."""
        steady, wall = self.clock.steady(), self.clock()
        skipped = {
            offering: wall + until - steady
            for offering, until in self.lifecycle.backoff.until.items()
            if until > steady
        }
        budget = Budget(
            hourly=self.fleet.max_hourly_cost, monthly=self.fleet.max_monthly_cost, spent=self.spent_this_month
        )
        loads = [
            MachineLoad(
                machine=machine,
                busy=self.state.machines.busy(machine),
                memory=self.state.sizes.memory_of(machine.provider, machine.size),
                usable=self.state.machines.usable(machine),
            )
            for machine in self.state.machines.alive()
        ]
        rules = [_rules(provider, self.state.sizes, wall) for provider in self.fleet.providers.values()]
        return plan(demands, loads, rules, budget, skipped, wall)

    async def _early(self) -> list[Demand]:
        """Return demands of uploads that have outgrown the free nodes, if machines may be prewarmed."""
        if not any(provider.config.prewarm for provider in self.fleet.providers.values()):
            return []
        demands, now = [], self.clock()
        for entry in list(self.state.tasks.active()):
            uuid = entry.task.uuid
            if entry.task.phase is not Phase.RECEIVING or now - entry.last_activity > _RESTING:
                continue
            images = counted_files(file.name for file in await self.spool.listing(uuid))
            needs = Needs(images=images)
            free = (node for node in self.state.registry.facts() if node.free > 0 and not refusal(node, needs, now))
            mine = any(machine.task == uuid for machine in self.state.machines.alive())
            if images and (mine or next(free, None) is None):
                demands.append(Demand(task=uuid, needs=needs, early=True))
        return demands[:_MOST]

    def _demand(self, uuid: str, *, soon: bool = False) -> Demand:
        entry = self.state.tasks.get(uuid)
        task = entry.task if entry else None
        if task is None:
            return Demand(task=uuid, needs=Needs(images=0), soon=soon)
        return Demand(task=uuid, needs=Needs.of(task), soon=soon)

    def _remark(self, scale_plan: ScalePlan) -> None:
        """Update what operators and owners see of each wait."""
        remarks = dict(scale_plan.unmet)
        remarks |= {launch.task: f"machine ordered: {launch.offering}" for launch in scale_plan.launches}
        for uuid, machine_id in scale_plan.matched.items():
            machine = self.state.machines.get(machine_id)
            if machine is not None and machine.state in PENDING_STATES:
                remarks[uuid] = f"machine {machine.id} is {machine.state} for this task ({self._where(machine)})"
        self.outlook.remarks = remarks
        self.outlook.served = {*scale_plan.matched, *(launch.task for launch in scale_plan.launches)}

    def _where(self, machine: Machine) -> str:
        place = f"{machine.size} in {machine.location}" if machine.location else machine.size
        provider = self.fleet.providers.get(machine.provider)
        if provider is not None and provider.pause.remaining:
            return f"{place}; {provider.pause.text}"
        if (why := self.lifecycle.waiting.get(machine.id)) is not None:
            return f"{place}, pending at {machine.provider}{f': {why}' if why else ''}"
        return place

    async def _launch(self, launch: Launch) -> None:
        offering = launch.offering
        provider = self.fleet.providers[offering.provider]
        machine = Machine(
            id=f"clusterodm-{self.cluster}-{secrets.token_hex(4)}",
            provider=offering.provider,
            state=State.ORDERED,
            size=offering.size,
            location=offering.location,
            spot=offering.spot,
            max_images=offering.max_images,
            slots=provider.config.tasks_per_machine,
            price=offering.price,
            task=launch.task,
            token=secrets.token_hex(24),
            ordered_at=self.clock(),
            reason=launch.why,
        )
        await self.state.machines.add(machine)
        entry = self.state.tasks.get(launch.task)
        if entry is not None:
            await self.state.tasks.note(entry, f"machine {machine.id} ordered: {launch.why}")

    async def _drain(self, machine_id: str, why: str) -> None:
        machine = self.state.machines.get(machine_id)
        if machine is None or machine.state is not State.READY or machine.kept or self.state.machines.busy(machine):
            return
        try:
            await self.state.machines.advance(machine, State.DRAINING, why)
        except StaleMachine:
            return

    def _note_idle(self) -> None:
        """Record when each machine was last busy; after the clock was set back, its idle time begins anew."""
        now = self.clock()
        for machine in self.state.machines.alive():
            node = self.state.machines.node(machine)
            in_use = self.state.machines.busy(machine) or (node is not None and node.prefetches)
            if machine.state is State.READY and (in_use or machine.idle_since > now):
                self.state.machines.touch(machine, now)

    # Costs

    @property
    def spent_this_month(self) -> float:
        """The cost of machines this month so far."""
        month, stored = self._spent
        return stored + sum(cost.amount for cost in self._costs.values() if cost.month == month)

    async def read_costs(self) -> None:
        """Read what was spent this month, on replicas that do not count it."""
        month = time.strftime("%Y-%m", time.gmtime(self.clock()))
        self._spent = (month, await self.state.store.spent(month))

    async def _count_costs(self) -> None:
        now, month = self.clock.steady(), time.strftime("%Y-%m", time.gmtime(self.clock()))
        seconds, self._counted_at = now - self._counted_at, now
        if self._spent[0] != month:
            self._spent = (month, await self.state.store.spent(month))
        for machine in self.state.machines.alive():
            if machine.state is not State.ORDERED and machine.id not in self.lifecycle.waiting:
                self._charge(machine, month, seconds)
        if now - self._kept_at >= _KEEP_COSTS:
            self._kept_at = now
            await self.keep_costs()

    def _charge(self, machine: Machine, month: str, seconds: float) -> None:
        """Charge time on a machine to the tasks on it, in equal parts."""
        owners = {entry.task.uuid: entry.task.owner for entry in self.state.machines.entries(machine)} or {"": ""}
        part = seconds / len(owners)
        for uuid, owner in owners.items():
            key = (month, machine.id, uuid)
            cost = self._costs.get(key) or Cost(
                month=month, machine=machine.id, task=uuid, owner=owner, seconds=0.0, amount=0.0
            )
            self._costs[key] = msgspec.structs.replace(
                cost, seconds=cost.seconds + part, amount=cost.amount + part * machine.price / 3600
            )

    async def keep_costs(self) -> None:
        """Store the costs so far."""
        costs, self._costs = self._costs, {}
        if costs:
            await self.state.store.charge(costs.values())
            oldest = time.strftime("%Y-%m", time.gmtime(self.clock() - _KEEP))
            await self.state.store.forget_machines(self.clock() - _KEEP, month=oldest)
            month, stored = self._spent
            self._spent = (month, stored + sum(cost.amount for cost in costs.values() if cost.month == month))


def _rules(provider: BoundedProvider, sizes: Sizes, now: float) -> Rules:
    config = provider.config
    here = time.localtime(now)
    windows = config.windows
    minute = here.tm_hour * 60 + here.tm_min
    ready = config.min_ready if not windows or any(each.has(here.tm_wday, minute) for each in windows) else 0
    return Rules(
        name=provider.name,
        offerings=provider.offerings,
        min_images=config.min_images,
        max_machines=config.machines_limit,
        slots=config.tasks_per_machine,
        idle_timeout=config.idle_timeout,
        paid_hours=config.paid_hours,
        ready=ready,
        prewarm=config.prewarm,
        paused=provider.pause.text,
        memory={size.slug: sizes.memory_of(provider.name, size.slug) for size in config.image_size_mapping},
    )
