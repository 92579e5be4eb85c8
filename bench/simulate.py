# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The real scheduler, retry policy, autoscaler and store, driven by a simulated clock.

    python -m bench.simulate [--nodes 10000] [--tasks 1000000] [--owners 1000] [--quick]

Nodes, machines and photogrammetry are simulated; who is next, which node, what follows a failure and which machines are
ordered is scale_plan by `core.scheduling`, `core.placement`, `core.retry` and `core.scaling` as in production. Every
`EVERY`th task is also taken through a real SQLite store, transition by transition. Writes docs/scaling-data.md and
three pictures. Smaller runs replay one trace in turn and in launch of commit, to have something to compare with.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import math
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bench.simulation_report import EVERY, HOUR, Report, World, pictures, table
from clusterodm.core.fairness import Ledger, Usage, length
from clusterodm.core.machines import Machine, State
from clusterodm.core.nodes import NodeFacts
from clusterodm.core.placement import FreeSlots, Needs
from clusterodm.core.retry import RULES, Again, Circumstances, Failure, decide
from clusterodm.core.scaling import Budget, Demand, MachineLoad, Offering, Rules
from clusterodm.core.scaling import plan as plan_machines
from clusterodm.core.scheduling import plan
from clusterodm.core.tasks import Attempt, Outcome, Phase, Stage, Task, node_uuid
from clusterodm.store import Store

TICK = 120.0
BOOT = 180.0
#: Mean of the logarithm of a task's images: half have fewer than a hundred, a few have thousands.
LOG_IMAGES = 4.6
SIZES = (100, 500, 2000, 10_000)
#: Chances an hour that a node stops answering, and that a machine is taken away.
NODE_FAILS, MACHINE_TAKEN = 0.002, 0.005
#: Chances that a task ends with an error of its own, or runs out of memory.
WRONG, MEMORY = 0.01, 0.005


