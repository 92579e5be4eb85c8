# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each machine on its way from the order to its end: created, waited for, watched, emptied, deleted until it is gone.

Whatever is done can be done again after a crash: the state is stored before, `create` is idempotent on the machine's
name, and what was created without our hearing of it is found by that name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from clusterodm.aio import Clock, Leadership, WorkQueue
from clusterodm.cluster.machines.absence import AbsenceTracker
from clusterodm.cluster.machines.backoff import REFUSED, STOCK_OUT, OfferingBackoff
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.core.changes import MachineChanges
from clusterodm.core.durations import span
from clusterodm.core.errors import (
    OutOfCapacity,
    ProviderError,
    Rejected,
    StaleMachine,
    StaleTask,
    Throttled,
    Unreachable,
)
from clusterodm.core.machines import ALIVE, Machine, State
from clusterodm.core.nodes import LARGEST, Origin, make_address
from clusterodm.core.retry import Failure
from clusterodm.core.scaling import Offering
from clusterodm.core.tasks import Phase
from clusterodm.providers import BoundedProvider, Fleet, MachineSpec, MachineStatus, ProviderMachine

_log = structlog.get_logger("machines")

#: Seconds after the creation in which a provider may not know its own machine yet.
_SETTLE: Final = 60.0
#: Seconds without an answer after which a node without tasks is given up with its machine.
_BROKEN: Final = 600.0


