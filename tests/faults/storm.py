# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A storm of faults over a real cluster: each injection is a task and one fault that is aimed at it, many at a time.

    python -m tests.faults.storm [--injections N] [--seed S] [--lanes L] [--only I]

At the end it prints a table and exits with 1 when anything was lost, duplicated, or shown to a poller as an error. What
is injected, and where in a task's life, follows from the seed and the number of the injection; `--only` repeats one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid as uuid_module
from collections import defaultdict
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from clusterodm.core.tasks import node_uuid
from clusterodm.devnode import DevNode, Knobs, running_devnode
from clusterodm.observe import configure_logging
from tests.faults.client import Client
from tests.faults.liar import Liar, running_liar
from tests.faults.operations import FAULTS
from tests.processes import Program

#: Seconds that a task may take to its end, whatever happens.
PATIENCE = 180.0
NODES = 6
ATTEMPTS = 12


@dataclass
class Row:
    """What became of the injections of one fault."""

    injected: int = 0
    accepted: int = 0
    lost: int = 0
    duplicated: int = 0
    errors: int = 0


@dataclass
class Injection:
    """One task and what happens to it."""

    number: int
    fault: str
    chance: Random
    uuid: str
    files: dict[str, bytes]
    #: How it must end: a status code, 0 for "removed".
    end: int = 40
    accepted: bool = False
    problems: list[str] = field(default_factory=list)


class Storm:
    """The cluster, its nodes, its clients, and what goes wrong with them."""

    def __init__(self, folder: Path, seed: int, stack: AsyncExitStack, **settings: Any) -> None:
        self.folder = folder
        self.seed = seed
        self.settings = settings
        self.stack = stack
        self.rows: dict[str, Row] = {}
        self.problems: list[str] = []
        self.nodes: list[DevNode] = []
        self.ports: list[int] = []
        self.liars: list[Liar] = []
        #: When owners were told, by task.
        self.webhooks: defaultdict[str, list[float]] = defaultdict(list)
        #: When the program died, and whether it answers now; an error counts only while it should have answered.
        self.deaths: list[float] = []
        #: It was told to stop: from then on it may refuse connections, until it is there again.
        self.told_to_stop = False
        self.up = asyncio.Event()
        self.calm = asyncio.Lock()
        self.program: Program
        self.hook = ""
        self.data = folder / "data"

    async def build(self) -> None:
        """Nodes behind stand-ins, the owner's side, the cluster."""
        for number in range(NODES):
            knobs = Knobs(
                seconds=0.25, slots=2, max_images=10 + 10 * number, total_memory=(8 + number) << 30, seed=number
            )
            node, port = await self.stack.enter_async_context(running_devnode(knobs))
            liar, lying = await self.stack.enter_async_context(running_liar(port))
            self.nodes.append(node)
            self.liars.append(liar)
            self.ports.append(lying)
        self.hook = await self._owner()
        self.data.mkdir()
        #: A disk of its own, so that it can be filled; not everybody may mount one.
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(self.data)]
        self.small_disk = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        if self.small_disk:
            self.stack.callback(subprocess.run, ["umount", "-l", str(self.data)], check=False)
        self.program = Program(
            self.folder,
            **{
                "node": ",".join(f"127.0.0.1:{port}" for port in self.ports),
                "results": "keep",
                "node-lost-after": 3,
                "max-attempts": ATTEMPTS,
                "max-sending": 8,
                "log-level": "warn",
            }
            | self.settings,
        )
        self.orders = self.folder / "orders"
        self.program.launcher = ["-m", "tests.faults.crashing", "--orders", str(self.orders)]
        self.stack.push_async_callback(self._end)
        await self.program.start()
        self.up.set()

    async def _end(self) -> None:
        await self.program.end()
        await self.program.api.session.close()

    async def _owner(self) -> str:
        async def hook(request: web.Request) -> web.Response:
            self.webhooks[(await request.json())["uuid"]].append(time.monotonic())
            return web.Response()

        app = web.Application()
        app.router.add_post("/hook", hook)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/hook"

    # The program's deaths

    async def keep_alive(self) -> None:
        """Start the program again whenever it is dead."""
        failed = 0
        while True:
            await self.program.wait()
            self.up.clear()
            self.deaths.append(time.monotonic())
            self.told_to_stop = False
            await self.program.spawn()
            while not self.program.died() and not await self.program.answers():
                await asyncio.sleep(0.01)
            failed = failed + 1 if self.program.died() else 0  # killed again while it started
            assert failed < 10, self.program.log.read_text()[-4000:]
            if not failed:
                self.told_to_stop = False
                self.up.set()

    def just_died(self, since: float) -> bool:
        """Whether the program was away at any time after `since`."""
        is_down = self.told_to_stop or not self.up.is_set() or self.program.died()
        return is_down or any(death >= since - 0.5 for death in self.deaths)

    # One injection

    def fault(self, number: int) -> str:
        """Each fault in its turn; a disk can be filled only where one can be mounted."""
        names = [name for name in FAULTS if self.small_disk or name != "the disk is full for a moment"]
        return names[number % len(names)]

    async def inject(self, number: int) -> None:
        """Carry one injection through to its end, and judge."""
        chance = Random(f"{self.seed}/{number}")
        fault = self.fault(number)
        uuid = str(uuid_module.UUID(int=chance.getrandbits(128), version=4))
        files = {f"{index}.jpg": chance.randbytes(chance.choice([10, 5000, 200_000])) for index in range(3)}
        injection = Injection(number, fault, chance, uuid, files)
        row = self.rows.setdefault(fault, Row())
        row.injected += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await FAULTS[fault](Client(self, injection))
        except TimeoutError:
            row.lost += 1
            injection.problems.append(f"not over after {PATIENCE:g} s: {self._timeline(uuid)}")
        row.accepted += injection.accepted
        row.errors += sum(text.startswith("error") for text in injection.problems)
        row.lost += sum(text.startswith("lost") for text in injection.problems)
        row.duplicated += sum(text.startswith("duplicated") for text in injection.problems)
        await self._judge(injection, row)
        self.problems += [f"#{number} ({fault}) {uuid}: {text}" for text in injection.problems]
        for liar in self.liars:
            liar.lies.pop(uuid, None)

    def _timeline(self, uuid: str) -> list[str]:
        """When what happened to a task, as the program has it."""
        query = "SELECT at, text FROM events WHERE task = ? ORDER BY id"
        with closing(sqlite3.connect(f"file:{self.data / 'clusterodm.db'}?mode=ro", uri=True)) as database:
            return [f"{at:.1f} {text}" for at, text in database.execute(query, (uuid,))]

    async def _judge(self, injection: Injection, row: Row) -> None:
        """Look at the nodes and the owner once everything has settled."""
        # one that is canceled may have ended on its node before the node heard of it
        expected, calls = int(injection.end in (40, 50)), self.webhooks[injection.uuid]
        with suppress(TimeoutError):
            async with asyncio.timeout(40):
                while (
                    len(self._copies(injection)) > expected
                    or self._still_running(injection)
                    or not (calls or not injection.end)
                ):
                    await asyncio.sleep(0.1)
        copies = self._copies(injection)
        extra = len(copies) - expected
        more_files = [task for task in copies if task.images_count != len(injection.files)]
        twice = [task for task in copies if task.runs > 1]
        if extra > 0 or more_files or twice:
            row.duplicated += 1
            injection.problems.append(
                f"duplicated: {extra} copies too many, {len(more_files)} with other files, {len(twice)} run twice"
            )
        if self._still_running(injection):
            row.duplicated += 1
            injection.problems.append("duplicated: it still runs on a node after its end")
        if injection.end and not calls:
            row.lost += 1
            injection.problems.append("lost: the owner was never told")
        # only a death between the owner's answer and our note of it excuses a second call
        if any(not self._died_within(first, second) for first, second in itertools.pairwise(calls)):
            row.duplicated += 1
            injection.problems.append(f"duplicated: the owner was told {len(calls)} times")

    def _died_within(self, since: float, until: float) -> bool:
        return any(since - 0.1 <= death <= until for death in self.deaths)

    def _attempts(self, injection: Injection) -> list[Any]:
        uuids = {node_uuid(injection.uuid, number) for number in range(1, 40)}
        return [node.tasks[uuid] for node in self.nodes for uuid in uuids if uuid in node.tasks]

    def _copies(self, injection: Injection) -> list[Any]:
        return [task for task in self._attempts(injection) if task.code == 40]

    def _still_running(self, injection: Injection) -> bool:
        return any(task.code in (10, 20) for task in self._attempts(injection))


