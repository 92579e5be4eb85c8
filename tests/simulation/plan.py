# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a seed stands for: a cluster with nodes and settings, tasks of clients, and faults. Each part has random numbers
of its own, so that a plan without some of its faults is otherwise the same."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, replace
from typing import Any, Final

#: Kinds of faults, with how often each is chosen.
FAULTS: Final = {
    "cluster killed": 9,
    "cluster restarted": 1,
    "cluster loses power": 1,
    "cluster clock jumps": 3,
    "node killed": 3,
    "node loses power": 2,
    "node restarted": 1,
    "node hangs": 1,
    "node slow": 4,
    "node stalls": 5,
    "node drops uploads": 2,
    "node refuses uploads": 1,
    "node forgets tasks": 2,
    "node runs out of memory": 1,
    "partition": 3,
    "one-way partition": 2,
    "bad link": 2,
    "resets": 2,
    "webhook fails": 2,
}
#: Besides those, with several replicas.
REPLICA_FAULTS: Final = {
    "replica paused": 5,
    "replica cut off from the database": 5,
    "replica's database link is bad": 1,
    "database restarted": 2,
    "database killed": 2,
    "database ends connections": 1,
}
CLOUD_FAULTS: Final = {
    "cloud loses responses": 3,
    "cloud refuses": 1,
    "cloud throttles": 1,
    "machine taken": 2,
    "machine dead on arrival": 1,
    "cloud denies a machine": 8,
}
#: Events at which a fault begins, or shortly after which; those at which much is under way come twice.
MOMENTS: Final = (
    "announced",
    "file uploaded",
    "phase queued",
    "phase dispatching",
    "phase dispatching",
    "phase running",
    "phase collecting",
    "phase finished",
    "phase finished",
    "node commit",
    "run ends",
    "webhook",
    "webhook refused",
    "ordering",
    "ordering",
    "removed",
    "fault begins",
)
MACHINE_MOMENTS: Final = (
    "machine created",
    "machine booting",
    "machine ready",
    "machine draining",
    "machine deleting",
    "run begins",
)
#: What owners do with a task.
ORDERS: Final = (
    *("", "", "", "", "cancel", "remove", "restart", "cancel and restart"),
    *("restart and restart", "restart and remove", "cancel and remove"),
)
#: Events at which an owner gives an order.
ORDER_MOMENTS: Final = (
    "phase queued",
    "phase dispatching",
    "phase dispatching",
    "node commit",
    "phase running",
    "run ends",
    "phase collecting",
    "phase finished",
)
#: Longest delays after a moment: what follows it takes microseconds on a disk, milliseconds on a network, or seconds.
_DELAYS: Final = (0.0, 0.02, 0.2, 2.0)


@dataclass(frozen=True)
class Fault:
    """One fault: at a time (or at the nth event of a kind), for some seconds, against a node by its number."""

    number: int
    kind: str
    at: float
    seconds: float
    target: int
    amount: float
    moment: str = ""
    nth: int = 0
    #: Seconds between the event and the fault.
    after: float = 0.0

    def __str__(self) -> str:
        when = f"at {self.at:.1f} s" if not self.moment else f"at {self.moment} no. {self.nth}"
        return f"fault {self.number}: {self.kind} {when} for {self.seconds:.1f} s, target {self.target}"


