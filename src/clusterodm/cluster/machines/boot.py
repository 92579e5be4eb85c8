# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""BOOTING: wait until the machine's node is online, and register that node as soon as it has an address."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.machines.absence import AbsenceTracker
from clusterodm.cluster.machines.backoff import OfferingBackoff
from clusterodm.cluster.machines.terminate import TerminateStep
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.core.durations import span
from clusterodm.core.errors import Throttled
from clusterodm.core.machines import Machine, State
from clusterodm.core.nodes import LARGEST, Origin, make_address
from clusterodm.providers import BoundedProvider, Fleet, MachineStatus, ProviderMachine

_log = structlog.get_logger("machines")


@dataclass(kw_only=True, slots=True)
class BootStep:
    """Waits for machines to boot."""

    fleet: Fleet
    machines: Machines
    registry: Registry
    absence: AbsenceTracker
    backoff: OfferingBackoff
    terminate: TerminateStep
    interval: float
    clock: Clock
    #: Machines pending at their provider, and its reason.
    waiting: dict[str, str] = field(init=False, default_factory=dict)
    #: (Monotonic) times before which no time to boot counts, by machine.
    _since: dict[str, float] = field(init=False, default_factory=dict)

    async def step(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Look at a machine; make it ready, or terminate it when it is gone or takes too long."""
        try:
            reported = await self.absence.look(machine, provider)
        except Throttled:
            self.restart_timeout(machine, after=provider.pause.remaining)
            raise
        node = self.machines.node(machine)
        if reported is None and node is not None and node.online:
            await self._ready(machine)
            return None
        if reported is None or reported.status is MachineStatus.ENDING:
            return await self._disappeared(machine, reported)
        self.absence.present(machine.id)
        if reported.status is MachineStatus.WAITING:
            return await self._wait(machine, reported, provider)
        machine = await self._started(machine)
        registered = self._registered(machine)
        if (reported.address or registered is not None) and not machine.node_id:
            machine = await self._register(machine, reported, provider, registered)
        node = self.machines.node(machine)
        if node is not None and node.online:
            await self._ready(machine)
            return None
        if self._age(machine) <= provider.config.boot_timeout or await self._answers(node):
            return self.interval
        self.backoff.unavailable(machine)
        await self.terminate.begin(machine, f"its node was not online within {span(provider.config.boot_timeout)}")
        return None

    def restart_timeout(self, machine: Machine, *, after: float = 0.0) -> None:
        """Count a machine's time to boot from `after` seconds from now: until then it cannot be looked at."""
        self._since[machine.id] = self.clock.steady() + after

    def forget(self, machine_id: str) -> None:
        """Drop what is remembered of a machine."""
        self.waiting.pop(machine_id, None)
        self._since.pop(machine_id, None)

    def reset(self) -> None:
        """Drop what is remembered of all machines."""
        self.waiting.clear()
        self._since.clear()

    def _age(self, machine: Machine) -> float:
        age = self.clock.age(machine.booting_at)
        if age < 0:  # the clock was set back, perhaps before this process began
            return self.clock.steady() - self._since.setdefault(machine.id, self.clock.steady())
        return min(age, self.clock.steady() - self._since[machine.id]) if machine.id in self._since else age

    async def _ready(self, machine: Machine) -> None:
        now = max(self.clock(), machine.ordered_at)
        self.backoff.succeeded(machine)
        why = f"its node came online after {span(max(0.0, self._age(machine)))}"
        await self.machines.advance(machine, State.READY, why, ready_at=now, idle_since=now)

    async def _disappeared(self, machine: Machine, reported: ProviderMachine | None) -> float | None:
        settling = self._age(machine) < self.absence.settle
        if reported is None and (settling or not self.absence.absent(machine, self.interval)):
            return self.interval
        self.backoff.unavailable(machine)
        await self.terminate.begin(machine, "disappeared while booting")
        return None

    async def _wait(self, machine: Machine, reported: ProviderMachine, provider: BoundedProvider) -> float | None:
        """Leave a pending machine alone, up to the configured time; it may be pending for longer than it boots."""
        if self.waiting.get(machine.id) != reported.reason:
            self.waiting[machine.id] = reported.reason
            _log.info("pending at its provider", machine=machine.id, why=reported.reason)
        limit = provider.config.pending_timeout
        if not reported.unsatisfiable and self._age(machine) <= limit:
            return self.interval
        if reported.unsatisfiable:
            self.backoff.rejected(machine)
        else:
            self.backoff.unavailable(machine)
        cause = (
            "can never start at its provider"
            if reported.unsatisfiable
            else f"pending at its provider for {span(limit)}"
        )
        await self.terminate.begin(machine, f"{cause}: {reported.reason or 'no reason given'}")
        return None

    async def _started(self, machine: Machine) -> Machine:
        """Count the time to boot of a machine that was pending from now on."""
        if self.waiting.pop(machine.id, None) is None:
            return machine
        return await self.machines.change(machine, booting_at=self.clock())

    def _registered(self, machine: Machine) -> Node | None:
        """Return the node that registered itself for a machine, with the token that only its node was given."""
        for node in self.registry.nodes():
            if node.record.labels.get("machine") == machine.id and node.address.token == machine.token:
                return node
        return None

    async def _register(
        self, machine: Machine, reported: ProviderMachine, provider: BoundedProvider, registered: Node | None
    ) -> Machine:
        most = max(offering.max_images for each in self.fleet.providers.values() for offering in each.offerings)
        largest = {LARGEST: "true"} if machine.max_images >= most else {}
        address = (
            registered.address
            if registered is not None
            else make_address(reported.address, reported.port or provider.node_port, machine.token)
        )
        node = await self.registry.add(
            address,
            origin=Origin.AUTOSCALER,
            slots=machine.slots,
            labels={"machine": machine.id, "provider": machine.provider, **largest},
            ends_at=reported.ends_at,
            drain_before=provider.config.drain_before if reported.ends_at else 0.0,
        )
        await self.registry.change(node, locked=False, draining=False)  # the address may have been another machine's
        return await self.machines.change(
            machine, node_id=node.record.id, address=address.host, volumes=reported.volumes or machine.volumes
        )

    async def _answers(self, node: Node | None) -> bool:
        """Return True if a node is online at the last moment; if not, drain it, so that it gets nothing any more."""
        if node is not None:
            await self.registry.change(node, draining=True)
            if node.online:
                await self.registry.change(node, draining=False)
        return node is not None and node.online
