# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How faults are injected, and undone once their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from clusterodm.testing import FakeMachine
from clusterodm.testing.simulation import CloudActor, Event, NodeActor
from clusterodm.testing.simulation.network import Link
from clusterodm.testing.world import LOSE, REFUSE, THROTTLE
from tests.simulation.cluster import ClusterActor
from tests.simulation.plan import Fault
from tests.simulation.replicas import ReplicaSet

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

#: Knobs of nodes by kind of fault: name, value as a function of the fault's amount.
_KNOBS: Final[dict[str, tuple[str, Callable[[float], float]]]] = {
    "node hangs": ("hang", lambda amount: 0.2 + amount / 2),
    "node drops uploads": ("drop", lambda amount: 0.2 + amount / 2),
    "node refuses uploads": ("refuse", lambda amount: 0.2 + amount / 2),
    "node forgets tasks": ("forget", lambda amount: 0.3 + amount / 2),
}
#: Seconds, forward; backward it is less than half of that.
_LONGEST_JUMP: Final = 10 * 86400.0
#: Seconds: shorter than a call of a node may take.
_LONGEST_STALL: Final = 15.0
_FATES: Final = {"cloud loses responses": LOSE, "cloud refuses": REFUSE, "cloud throttles": THROTTLE}


class Injector:
    """Injects the faults of a plan into a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._counts: dict[str, int] = {}
        self._waiting: dict[int, Fault] = {}
        #: Events at which faults began, by their number.
        self._events: dict[int, Event] = {}
        #: Ids of machines that the cloud denies every other time.
        self._denied: set[str] = set()
        #: Called with each request to the cloud.
        self._looked: list[Callable[[web.Request, bytes, web.Response], None]] = []
        #: The address of the node that each task was on last.
        self._places: dict[str, str] = {}
        #: Faults in effect.
        self.active = 0
        scenario.history.watch(self._happened)

    async def run(self) -> None:
        """Inject everything; return once all has been undone."""
        async with asyncio.TaskGroup() as group:
            for fault in self._scenario.plan.faults:
                if fault.moment:
                    self._waiting[fault.number] = fault
                else:
                    group.create_task(self._at(fault))
            await asyncio.sleep(self._scenario.plan.seconds)
            self._waiting.clear()
        while self.active:
            await asyncio.sleep(1.0)

    def _happened(self, event: Event) -> None:
        if node := event.details.get("node"):
            self._places[event.subject] = str(node).partition(":")[0]
        count = self._counts[event.kind] = self._counts.get(event.kind, 0) + 1
        for fault in list(self._waiting.values()):
            if fault.moment == event.kind and fault.nth == count:
                del self._waiting[fault.number]
                self._events[fault.number] = event
                loop = self._scenario.simulation.loop
                loop.call_later(fault.after, self._start, fault, context=self._scenario.context)

    def _start(self, fault: Fault) -> None:
        self.active += 1
        work = self._inject(fault)
        self._scenario.simulation.loop.create_task(work).add_done_callback(lambda task: task.result())

    async def _at(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        self.active += 1
        await self._inject(fault)

    async def _inject(self, fault: Fault) -> None:
        self._scenario.history.add("world", "fault begins", "", fault=str(fault))
        try:
            await self._carry_out(fault)
        finally:
            self.active -= 1
            self._scenario.history.add("world", "fault ends", "", fault=fault.number)

    async def _carry_out(self, fault: Fault) -> None:
        kind = fault.kind
        cluster = self._scenario.cluster
        if isinstance(cluster, ReplicaSet) and kind.startswith(("replica", "database")):
            await cluster.suffer(fault)
        elif kind.startswith("cluster"):
            await self._cluster(fault)
        elif kind in _KNOBS:
            name, value = _KNOBS[kind]
            await self._knob(fault, name, value(fault.amount))
        elif kind in ("node slow", "node stalls"):
            await self._slow(fault)
        elif kind == "node runs out of memory":
            await self._knob(fault, "fail", "memory")
        elif kind.startswith("node"):
            await self._node(fault)
        elif kind == "webhook fails":
            self._scenario.webhooks.failing = True
            await asyncio.sleep(fault.seconds)
            self._scenario.webhooks.failing = False
        elif kind.startswith(("cloud", "machine")):
            await self._cloud(fault)
        else:
            await self._link(fault)

    async def _cluster(self, fault: Fault) -> None:
        cluster = self._process(fault)
        if fault.kind == "cluster clock jumps":
            jump = (fault.amount - 0.3) * _LONGEST_JUMP
            cluster.host.ahead += jump
            self._scenario.history.add("cluster", "clock jumps", seconds=round(jump))
            return
        if fault.kind == "cluster restarted":
            await cluster.stop()
        elif fault.kind == "cluster loses power":
            cluster.lose_power()
        else:
            cluster.kill()
        await asyncio.sleep(fault.seconds / 4)
        cluster.start()

    def _process(self, fault: Fault) -> ClusterActor:
        """Return the process of the cluster that a fault hits."""
        cluster = self._scenario.cluster
        return cluster.hit(fault) if isinstance(cluster, ReplicaSet) else cluster

    def _target(self, fault: Fault) -> NodeActor | None:
        """Return the node that the fault's event is about, or the one that its number stands for."""
        nodes: list[NodeActor] = [
            *self._scenario.nodes,
            *(self._scenario.cloud.nodes.values() if self._scenario.cloud else ()),
        ]
        if event := self._events.get(fault.number):
            names = {event.actor, self._places.get(event.subject, "")}
            for node in nodes:
                if names & {node.name, node.host.address}:
                    return node
        return nodes[fault.target % len(nodes)] if nodes else None

    def _machine(self, fault: Fault) -> FakeMachine | None:
        """Return the machine that the fault's event is about, or the one that its number stands for."""
        machines = list(self._scenario.cloud.machines.values()) if self._scenario.cloud is not None else []
        if event := self._events.get(fault.number):
            for machine in machines:
                if machine.name in (event.subject, event.actor):
                    return machine
        return machines[fault.target % len(machines)] if machines else None

    async def _slow(self, fault: Fault) -> None:
        """Delay a node's requests, so that later ones overtake earlier ones: each by another time, or, while it
        stalls, all until it goes on."""
        node, chance = self._target(fault), self._scenario.simulation.chance(f"fault {fault.number}")
        if node is None:
            return
        now = self._scenario.simulation.loop.time
        stalls = fault.kind == "node stalls"
        end = now() + (min(fault.seconds, _LONGEST_STALL) if stalls else fault.seconds)
        while now() < end:
            longest = 0.2 if stalls else 0.2 + 8 * fault.amount
            node.knobs.slow = (end - now() if stalls else 0.0) + chance.uniform(0.0, longest)
            await asyncio.sleep(chance.uniform(0.05, 0.3))
        node.knobs.slow = 0.0

    async def _knob(self, fault: Fault, name: str, value: Any) -> None:
        node = self._target(fault)
        if node is not None:
            setattr(node.knobs, name, value)
            await asyncio.sleep(fault.seconds)
            setattr(node.knobs, name, "" if isinstance(value, str) else 0.0)

    async def _node(self, fault: Fault) -> None:
        node = self._target(fault)
        if node is None or node not in self._scenario.nodes:
            return
        if fault.kind == "node killed":
            node.kill()
        elif fault.kind == "node loses power":
            node.lose_power(wiped=fault.amount < 0.5)
        else:
            await node.stop()
        await asyncio.sleep(fault.seconds)
        node.start()

    async def _cloud(self, fault: Fault) -> None:
        cloud = self._scenario.cloud
        if cloud is None:
            return
        if fault.kind == "machine taken":
            if (machine := self._machine(fault)) is not None:
                self._scenario.history.add("world", "machine taken", machine.name)
                cloud.delete(machine)
        elif fault.kind == "cloud denies a machine":
            machine = self._machine(fault)
            if machine is not None and machine.id not in self._denied:
                await self._deny(cloud, machine, fault.seconds)
        elif fault.kind == "machine dead on arrival":
            cloud.dead_on_arrival = True
            await asyncio.sleep(fault.seconds)
            cloud.dead_on_arrival = False
        else:
            chance = self._scenario.simulation.chance(f"fault {fault.number}")
            fate = _FATES[fault.kind]
            cloud.misbehave = lambda request: fate if chance.random() < 0.3 + fault.amount / 2 else ""
            await asyncio.sleep(fault.seconds)
            cloud.misbehave = lambda request: ""

    async def _deny(self, cloud: CloudActor, machine: FakeMachine, seconds: float) -> None:
        """Let a cloud deny a machine every other time it is asked for it, as one whose parts do not agree; the machine
        is there all the time, and an order to delete it meanwhile may be lost."""

        def hide() -> None:
            cloud.machines.pop(machine.id, None)

        def show() -> None:
            if not machine.gone.is_set():
                cloud.machines[machine.id] = machine

        def looked(request: web.Request, body: bytes, response: web.Response) -> None:
            if request.method == "GET" and request.path.endswith(f"/{machine.id}"):
                hide() if machine.id in cloud.machines else show()

        self._scenario.history.add("cloud", "machine denied", machine.name)
        hide()
        self._denied.add(machine.id)
        self._looked.append(looked)
        cloud.watch = self._look
        await asyncio.sleep(seconds)
        self._looked.remove(looked)
        self._denied.discard(machine.id)
        show()

    def _look(self, request: web.Request, body: bytes, response: web.Response) -> None:
        for looked in list(self._looked):
            looked(request, body, response)

    async def _link(self, fault: Fault) -> None:
        network, node = self._scenario.simulation.network, self._target(fault)
        to_node = node is not None and (fault.amount < 0.7 or fault.kind == "one-way partition")
        # clients know only the load balancer
        cluster = (self._process(fault) if to_node else self._scenario.cluster).host.address
        other = node.host.address if node is not None and to_node else self._scenario.client_host(fault.target).address
        pairs = [(cluster, other), (other, cluster)]
        if "partition" in fault.kind:
            if fault.kind == "one-way partition":
                pairs = [pairs[fault.amount < 0.5]]
            for pair in pairs:
                network.cut(*pair)
            await asyncio.sleep(fault.seconds)
            for pair in pairs:
                network.heal(*pair)
            return
        worse = (
            replace(Link(), reset=0.02 + fault.amount / 20)
            if fault.kind == "resets"
            else Link(latency=0.05, jitter=0.2 * fault.amount + 0.01, loss=fault.amount / 3, split=0.5)
        )
        for pair in pairs:
            network.links[pair] = worse
        await asyncio.sleep(fault.seconds)
        for pair in pairs:
            network.links.pop(pair, None)
