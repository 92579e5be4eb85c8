# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which machines to launch and which to drain, decided from one snapshot of everything.

A task that waits for a slot is first matched with pending and idle machines, one task for each of their slots; the rest
get a machine of the smallest size that takes them, within all limits, from the first offering that is not known to be
out of stock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from clusterodm.core.durations import elapsed, span
from clusterodm.core.machines import ALIVE, PENDING_STATES, Machine, State
from clusterodm.core.placement import Capacity, Needs

#: Seconds before the end of a paid hour at which an idle machine is drained, so that it is deleted in time.
_BEFORE_THE_HOUR: Final = 180.0
HOUR: Final = 3600.0


class Offering(msgspec.Struct, frozen=True, kw_only=True):
    """One size in one place and market that can be launched."""

    provider: str
    size: str
    location: str
    spot: bool = False
    max_images: int
    #: Per hour; 0: unknown.
    price: float = 0.0

    @classmethod
    def of(cls, machine: Machine) -> Offering:
        """Return the offering that a machine was launched from."""
        return cls(
            provider=machine.provider,
            size=machine.size,
            location=machine.location,
            spot=machine.spot,
            max_images=machine.max_images,
            price=machine.price,
        )

    def __str__(self) -> str:
        market = ", spot" if self.spot else ""
        place = f" in {self.location}" if self.location else ""
        return f"{self.size}{place} ({self.provider}{market})"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one provider. -1: no limit."""

    name: str
    #: In the order in which they are tried, smallest size first.
    offerings: list[Offering]
    #: Tasks of fewer images wait for other nodes.
    min_images: int = 0
    max_machines: int = -1
    slots: int = 1
    #: Seconds of idleness after which a machine is drained; with paid hours, towards the end of one.
    idle_timeout: float = 300.0
    paid_hours: bool = False
    #: Idle machines to keep ready now.
    ready: int = 0
    #: Bytes of memory by size, where known.
    memory: dict[str, int] = {}
    #: Launch machines during uploads.
    prewarm: bool = False
    #: Why the provider cannot be called now; empty if it can.
    paused: str = ""

    def capacity(self, offering: Offering) -> Capacity:
        """Return what an offering takes."""
        return Capacity(offering.max_images, self.memory.get(offering.size, 0))


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Cost limits over all providers; None: no limit."""

    hourly: float | None = None
    monthly: float | None = None
    #: Spent this month so far.
    spent: float = 0.0


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """A task that waits because no slot is free for it."""

    task: str
    needs: Needs
    #: It will need a slot shortly: keep a machine for it, but launch none.
    soon: bool = False
    #: It is still being uploaded: launch for it only with `prewarm`, and once at most.
    early: bool = False


class MachineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A machine and the load of its node."""

    machine: Machine
    #: Its tasks by the records of the cluster or by its node, whichever is more.
    busy: int = 0
    #: Bytes of memory; 0: unknown.
    memory: int = 0
    #: True if its node is online and schedulable, or not registered yet.
    usable: bool = True


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A machine to launch, for a task or (empty) to be kept ready."""

    offering: Offering
    task: str
    why: str


class ScalePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions from one snapshot. `unmet`: why a task gets no machine, by task; `drain`: why to drain a
    machine, by id."""

    launches: list[Launch] = []
    drain: dict[str, str] = {}
    unmet: dict[str, str] = {}
    #: The machine that each waiting task will get.
    matched: dict[str, str] = {}


def plan(
    demands: Iterable[Demand],
    machines: Iterable[MachineLoad],
    rules: Iterable[Rules],
    budget: Budget,
    blocked: Mapping[Offering, float],
    now: float,
) -> ScalePlan:
    """Decide. `demands` are in the order of the queue; `blocked` maps offerings to the time before which to skip
    them."""
    alive = [load for load in machines if load.machine.state in ALIVE]
    ledger = _Ledger(alive, list(rules), budget, blocked, now)
    scale_plan = ScalePlan()
    room = {load.machine.id: _room(load) for load in alive}
    able = _Room(alive, room)
    by_task = {load.machine.task for load in alive}
    for demand in demands:
        machine = able.take(demand)
        if machine is not None:
            scale_plan.matched[demand.task] = machine.id
            continue
        if demand.soon or (demand.early and demand.task in by_task):
            continue
        offering, why = ledger.choose(demand)
        if offering is None:
            scale_plan.unmet[demand.task] = why
        else:
            scale_plan.launches.append(Launch(offering=offering, task=demand.task, why=why))
    wanted = set(scale_plan.matched.values())
    for rule in ledger.rules:
        _keep_ready(rule, alive, room, wanted, ledger, scale_plan)
    return scale_plan


def _room(load: MachineLoad) -> int:
    """Return the tasks that a machine can take now or once it is ready."""
    ready = load.machine.state is State.READY and load.usable
    return max(0, load.machine.slots - load.busy) if ready or load.machine.state in PENDING_STATES else 0


class _Room:
    """Machines with room, smallest size first and ready ones before pending ones. Counts down `left`, the room of
    each."""

    def __init__(self, alive: list[MachineLoad], room: dict[str, int]) -> None:
        self._room_of = room
        able = (load for load in alive if room[load.machine.id] > 0)
        self._able = sorted(able, key=lambda load: _size_first(load.machine))
        self._ordered: dict[str, list[MachineLoad]] = {}
        for load in self._able:
            self._ordered.setdefault(load.machine.task, []).append(load)

    def take(self, demand: Demand) -> Machine | None:
        """Return the machine for a waiting task: the one launched for it, else the smallest that fits, ready ones
        first."""
        own = self._first(self._ordered.get(demand.task, []), demand, 0)
        if own is not None:
            return own
        # skip those that are too small
        begin = bisect_left(self._able, demand.needs.images, key=lambda load: load.machine.max_images)
        return self._first(self._able, demand, begin)

    def _first(self, able: list[MachineLoad], demand: Demand, begin: int) -> Machine | None:
        for place in range(begin, len(able)):
            load, machine = able[place], able[place].machine
            full = self._room_of[machine.id] <= 0
            fits = demand.needs.fits(Capacity(machine.max_images, load.memory))
            if not full and fits and not 0 < load.memory < demand.needs.memory:
                self._room_of[machine.id] -= 1
                if not self._room_of[machine.id]:
                    del able[place]
                return machine
        return None


def _size_first(machine: Machine) -> tuple[int, bool, str]:
    return machine.max_images, machine.state in PENDING_STATES, machine.id


class _Ledger:
    """Counts existing machines and those launched within one plan."""

    def __init__(
        self,
        alive: list[MachineLoad],
        rules: list[Rules],
        budget: Budget,
        blocked: Mapping[Offering, float],
        now: float,
    ) -> None:
        self.rules = rules
        self.now = now
        self._budget = budget
        self._blocked = blocked
        self._count = {rule.name: 0 for rule in rules}
        self._hourly = 0.0
        for load in alive:
            self._hourly += load.machine.price
            if load.machine.provider in self._count:
                self._count[load.machine.provider] += 1

    def choose(self, demand: Demand) -> tuple[Offering | None, str]:
        """Return the offering for a task, which then counts as launched, and why; or None and why not."""
        reasons: list[str] = []
        for rule in self.rules:
            why = self._refusal(rule, demand)
            offering = None if why else self._first(rule, demand, reasons)
            if offering is not None:
                self._take(offering)
                cause = "upload in progress" if demand.early else "no free slot"
                needs = demand.needs
                memory = f" and {needs.memory / 1e9:.1f} GB, as similar tasks used" if needs.memory else ""
                size = f"smallest size for {needs.images} images{memory}"
                return offering, f"{cause}; {size}: {offering}{_cost(offering.price)}"
            if why:
                reasons.append(why)
        return None, "; ".join(dict.fromkeys(reasons))

    def warm(self, rule: Rules) -> Offering | None:
        """Return the smallest offering that may be launched to be kept ready; it then counts as launched."""
        if self._full(rule):
            return None
        offering = next((offering for offering in rule.offerings if not self._why_not(offering)), None)
        if offering is not None:
            self._take(offering)
        return offering

    def _take(self, offering: Offering) -> None:
        self._count[offering.provider] += 1
        self._hourly += offering.price

    def _refusal(self, rule: Rules, demand: Demand) -> str:
        if demand.early and not rule.prewarm:
            return f"{rule.name} has no prewarm"
        if demand.needs.images < rule.min_images:
            return f"{rule.name} takes tasks of at least {rule.min_images} images"
        if not self._fitting(rule, demand):
            return f"{rule.name} has no size large enough"
        return self._full(rule)

    def _fitting(self, rule: Rules, demand: Demand) -> list[Offering]:
        return [each for each in rule.offerings if demand.needs.fits(rule.capacity(each))]

    def _full(self, rule: Rules) -> str:
        if rule.paused:
            return rule.paused
        if 0 <= rule.max_machines <= self._count[rule.name]:
            return f"{rule.name} has reached its limit of machines ({rule.max_machines})"
        return ""

    def _first(self, rule: Rules, demand: Demand, reasons: list[str]) -> Offering | None:
        fitting = self._fitting(rule, demand)
        enough = [offering for offering in fitting if not 0 < rule.capacity(offering).memory < demand.needs.memory]
        for offering in enough or fitting[-1:]:  # if none is known to suffice, try the largest
            why = self._why_not(offering)
            if not why:
                return offering
            reasons.append(why)
        return None

    def _why_not(self, offering: Offering) -> str:
        until = self._blocked.get(offering, 0.0)
        if self.now < until:
            return f"{offering.provider} had no {offering.size} available, next try in {span(until - self.now)}"
        budget = self._budget
        if budget.hourly is not None and self._hourly + offering.price > budget.hourly + 1e-9:
            return f"the hourly cost limit is {budget.hourly:g}, current machines cost {self._hourly:g}"
        if budget.monthly is not None and budget.spent >= budget.monthly:
            return f"the monthly cost limit is {budget.monthly:g}, {budget.spent:.2f} spent"
        return ""


def _cost(price: float) -> str:
    return f" at {price:g} per hour" if price else ""


def _keep_ready(
    rule: Rules,
    alive: list[MachineLoad],
    room: dict[str, int],
    wanted: set[str],
    ledger: _Ledger,
    scale_plan: ScalePlan,
) -> None:
    """Keep as many idle machines as configured, and drain those that have been idle for too long."""
    mine = [load for load in alive if load.machine.provider == rule.name and load.machine.id not in wanted]
    spare = [load for load in mine if room[load.machine.id] > 0 and not load.busy]
    missing = rule.ready - len(spare)
    for _ in range(missing):
        offering = ledger.warm(rule)
        if offering is None:
            break
        scale_plan.launches.append(
            Launch(offering=offering, task="", why=f"minReady is {rule.ready}: {offering}{_cost(offering.price)}")
        )
    quiet = [load for load in mine if load.machine.state is State.READY and not load.busy and not load.machine.kept]
    quiet.sort(key=lambda load: (load.usable, -load.machine.price, load.machine.idle_since))
    may_go = max(0, -missing) + sum(not load.usable for load in quiet)
    for load in quiet:
        if may_go and (why := _why_drain(load.machine, rule, ledger.now)):
            scale_plan.drain[load.machine.id] = why
            may_go -= 1


def _why_drain(machine: Machine, rule: Rules, now: float) -> str:
    idle = elapsed(machine.idle_since, now)
    if rule.paid_hours:
        until_full_hour = HOUR - (now - machine.ordered_at) % HOUR
        ends = idle > 60 and until_full_hour < _BEFORE_THE_HOUR
        return f"idle for {span(idle)}, paid hour about to end" if ends else ""
    return f"idle for {span(idle)}" if idle >= rule.idle_timeout else ""