class Simulation:
    """One run."""

    def __init__(self, world: World, store: Store | None) -> None:
        self.world = world
        self.store = store
        self.report = Report()
        self.random = random.Random(world.seed)
        self.now = 0.0
        self.active: dict[str, Task] = {}
        self.facts: dict[int, NodeFacts] = {}
        self.machines: dict[str, Machine] = {}
        self.machine_of: dict[int, str] = {}
        self.on_node: defaultdict[int, set[str]] = defaultdict(set)
        self.node_of: dict[str, int] = {}
        self.ledger = Ledger()
        self.began: dict[str, float] = {}
        self.ends: list[tuple[float, int, str]] = []
        self.boots: list[tuple[float, str]] = []
        self.heavy = [1 / (rank + 1) for rank in range(world.owners)]
        self.made = 0
        fixed = world.nodes // 5
        for number in range(1, fixed + 1):
            self._add_node(number, SIZES[number % len(SIZES)])
        self.next_node = fixed + 1
        offerings = [
            Offering(provider="sim", size=f"s{size}", location="r", max_images=size, price=size / 1000)
            for size in SIZES
        ]
        self.rules = [Rules(name="sim", offerings=offerings, max_machines=world.nodes - fixed, idle_timeout=600.0)]
        self.stored: set[str] = set()

    def _add_node(self, number: int, size: int) -> None:
        self.facts[number] = NodeFacts(id=number, name=f"n{number}", max_images=size, total_memory=size * 30_000_000)

    # What happens

    def _arrivals(self) -> Iterable[Task]:
        """Busy by day, quiet by night; a thousand owners of very different size."""
        mean = self._duration_mean(int(math.exp(LOG_IMAGES + 0.5)))
        base = self.world.load * self.world.nodes * TICK / mean
        day = 1 + 0.5 * math.sin(2 * math.pi * self.now / (24 * HOUR))
        count = min(self.world.tasks - self.made, round(self.random.gauss(base * day, math.sqrt(base))))
        for owner in self.random.choices(range(self.world.owners), self.heavy, k=max(0, count)):
            self.made += 1
            images = min(8000, max(5, int(self.random.lognormvariate(LOG_IMAGES, 1.0))))
            at = self.now - self.random.random() * TICK
            yield Task(
                uuid=f"{self.made:08x}-0000-4000-8000-000000000000",
                owner=f"o{owner}" if self.world.fair else "all",
                name=f"o{owner}",
                phase=Phase.QUEUED,
                image_count=images,
                file_count=images,
                created_at=at,
                committed_at=at,
            )

    @staticmethod
    def _duration_mean(images: int) -> float:
        return 300.0 + 12.0 * images

    def _duration(self, task: Task) -> float:
        return self._duration_mean(task.image_count) * self.random.lognormvariate(0.0, 0.3)

    async def run(self) -> Report:
        """Until every task is over."""
        began = time.monotonic()
        while self.made < self.world.tasks or self.active:
            self.now += TICK
            for task in self._arrivals():
                self.active[task.uuid] = task
                await self._keep_new(task)
            await self._end_tasks()
            await self._break_things()
            self._boot()
            wanting = await self._place()
            self._scale(wanting)
            self._note()
        self.report.hours = self.now / HOUR
        self.report.real_seconds = time.monotonic() - began
        return self.report

    def _note(self) -> None:
        waiting = sum(task.phase is Phase.QUEUED for task in self.active.values())
        running = len(self.active) - waiting
        self.report.course.append((self.now / HOUR, waiting, running, len(self.machines)))

    async def _place(self) -> list[str]:
        began = time.perf_counter()
        usage = Usage(self.ledger.remaining(self.now), self.began)
        free = FreeSlots(self.facts.values())
        scale_plan = plan(self.active.values(), free, self.now, max_sending=1 << 30, usage=usage)
        took = time.perf_counter() - began
        self.report.plan_seconds += took
        self.report.looks += 1
        self.report.costs.append((len(self.active), took * 1000))
        for placement in scale_plan.placements:
            self.report.decisions += 1
            task = self.active[placement.task]
            if task.attempts == 0:
                self.report.waits.append((task.name, max(0.0, self.now - task.committed_at)))
            await self._begin(task, placement.node)
        return scale_plan.wanting

    async def _begin(self, task: Task, node: int) -> None:
        number = task.attempts + 1
        attempt = Attempt(
            task=task.uuid,
            number=number,
            node_id=node,
            node_name=f"n{node}",
            node_uuid=node_uuid(task.uuid, number),
            started_at=self.now,
            sender="sim",
        )
        await self._advance(task, Phase.DISPATCHING, attempt=attempt, attempts=number)
        running = msgspec.structs.replace(attempt, stage=Stage.RUNNING)
        await self._advance(self.active[task.uuid], Phase.RUNNING, attempt=running)
        self.on_node[node].add(task.uuid)
        self.node_of[task.uuid] = node
        self.began[task.uuid] = self.now
        self._queue(node, 1)
        self.facts[node] = msgspec.structs.replace(self.facts[node], chosen_at=self.now)
        heapq.heappush(self.ends, (self.now + self._duration(task), number, task.uuid))

    def _queue(self, node: int, more: int) -> None:
        facts = self.facts.get(node)
        if facts is not None:
            self.facts[node] = msgspec.structs.replace(facts, queue=facts.queue + more)

    async def _end_tasks(self) -> None:
        while self.ends and self.ends[0][0] <= self.now:
            _, number, uuid = heapq.heappop(self.ends)
            task = self.active.get(uuid)
            if task is None or task.attempts != number or task.phase is not Phase.RUNNING:
                continue
            fate = self.random.random()
            if fate < WRONG:
                await self._fail(task, Failure.PROCESSING)
            elif fate < WRONG + MEMORY:
                await self._fail(task, Failure.MEMORY)
            else:
                await self._advance(task, Phase.COLLECTING)
                await self._over(self.active[uuid], Outcome.COMPLETED)

    async def _over(self, task: Task, outcome: Outcome) -> None:
        self._leave(task.uuid)
        await self._advance(task, Phase.FINISHED, outcome=outcome, finished_at=self.now)
        del self.active[task.uuid]
        self.report.outcomes[str(outcome)] += 1

    def _leave(self, uuid: str) -> None:
        node = self.node_of.pop(uuid, None)
        if node is not None:
            self.on_node[node].discard(uuid)
            self._queue(node, -1)
            used = length(self.began.pop(uuid), self.now)
            self.ledger.charge(self.active[uuid].owner, used, self.now)

    async def _fail(self, task: Task, failure: Failure) -> None:
        self.report.failures[failure.name] += 1
        node = self.facts.get(self.node_of.get(task.uuid, 0))
        larger = node is not None and (node.max_images or 0) < SIZES[-1]
        beside = len(self.on_node[node.id]) > 1 if node is not None else False
        around = Circumstances(max_attempts=3, larger_exists=larger, with_others=beside)
        verdict = decide(task, failure, "", self.now, around)
        if node is not None and RULES[failure].set_aside:
            until = self.now + RULES[failure].set_aside
            self.facts[node.id] = msgspec.structs.replace(node, set_aside_until=until)
        if not isinstance(verdict, Again):
            await self._over(task, Outcome.FAILED)
            return
        self._leave(task.uuid)
        changes: dict[str, Any] = {"charged": verdict.charged, "not_before": verdict.not_before, "alone": verdict.alone}
        if verdict.larger and node is not None:
            changes["larger_than"] = node.max_images or 0
        await self._advance(task, Phase.QUEUED, **changes)

    async def _break_things(self) -> None:
        """Nodes that stop answering, machines that are taken away."""
        for number in self._unlucky(NODE_FAILS):
            for uuid in list(self.on_node[number]):
                await self._fail(self.active[uuid], Failure.UNREACHABLE)
        for number in self._unlucky(MACHINE_TAKEN):
            if (name := self.machine_of.get(number)) is not None:
                for uuid in list(self.on_node[number]):
                    await self._fail(self.active[uuid], Failure.MACHINE)
                self._remove(self.machines[name])

    def _unlucky(self, chance: float) -> list[int]:
        count = len(self.facts) * chance * TICK / HOUR
        whole = int(count) + (self.random.random() < count % 1)
        return self.random.sample(list(self.facts), min(whole, len(self.facts)))

    # Machines

    def _boot(self) -> None:
        while self.boots and self.boots[0][0] <= self.now:
            _, name = heapq.heappop(self.boots)
            machine = self.machines.get(name)
            if machine is not None:
                number, self.next_node = self.next_node, self.next_node + 1
                ready = {"state": State.READY, "node_id": number, "ready_at": self.now, "idle_since": self.now}
                self.machines[name] = msgspec.structs.replace(machine, **ready)
                self.machine_of[number] = name
                self._add_node(number, machine.max_images)

    def _scale(self, wanting: list[str]) -> None:
        began = time.perf_counter()
        demands = [
            Demand(task=task.uuid, needs=Needs(images=task.image_count, larger_than=task.larger_than))
            for task in (self.active[uuid] for uuid in wanting[:1000])
        ]
        seen = []
        for name, known in self.machines.items():
            busy = len(self.on_node[known.node_id]) if known.node_id else 0
            machine = msgspec.structs.replace(known, idle_since=self.now) if busy else known
            self.machines[name] = machine
            seen.append(MachineLoad(machine=machine, busy=busy))
        scale_plan = plan_machines(demands, seen, self.rules, Budget(), {}, self.now)
        self.report.scale_seconds += time.perf_counter() - began
        for launch in scale_plan.launches:
            self.report.orders += 1
            name = f"m{self.report.orders}"
            self.machines[name] = Machine(
                id=name,
                provider="sim",
                state=State.BOOTING,
                size=launch.offering.size,
                location="r",
                max_images=launch.offering.max_images,
                task=launch.task,
                ordered_at=self.now,
            )
            heapq.heappush(self.boots, (self.now + BOOT, name))
        for name in scale_plan.drain:
            self._remove(self.machines[name])

    def _remove(self, machine: Machine) -> None:
        self.machines.pop(machine.id, None)
        self.machine_of.pop(machine.node_id, None)
        self.facts.pop(machine.node_id, None)

    # The store

    async def _keep_new(self, task: Task) -> None:
        if self.store is not None and self.made % EVERY == 0:
            self.stored.add(task.uuid)
            begun = time.perf_counter()
            await self.store.add_task(task, "committed")
            self._stored(begun)

    async def _advance(self, task: Task, to: Phase, *, attempt: Attempt | None = None, **changes: Any) -> None:
        self.report.transitions += 1
        if self.store is not None and task.uuid in self.stored:
            begun = time.perf_counter()
            await self.store.advance(task, to, at=self.now, text=str(to), attempt=attempt, **changes)
            self._stored(begun)
        self.active[task.uuid] = msgspec.structs.replace(task, phase=to, **changes)

    def _stored(self, begun: float) -> None:
        self.report.store_calls += 1
        self.report.store_seconds += time.perf_counter() - begun


async def main() -> None:
    """Simulate, write the report and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--owners", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true")
    said = parser.parse_args()
    scale = 100 if said.quick else 1
    world = World(nodes=said.nodes // scale, tasks=said.tasks // scale, owners=said.owners)
    with tempfile.TemporaryDirectory() as folder:
        store = await Store.open(f"sqlite+aiosqlite:///{folder}/db")
        report = await Simulation(world, store).run()
        await store.close()
    small = World(nodes=max(50, world.nodes // 20), tasks=max(2000, world.tasks // 20), owners=said.owners, load=1.1)
    fair = await Simulation(small, None).run()
    fifo = await Simulation(World(**{**vars(small), "fair": False}), None).run()
    text = table(world, report, fair, fifo, small)
    print(text)
    if not said.quick:
        Path("docs/scaling-data.md").write_text(text)
        pictures(report, fair, fifo, small.owners)
    lost = world.tasks - sum(report.outcomes.values())
    assert lost == 0


if __name__ == "__main__":
    asyncio.run(main())