class Lifecycle:
    """Takes machines from state to state."""

    def __init__(
        self,
        fleet: Fleet,
        machines: Machines,
        registry: Registry,
        attempts: Attempts,
        *,
        cluster: str,
        interval: float,
        leadership: Leadership,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._machines = machines
        self._registry = registry
        self._attempts = attempts
        self._cluster = cluster
        self._interval = interval
        self._clock = clock
        self._absence = AbsenceTracker(cluster=cluster, interval=interval, clock=clock)
        self.blocked = OfferingBackoff(clock)
        #: When (by a clock that nobody sets) we met machines that were there before us.
        self._met_at: dict[str, float] = {}
        #: Machines that wait for room at their provider, and why, in its words.
        self.waiting: dict[str, str] = {}
        self._tries: dict[str, int] = {}
        #: Whether the node of a machine was online when we were last told.
        self._online: dict[str, bool] = {}
        self._silent_since: dict[str, float] = {}
        self._queue: WorkQueue[str] = WorkQueue("machine", self._step, concurrency=50, leadership=leadership)
        machines.watch(self._changed)
        registry.watch(self._nodes_changed)

    def on_elected(self) -> None:
        """After a restart: go on with every machine that is not gone. One that boots may have waited until now for all
        we know, where its provider lets machines wait, so its time to boot begins anew."""
        for machine in self._machines.alive():
            provider = self._fleet.providers.get(machine.provider)
            if provider is not None and provider.has_queue:
                self._met_at[machine.id] = self._clock.steady()
            self._queue.put(machine.id)

    async def run(self) -> None:
        """Work for ever."""
        await self._queue.run()

    async def delete(self, machine: Machine, why: str, *, failure: Failure = Failure.MACHINE, detail: str = "") -> None:
        """Begin to delete a machine. What is on it goes elsewhere, and nothing new goes there, not even when we are
        interrupted here and its node answers before we go on. Raises StaleMachine."""
        node = self._machines.node(machine)
        if node is not None and not node.record.draining:
            await self._registry.change(node, draining=True)
        changed = await self._machines.advance(machine, State.DELETING, why)
        await self._free(changed, failure, detail or why)

    def _changed(self, machine: Machine) -> None:
        self._absence.seen(machine.id)  # what was missed in another state, or before it was told to go, is no proof
        if machine.state in ALIVE:
            self._queue.put(machine.id)
        else:
            for kept in (self._tries, self._silent_since, self._online, self.waiting, self._met_at):
                kept.pop(machine.id, None)

    def _nodes_changed(self) -> None:
        for machine in self._machines.alive():
            node = self._machines.node(machine)
            if node is not None and node.online is not self._online.get(machine.id):
                self._online[machine.id] = node.online
                self._queue.put(machine.id)

    async def _step(self, machine_id: str) -> float | None:
        machine = self._machines.get(machine_id)
        if machine is None:
            return None
        provider = self._fleet.providers.get(machine.provider)
        if provider is None:
            _log.error("its provider is no longer configured", machine=machine.id, provider=machine.provider)
            return 60.0
        steps: dict[State, Callable[[Machine, BoundedProvider], Awaitable[float | None]]] = {
            State.ORDERED: self._create,
            State.BOOTING: self._boot,
            State.READY: self._watch,
            State.DRAINING: self._empty,
            State.DELETING: self._delete,
        }
        try:
            return await steps[machine.state](machine, provider)
        except Throttled:
            # its time goes on when it can be looked at again
            self._met_at[machine.id] = self._clock.steady() + provider.pause.left
            return provider.pause.left
        except StaleMachine as stale:
            _log.info("step is moot", machine=machine.id, why=str(stale))
            return self._interval

    # ORDERED

    async def _create(self, machine: Machine, provider: BoundedProvider) -> float | None:
        offering = _offering(machine)
        bootstrap = provider.bootstrap(machine.id, offering, token=machine.token)
        spec = MachineSpec(name=machine.id, cluster=self._cluster, offering=offering, bootstrap=bootstrap)
        try:
            made = await provider.create(spec)
        except OutOfCapacity as error:
            self.blocked.block(offering, STOCK_OUT)
            await self._machines.advance(machine, State.GONE, f"not created: no room ({error})")
        except Rejected as error:
            self.blocked.block(offering, REFUSED)
            await self._machines.advance(machine, State.DELETING, f"refused: {error}")
        except Unreachable as error:
            tries = self._tries[machine.id] = self._tries.get(machine.id, 0) + 1
            if tries <= provider.config.create_retries + 1:
                raise
            self.blocked.block(offering, STOCK_OUT)
            await self._machines.advance(machine, State.DELETING, f"it is not known whether it was created: {error}")
        else:
            await self._machines.advance(
                machine,
                State.BOOTING,
                f"created as {made.id}",
                provider_id=made.id,
                volumes=made.volumes,
                booting_at=self._clock(),
            )
        return None

    # BOOTING

    async def _boot(self, machine: Machine, provider: BoundedProvider) -> float | None:
        found = await self._absence.look(machine, provider)
        age = self._clock.age(machine.booting_at)
        if machine.id in self._met_at:
            age = min(age, self._clock.steady() - self._met_at[machine.id])
        if found is not None and machine.id in self.waiting and found.status is not MachineStatus.WAITING:
            age = 0.0
        if found is None or found.status is MachineStatus.ENDING:
            if found is None and age < _SETTLE:
                return self._interval
            self.blocked.block(_offering(machine), STOCK_OUT)
            await self.delete(machine, "it vanished while it booted")
            return None
        if found.status is MachineStatus.WAITING:
            return await self._wait(machine, found, provider)
        machine = await self._begun(machine)
        reported = self._reported(machine)
        if (found.address or reported is not None) and not machine.node_id:
            machine = await self._introduce(machine, found, provider, reported)
        node = self._machines.node(machine)
        if node is not None and node.online:
            now = max(self._clock(), machine.ordered_at)
            self.blocked.worked(_offering(machine))
            why = f"its node answers after {span(max(0.0, age))}"
            await self._machines.advance(machine, State.READY, why, ready_at=now, idle_since=now)
            return None
        if age <= provider.config.boot_timeout or await self._answers(node):
            return self._interval
        self.blocked.block(_offering(machine), STOCK_OUT)
        await self.delete(machine, f"its node did not answer within {span(provider.config.boot_timeout)}")
        return None

    async def _answers(self, node: Node | None) -> bool:
        """Whether a node answers at the last moment; if not, it gets nothing from then on."""
        if node is not None:
            await self._registry.change(node, draining=True)
            if node.online:
                await self._registry.change(node, draining=False)
        return node is not None and node.online

    async def _wait(self, machine: Machine, found: ProviderMachine, provider: BoundedProvider) -> float | None:
        """It waits for room at its provider, which may take longer than to boot, or for ever."""
        if machine.id not in self.waiting or self.waiting[machine.id] != found.reason:
            self.waiting[machine.id] = found.reason
            _log.info("waits at its provider", machine=machine.id, why=found.reason)
        limit = provider.config.pending_timeout
        if found.unsatisfiable or self._clock.age(machine.booting_at) > limit:
            self.blocked.block(_offering(machine), REFUSED if found.unsatisfiable else STOCK_OUT)
            much = "would wait for ever" if found.unsatisfiable else f"waited for {span(limit)}"
            await self.delete(machine, f"it {much} at its provider: {found.reason or 'no reason is known'}")
            return None
        return self._interval

    async def _begun(self, machine: Machine) -> Machine:
        """One that waited begins to boot only now."""
        if self.waiting.pop(machine.id, None) is None:
            return machine
        return await self._machines.change(machine, booting_at=self._clock())

    def _reported(self, machine: Machine) -> Node | None:
        """The node that registered itself as that of the machine, and knows the token that only that one was told."""
        for node in self._registry.nodes():
            if node.record.labels.get("machine") == machine.id and node.address.token == machine.token:
                return node
        return None

    async def _introduce(
        self, machine: Machine, found: ProviderMachine, provider: BoundedProvider, reported: Node | None
    ) -> Machine:
        most = max(offering.max_images for each in self._fleet.providers.values() for offering in each.offerings)
        largest = {LARGEST: "true"} if machine.max_images >= most else {}
        address = (
            reported.address
            if reported is not None
            else make_address(found.address, found.port or provider.node_port, machine.token)
        )
        node = await self._registry.add(
            address,
            origin=Origin.AUTOSCALER,
            slots=machine.slots,
            labels={"machine": machine.id, "provider": machine.provider, **largest},
            ends_at=found.ends_at,
            drain_before=provider.config.drain_before if found.ends_at else 0.0,
        )
        await self._registry.change(node, locked=False, draining=False)  # an address may have been another machine's
        return await self._machines.change(
            machine, node_id=node.record.id, address=address.host, volumes=found.volumes or machine.volumes
        )

    # READY and DRAINING

    async def _watch(self, machine: Machine, provider: BoundedProvider) -> float | None:
        if await self._lost(machine, provider) or await self._overdue(machine, provider):
            return None
        node = self._machines.node(machine)
        if node is not None and await self._ending(machine, node):
            return None
        if node is None or node.online or self._machines.busy(machine):
            self._silent_since.pop(machine.id, None)
        else:
            since = self._silent_since.setdefault(machine.id, self._clock.steady())
            if self._clock.steady() - since > _BROKEN:
                await self.delete(machine, f"its node has not answered for {span(_BROKEN)}, and no task is on it")
                return None
        return self._interval * 3

    async def _empty(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """A machine that is to go is deleted once nothing is on it, by two looks: ours and its node's own word."""
        node = self._machines.node(machine)
        if node is not None and not node.record.draining:
            await self._registry.change(node, draining=True)
            self._registry.look(node)
            return self._interval
        if self._machines.busy(machine):
            return self._interval if not await self._lost(machine, provider) else None
        await self._machines.advance(machine, State.DELETING, machine.reason)
        return None

    async def _lost(self, machine: Machine, provider: BoundedProvider) -> bool:
        """Whether the provider says, again and again, that the machine is no longer; then it is given up. A machine
        whose node answers is there, whatever its provider says, unless that is about to take it away."""
        found = await self._absence.look(machine, provider)
        node = self._machines.node(machine)
        answers = node is not None and node.online and (found is None or found.status is not MachineStatus.ENDING)
        if answers or (found is not None and found.status in (MachineStatus.RUNNING, MachineStatus.STARTING)):
            self._absence.seen(machine.id)
            return False
        if not self._absence.missed(machine, self._interval):
            return False
        gone = "is not there any more" if found is None else f"is {found.status}"
        await self.delete(machine, f"its provider says that it {gone}")
        return True

    async def _overdue(self, machine: Machine, provider: BoundedProvider) -> bool:
        """Whether a task is on it for longer than configured; then the machine goes, and the task goes on elsewhere."""
        config = provider.config
        for entry in self._machines.entries(machine):
            if (there := entry.on_node) is None:
                continue
            age = self._clock.age(there.attempt.started_at)
            sending = there.task.phase is Phase.DISPATCHING
            limit = config.max_upload_time if sending else config.max_runtime
            if 0 < limit < age:
                failure = Failure.UPLOAD if sending else Failure.RUNTIME
                await self.delete(machine, str(failure), failure=failure, detail=span(limit))
                return True
        return False

    async def _ending(self, machine: Machine, node: Node) -> bool:
        """Whether the time that its provider gave it is over: what runs there is lost anyhow, and goes elsewhere."""
        ends_at = node.record.ends_at
        if not ends_at or self._clock() < ends_at - 2 * self._interval:
            return False
        await self.delete(machine, "the time that its provider gave it is over", failure=Failure.RUNTIME)
        return True

    # DELETING

    async def _delete(self, machine: Machine, provider: BoundedProvider) -> float | None:
        await self._free(machine, Failure.MACHINE, machine.reason)
        node = self._machines.node(machine)
        if node is not None and not node.record.removed:
            await self._registry.remove(node)
        if not machine.provider_id:
            return await self._delete_unknown(machine, provider)
        known = ProviderMachine(
            id=machine.provider_id,
            name=machine.id,
            status=MachineStatus.ENDING,
            location=machine.location,
            volumes=machine.volumes,
        )
        await provider.delete(known)
        if await provider.get(machine.provider_id, machine.location) is not None:
            self._absence.seen(machine.id)
            return self._interval
        if not self._absence.missed(machine, self._interval):
            return self._interval
        if machine.volumes:
            await provider.delete(known)  # only now are its disks free to go
        if node is not None:
            await self._registry.forget(node)
        await self._machines.advance(machine, State.GONE, machine.reason)
        return None

    async def _delete_unknown(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """It may have been created without our hearing of it, and may take a while to be listed."""
        named = [found for found in await provider.list_machines(self._cluster) if found.name == machine.id]
        for found in named:
            await provider.delete(found)
        if named:
            self._absence.seen(machine.id)
            volumes = [volume for found in named for volume in found.volumes]
            changes: MachineChanges = {"volumes": volumes}
            if len(named) == 1:
                changes["provider_id"] = named[0].id
            await self._machines.change(machine, **changes)
            return self._interval
        if not self._absence.missed(machine, _SETTLE):
            return max(self._interval, _SETTLE / 2)
        await self._machines.advance(machine, State.GONE, machine.reason)
        return None

    async def _free(self, machine: Machine, failure: Failure, why: str) -> None:
        """Take all tasks from a machine that goes; those that are not finished there go on elsewhere."""
        await self._attempts.rescue(self._machines.entries(machine))
        for entry in self._machines.entries(machine):
            try:
                await self._attempts.failed(entry, failure, why)
            except (StaleTask, ProviderError) as error:
                _log.info("its task has changed", machine=machine.id, task=entry.task.uuid, why=str(error))


def _offering(machine: Machine) -> Offering:
    return Offering(
        provider=machine.provider,
        size=machine.size,
        location=machine.location,
        spot=machine.spot,
        max_images=machine.max_images,
        price=machine.price,
    )
