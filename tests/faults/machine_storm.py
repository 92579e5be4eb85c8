# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A storm over machines: tasks on three pretended clouds that lie and fail, while machines vanish and the process dies.

    python -m tests.faults.machine_storm --sequences 1000 --seed 1

Each sequence is one task from nothing to its end with one mishap on its way. At the end no task may be lost, no machine
or disk left, and no machine may have been deleted while a task ran on it, unless that was the mishap itself.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from clusterodm.observe import configure_logging
from clusterodm.testing import FakeMachine, World
from clusterodm.testing.world import LOSE, REFUSE, THROTTLE
from tests.admin.support import Operator
from tests.faults.crashing import MACHINE_POINTS
from tests.processes import Program, free_port
from tests.providers.support import CLOUDS, Cloud
from tests.support import images

_CLOUDS: Final = ("hetzner", "scaleway", "digitalocean")
_PATIENCE: Final = 90.0


class Storm:
    """The cluster, its clouds, and what goes wrong with them."""

    def __init__(self, folder: Path, seed: int, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.seed = seed
        self.stack = stack
        self.clouds: list[Cloud] = []
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.deaths = 0
        #: Machines whose end was ordered, or was the mishap.
        self.doomed: set[str] = set()
        self.murders: list[str] = []
        self.over = False
        self.program: Program
        self.orders = folder / "orders"

    async def build(self) -> None:
        """Clouds and cluster."""
        for number, name in enumerate(_CLOUDS):
            world = World(port=free_port(), net=10 + number)
            world.knobs["seconds"] = 0.2
            self.watch(world)
            self.clouds.append(await self.stack.enter_async_context(CLOUDS[name](world)))
        entries = [
            cloud.entry | {"idleTimeout": 0.05, "bootTimeout": 4, "machinesLimit": 6, "createRetries": 1}
            for cloud in self.clouds
        ]
        path = self.folder / "asr.json"
        path.write_text(json.dumps({"providers": entries}))
        self.admin_port = free_port()
        self.program = Program(
            self.folder,
            **{
                "asr": path,
                "machine-poll-interval": 0.1,
                "node-lost-after": 20,
                "max-attempts": 20,
                "max-sending": 8,
                "log-level": "warn",
                "admin-web-port": self.admin_port,
            },
        )
        self.program.launcher = ["-m", "tests.faults.crashing", "--orders", str(self.orders)]
        self.stack.push_async_callback(self._end)
        await self.program.start()

    def watch(self, world: World) -> None:
        """Notice a machine that is deleted while a task runs on it."""
        delete = world.delete

        def watched(machine: FakeMachine, **how: Any) -> None:
            busy = machine.node is not None and any(task.code == 20 for task in machine.node.tasks.values())
            if busy and machine.name not in self.doomed and not self.over:
                self.murders.append(machine.name)
            delete(machine, **how)

        world.delete = watched  # type: ignore[method-assign]

    async def _end(self) -> None:
        await self.program.end()
        await self.program.api.session.close()

    async def keep_alive(self) -> None:
        """Start the program again whenever it is dead."""
        while True:
            if self.program.died():
                self.deaths += 1
                await self.program.spawn()
            await asyncio.sleep(0.05)

    async def patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat what the program did not answer because it was dead."""
        while True:
            try:
                return await work()
            except (aiohttp.ClientError, ConnectionError, KeyError, AssertionError):
                await asyncio.sleep(0.1)

    async def sequence(self, number: int) -> None:
        """One task and one mishap."""
        chance = Random(self.seed * 1_000_003 + number)
        name = chance.choice(sorted(MISHAPS))
        api, uuid = self.program.api, f"{number:08x}-0000-4000-8000-{self.seed:012x}"
        self.counts[name] += 1
        await asyncio.sleep(chance.uniform(0, 0.3))
        await self.patiently(lambda: api.post("/task/new/init", headers={"set-uuid": uuid}))
        count = chance.choice((1, 2, 3, 12))
        files = {f"{each}.jpg": b"photo" for each in range(count)}
        answer = await self.patiently(lambda: api.post(f"/task/new/upload/{uuid}", images(files)))
        assert answer == {"success": True}, answer
        assert (await self.patiently(lambda: api.commit(uuid))) == {"uuid": uuid}
        end = await MISHAPS[name](self, uuid, chance)
        try:
            async with asyncio.timeout(_PATIENCE):
                while (code := await self.patiently(lambda: api.code(uuid))) in (10, 20):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            code = 0
        if code != end and not (end == 50 and code == 40):  # it may have been done before it was canceled
            self.lost[name] += 1
            self.problems.append(f"sequence {number} ({name}): {code} instead of {end}")

    async def settle(self) -> None:
        """After the last task: everything goes."""
        self.calm()
        try:
            async with asyncio.timeout(_PATIENCE):
                while any(cloud.names() or (cloud.world and cloud.world.volumes) for cloud in self.clouds):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            remaining = {each["id"]: each for each in await self.operator("GET", "machines") or []}
            for cloud in self.clouds:
                assert cloud.world is not None
                self.problems += [f"{cloud.name}: {name} is left: {remaining.get(name)}" for name in cloud.names()]
                self.problems += [f"{cloud.name}: disk {disk} is left" for disk in cloud.world.volumes]
        self.problems += [f"{name} was deleted while a task ran on it" for name in self.murders]

    def calm(self) -> None:
        """No more mishaps."""
        self.orders.unlink(missing_ok=True)
        for cloud in self.clouds:
            assert cloud.world is not None
            cloud.world.misbehave = lambda request: ""
            cloud.world.out_of_stock.clear()
            cloud.world.quota = -1
            cloud.world.dead_on_arrival = False

    def world(self, chance: Random) -> World:
        """The cloud that is asked most, or any."""
        cloud = self.clouds[0] if chance.random() < 0.6 else chance.choice(self.clouds)
        assert cloud.world is not None
        return cloud.world

    async def operator(self, method: str, path: str) -> Any:
        """What an operator is answered; None when that was an error, or nothing."""
        operator = Operator(f"http://127.0.0.1:{self.admin_port}")
        try:
            status, answer = await operator.ask(method, f"/api/v1/{path}")
        except (aiohttp.ClientError, ConnectionError):
            return None
        else:
            return answer if status == 200 else None
        finally:
            await operator.session.close()


Mishap = Callable[[Storm, str, Random], Awaitable[int]]
MISHAPS: dict[str, Mishap] = {}


def mishap(run: Mishap) -> Mishap:
    MISHAPS[run.__name__.replace("_", " ")] = run
    return run


async def _for_a_while(world: World, seconds: float, fate: Callable[[web.Request], str]) -> None:
    world.misbehave = fate
    await asyncio.sleep(seconds)
    world.misbehave = lambda request: ""


@mishap
async def nothing(storm: Storm, uuid: str, chance: Random) -> int:
    return 40


@mishap
async def the_answer_of_a_creation_is_lost(storm: Storm, uuid: str, chance: Random) -> int:
    faults = [LOSE] * chance.choice((1, 3))
    await _for_a_while(storm.world(chance), 1.0, lambda r: faults.pop() if faults and r.method == "POST" else "")
    return 40


@mishap
async def the_cloud_fails(storm: Storm, uuid: str, chance: Random) -> int:
    fate = chance.choice((REFUSE, THROTTLE, LOSE))
    await _for_a_while(storm.world(chance), chance.uniform(0.2, 1.5), lambda request: fate)
    return 40


@mishap
async def the_cloud_fails_now_and_then(storm: Storm, uuid: str, chance: Random) -> int:
    await _for_a_while(storm.world(chance), 1.5, lambda request: chance.choice(("", "", REFUSE, THROTTLE, LOSE)))
    return 40


@mishap
async def the_cloud_denies_a_machine_once(storm: Storm, uuid: str, chance: Random) -> int:
    world = storm.world(chance)
    for machine in list(world.machines.values())[:1]:
        machine_id = world.machines.pop(machine.id).id
        await asyncio.sleep(0.05)
        world.machines[machine_id] = machine
    return 40


@mishap
async def there_is_no_room(storm: Storm, uuid: str, chance: Random) -> int:
    world = storm.world(chance)
    world.out_of_stock = {"small", "large"}
    await asyncio.sleep(chance.uniform(0.2, 1.0))
    world.out_of_stock = set()
    return 40


@mishap
async def a_machine_is_taken_away(storm: Storm, uuid: str, chance: Random) -> int:
    await asyncio.sleep(chance.uniform(0, 1))
    world = storm.world(chance)
    for machine in list(world.machines.values())[:1]:
        storm.doomed.add(machine.name)
        world.delete(machine)
    return 40


@mishap
async def a_machine_is_dead_on_arrival(storm: Storm, uuid: str, chance: Random) -> int:
    world = storm.world(chance)
    world.dead_on_arrival = True
    await asyncio.sleep(chance.uniform(0.2, 0.8))
    world.dead_on_arrival = False
    return 40


@mishap
async def a_node_hangs(storm: Storm, uuid: str, chance: Random) -> int:
    world = storm.world(chance)
    nodes = [machine.node for machine in world.machines.values() if machine.node is not None]
    for node in nodes[:2]:
        node.knobs.hang = 1.0
    await asyncio.sleep(chance.uniform(0.2, 1.5))
    for node in nodes:
        node.knobs.hang = 0.0
    return 40


@mishap
async def the_process_is_killed(storm: Storm, uuid: str, chance: Random) -> int:
    await asyncio.sleep(chance.uniform(0, 1.5))
    await storm.program.end()
    return 40


@mishap
async def the_process_dies_at_a_point(storm: Storm, uuid: str, chance: Random) -> int:
    storm.orders.write_text(f"{chance.choice(MACHINE_POINTS)}:{chance.choice(('before', 'after'))}")
    return 40


@mishap
async def an_operator_deletes_a_machine(storm: Storm, uuid: str, chance: Random) -> int:
    await asyncio.sleep(chance.uniform(0, 1))
    machines = await storm.operator("GET", "machines") or []
    for machine in machines[:1]:
        storm.doomed.add(machine["id"])
        await storm.operator("POST", f"machines/{machine['id']}/delete")
    return 40


@mishap
async def an_operator_keeps_and_releases_a_machine(storm: Storm, uuid: str, chance: Random) -> int:
    for machine in (await storm.operator("GET", "machines") or [])[:1]:
        await storm.operator("POST", f"machines/{machine['id']}/keep")
        await asyncio.sleep(0.5)
        while not await storm.operator("POST", f"machines/{machine['id']}/release"):
            machines = await storm.operator("GET", "machines")
            if machines is not None and machine["id"] not in {each["id"] for each in machines}:
                break
            await asyncio.sleep(0.2)
    return 40


@mishap
async def its_owner_cancels_it(storm: Storm, uuid: str, chance: Random) -> int:
    await asyncio.sleep(chance.uniform(0, 1.5))
    await storm.patiently(lambda: storm.program.api.post("/task/cancel", {"uuid": uuid}))
    return 50


async def run(count: int, seed: int, lanes: int, screen: Console) -> Storm:
    """The whole storm."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="clusterodm-machines-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        storm = Storm(folder, seed, stack)
        await storm.build()
        waiting, done = iter(range(count)), itertools.count(1)

        async def lane() -> None:
            for number in waiting:
                await storm.sequence(number)
                if (ended := next(done)) % 100 == 0:
                    screen.print(f"{ended} sequences, {storm.deaths} deaths", highlight=False)

        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(storm.keep_alive())
            async with asyncio.TaskGroup() as workers:
                for _ in range(lanes):
                    workers.create_task(lane())
            await storm.settle()
            storm.over = True
            keeper.cancel()
        if storm.problems:
            screen.print(storm.program.log.read_text()[-6000:], markup=False, highlight=False)
        return storm


def table(storm: Storm) -> Table:
    """What happened, mishap by mishap."""
    report = Table(title=f"{storm.counts.total()} sequences, seed {storm.seed}, {storm.deaths} deaths of the process")
    for column in ("mishap", "sequences", "tasks lost"):
        report.add_column(column, justify="left" if column == "mishap" else "right")
    for name in sorted(storm.counts):
        report.add_row(name, str(storm.counts[name]), str(storm.lost[name]))
    report.add_section()
    report.add_row("all", str(storm.counts.total()), str(storm.lost.total()))
    report.add_row("machines created", str(sum(len(cloud.world.created) for cloud in storm.clouds if cloud.world)), "")
    leftovers = [problem for problem in storm.problems if " is left" in problem]
    report.add_row("machines and disks left", str(len(leftovers)), "")
    report.add_row("busy machines deleted", str(len(storm.murders)), "")
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=10)
    arguments = parser.parse_args()
    configure_logging("error")
    screen = Console(width=120)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        storm = runner.run(run(arguments.sequences, arguments.seed, arguments.lanes, screen))
    screen.print(table(storm))
    for problem in storm.problems:
        screen.print(problem, markup=False, highlight=False)
    return 1 if storm.problems else 0


if __name__ == "__main__":
    sys.exit(main())