@dataclass(frozen=True)
class TaskPlan:
    """One task of one owner."""

    number: int
    uuid: str
    owner: str
    at: float
    sizes: tuple[int, ...]
    #: What its owner does with it: one of ORDERS.
    order: str
    #: When: at an event of the task, or of any task, if there is one, and so many seconds later.
    order_moment: str
    order_by_any: bool
    order_after: float
    #: True if an order does not wait until the one before it is carried out, or even sent.
    impatient: bool
    together: bool
    #: Seconds between two files.
    pause: float
    #: Seconds between two polls.
    poll: float
    webhook: bool
    set_uuid: bool
    #: Connections for uploads, as PyODM's parallel_uploads.
    connections: int

    @property
    def files(self) -> dict[str, bytes]:
        """The files, by name."""
        contents = {}
        for index, size in enumerate(self.sizes):
            pattern = f"{self.number}/{index};".encode()
            contents[f"{index:03d}.jpg"] = (pattern * (size // len(pattern) + 1))[:size]
        return contents


@dataclass(frozen=True)
class Plan:
    """Everything that happens from outside."""

    seed: int
    nodes: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    tasks: tuple[TaskPlan, ...]
    faults: tuple[Fault, ...]
    #: A cloud, or none: seconds that its machines take to boot.
    boot: float | None
    #: Seconds of the part with faults.
    seconds: float
    drift: float
    #: Most tasks of owner b on nodes at a time.
    concurrency: int
    #: Seconds after which an idle machine is deleted.
    idle: float
    #: Processes of the cluster: one on SQLite, or several on PostgreSQL.
    replicas: int = 1

    def only(self, faults: set[int], tasks: set[int] | None = None) -> Plan:
        """Return the plan with some of its faults and tasks."""
        kept = tuple(task for task in self.tasks if tasks is None or task.number in tasks)
        return replace(self, faults=tuple(fault for fault in self.faults if fault.number in faults), tasks=kept)


def make_plan(
    seed: int, *, nodes: int = 0, tasks: int = 0, seconds: float = 0.0, faults: int = -1, replicas: int = 0
) -> Plan:
    """Return the plan of a seed; sizes that are 0 (and -1 faults) are chosen by it."""
    shape = random.Random(f"{seed} shape")
    seconds = seconds or shape.choice((120.0, 240.0, 480.0))
    cloud = shape.random() < 0.4
    nodes = nodes or (shape.randint(0, 2) if cloud else shape.randint(2, 4))
    boot = shape.uniform(5.0, 60.0) if cloud else None
    count = tasks or shape.randint(3, 10)
    most = faults if faults >= 0 else shape.choice((0, 4, 8, 12, 16))
    replicas = replicas or random.Random(f"{seed} replicas").choice((1, 1, 1, 1, 2, 3))
    kinds = FAULTS | (CLOUD_FAULTS if cloud else {}) | (REPLICA_FAULTS if replicas > 1 else {})
    return Plan(
        seed=seed,
        nodes=tuple(_node(random.Random(f"{seed} node {number}")) for number in range(nodes)),
        settings=_settings(random.Random(f"{seed} settings")),
        tasks=tuple(_task(random.Random(f"{seed} task {number}"), number, seconds) for number in range(count)),
        faults=tuple(
            _fault(random.Random(f"{seed} fault {number}"), number, seconds, nodes, kinds) for number in range(most)
        ),
        boot=boot,
        seconds=seconds,
        drift=shape.choice((0.0, 0.0, 1e-4, -1e-4)),
        concurrency=shape.choice((1, 2, 100)),
        idle=shape.choice((5.0, 60.0)),
        replicas=replicas,
    )


def _node(chance: random.Random) -> dict[str, Any]:
    return {"slots": chance.choice((1, 1, 2, 4)), "seconds": chance.choice((2.0, 10.0, 30.0, 90.0))}


def _settings(chance: random.Random) -> dict[str, Any]:
    return {
        "node_poll_interval": chance.choice((1.0, 5.0, 5.0, 15.0)),
        "task_poll_interval": chance.choice((0.5, 2.0, 2.0, 10.0)),
        "node_lost_after": chance.choice((20.0, 60.0, 120.0)),
        "max_sending": chance.choice((1, 4)),
        "parallel_uploads": chance.choice((1, 2, 4)),
        "prefetch": chance.choice((0, 4, 4)),
        "results": chance.choice(("stream", "keep")),
    }


def _task(chance: random.Random, number: int, seconds: float) -> TaskPlan:
    large = chance.random() < 0.1
    order = chance.choice(ORDERS)
    at_event = not order.startswith("restart") and chance.random() < 0.6
    return TaskPlan(
        number=number,
        uuid=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        owner=chance.choice("ab"),
        at=chance.uniform(0, seconds * 0.7),
        sizes=tuple(_size(chance, large=large) for _ in range(chance.choice((1, 2, 3, 5, 12)))),
        order=order,
        order_moment=chance.choice(ORDER_MOMENTS) if at_event else "",
        order_by_any=chance.random() < 0.3,
        order_after=chance.uniform(0, chance.choice(_DELAYS)) if at_event else chance.expovariate(1 / 20.0),
        impatient=chance.random() < 0.5,
        together=chance.random() < 0.5,
        pause=chance.choice((0.0, 0.0, 0.0, 1.0, 20.0)),
        poll=chance.choice((1.0, 3.0, 5.0)),
        webhook=chance.random() < 0.7,
        set_uuid=chance.random() < 0.7,
        connections=chance.choice((1, 2, 4)),
    )


def _size(chance: random.Random, *, large: bool) -> int:
    return chance.randint(1 << 20, 4 << 20) if large else int(chance.paretovariate(1.2) * 500) % 60_000 + 1


def _fault(chance: random.Random, number: int, seconds: float, nodes: int, kinds: dict[str, int]) -> Fault:
    [kind] = chance.choices(list(kinds), weights=list(kinds.values()))
    of_machines = MACHINE_MOMENTS if kinds.keys() >= CLOUD_FAULTS.keys() else ()
    moments = of_machines if kind in CLOUD_FAULTS else MOMENTS + of_machines
    moment = chance.choice(moments) if chance.random() < 0.7 else ""
    return Fault(
        number=number,
        kind=kind,
        at=chance.uniform(5.0, seconds),
        seconds=chance.choice((1.0, 5.0, 20.0, 60.0, 180.0)) * chance.uniform(0.5, 1.5),
        target=chance.randrange(max(1, nodes)),
        amount=chance.random(),
        moment=moment,
        nth=chance.choice((1, 1, 1, 2) if moment in MACHINE_MOMENTS else (1, 1, 2, 2, 3, 4, 6, 8)) if moment else 0,
        after=chance.uniform(0.0, chance.choice(_DELAYS)) if moment else 0.0,
    )