async def run(injections: list[int], seed: int, lanes: int, screen: Console, **settings: Any) -> Storm:
    """The whole storm."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="clusterodm-storm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        storm = Storm(folder, seed, stack, **settings)
        await storm.build()
        waiting = iter(injections)
        done = itertools.count(1)

        async def lane() -> None:
            for number in waiting:
                await storm.inject(number)
                if (count := next(done)) % 100 == 0:
                    screen.print(f"{count} injections, {len(storm.deaths)} deaths", highlight=False)

        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(storm.keep_alive())
            async with asyncio.TaskGroup() as workers:
                for _ in range(lanes):
                    workers.create_task(lane())
            keeper.cancel()
        if storm.problems:
            screen.print(storm.program.log.read_text()[-4000:], markup=False, highlight=False)
        return storm


def table(storm: Storm) -> Table:
    """What happened, fault by fault."""
    report = Table(title=f"{sum(row.injected for row in storm.rows.values())} injections, seed {storm.seed}")
    report.add_column("fault")
    columns = ("injected", "accepted", "lost", "duplicated", "errors")
    for column in columns:
        report.add_column(column, justify="right")
    for name in sorted(storm.rows):
        report.add_row(name, *(str(getattr(storm.rows[name], column)) for column in columns))
    report.add_section()
    report.add_row("all", *(str(sum(getattr(row, column) for row in storm.rows.values())) for column in columns))
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--injections", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--only", type=int, help="repeat one injection of this seed")
    arguments = parser.parse_args()
    configure_logging("error")
    screen = Console(width=120)
    numbers = list(range(arguments.injections)) if arguments.only is None else [arguments.only]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        storm = runner.run(run(numbers, arguments.seed, arguments.lanes, screen))
    screen.print(table(storm))
    for problem in storm.problems:
        screen.print(problem, markup=False, highlight=False)
    return 1 if storm.problems else 0


if __name__ == "__main__":
    sys.exit(main())
