# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Three replicas behind a balancer, PyODM clients at work, and each replica killed, then told to stop, in turn.

    python -m tests.faults.replica_storm --rounds 3

prints a table of what was accepted, lost, done twice or refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiohttp import web
from pyodm import Node
from pyodm.exceptions import OdmError

from clusterodm.core.tasks import node_uuid
from clusterodm.devnode import DevNode, Knobs, running_devnode
from clusterodm.devnode.photos import make_photos
from clusterodm.store import Store, TaskFilter
from tests import nginx
from tests.postgres import running_postgres
from tests.processes import Program, free_port
from tests.support import Api, eventually, holder

REPLICAS = 3
NODES = 3
CLIENTS = 3
#: Seconds in which somebody must lead again after the leader was killed.
TAKE_OVER = 10.0
#: What a task's timeline says once its webhook was called.
TOLD = "the owner's webhook was called"


@dataclass
class Tally:
    """What was seen."""

    accepted: list[str] = field(default_factory=list)
    completed: int = 0
    lost: int = 0
    #: Timelines of tasks of which two attempts were on nodes at the same time.
    doubled: list[str] = field(default_factory=list)
    #: When each task's webhook was called.
    calls: dict[str, list[float]] = field(default_factory=dict)
    #: Tasks whose webhook was called again without need: the first call was noted, or no replica was killed meanwhile.
    told_twice: int = 0
    #: Tasks whose webhook was called again because a replica was killed between the answer and its note of it.
    repeated: int = 0
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    stops: int = 0
    take_overs: list[float] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        longest = max(self.take_overs, default=0.0)
        rows = [
            ("replicas killed (kill -9) / told to stop", f"{len(self.killed)} / {self.stops}"),
            ("longest time without a leader after a kill", f"{longest:.1f} s"),
            ("tasks accepted", len(self.accepted)),
            ("tasks completed", self.completed),
            ("tasks lost", self.lost),
            ("tasks on two nodes at once", len(self.doubled)),
            ("webhooks called / again after a kill / again without need", self._webhooks()),
            ("requests of pollers and PyODM calls", self.requests),
            ("of them failed", len(self.failed)),
        ]
        return "\n".join(["| what | count |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    def _webhooks(self) -> str:
        return f"{len(self.calls)} / {self.repeated} / {self.told_twice}"

    def judge_calls(self, uuid: str, noted: int) -> None:
        """Count a task's second webhook. `noted`: how often its timeline says that it was called."""
        calls = self.calls.get(uuid, [])
        if len(calls) < 2:
            return
        killed = all(any(first <= at <= second for at in self.killed) for first, second in pairwise(calls))
        if killed and noted == 1:
            self.repeated += 1
        else:
            self.told_twice += 1


@asynccontextmanager
async def balancer(folder: Path, backends: list[int]) -> AsyncIterator[str]:
    """A real nginx in front; its URL."""
    folder.mkdir()
    folder.chmod(0o777)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(nginx.config(folder, port, backends, tls=False))
    process = await asyncio.create_subprocess_exec("nginx", "-c", str(config), "-e", str(folder / "error.log"))
    try:
        await eventually(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Clients:
    """PyODM clients, each in a thread, and a poller that hides nothing."""

    def __init__(self, url: str, hook: str, photos: list[str], folder: Path, tally: Tally) -> None:
        self.tally = tally
        self._url = url
        self._hook = hook
        self._photos = photos
        self._folder = folder
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def begin(self) -> None:
        """Start them."""
        for thread in self._threads:
            thread.start()

    async def end(self) -> None:
        """Let each finish what it does."""
        self._over.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, number: int) -> None:
        node = Node.from_url(self._url)
        count = 0
        while not self._over.is_set():
            count += 1
            try:
                self._one(node, self._folder / f"{number}-{count}")
            except (OdmError, OSError, AssertionError) as error:
                self.tally.failed.append(f"PyODM: {type(error).__name__}: {error}"[:200])

    def _one(self, node: Node, folder: Path) -> None:
        self.tally.requests += 1
        task = node.create_task(self._photos, {"dsm": True}, "storm", webhook=self._hook)
        self.tally.accepted.append(task.uuid)
        self.tally.requests += 1
        task.wait_for_completion(interval=0.2)
        self.tally.requests += 1
        task.download_assets(str(folder))
        assert (folder / "contact_sheet.jpg").is_file()
        shutil.rmtree(folder)

    async def poll(self, api: Api) -> None:
        """For ever: look at everything that clients look at; each answer that is none is a failure."""
        while True:
            for path in ("/info", "/task/list", *(f"/task/{uuid}/info" for uuid in self.tally.accepted[-3:])):
                self.tally.requests += 1
                await asyncio.sleep(0.02)
                try:
                    status, _, body = await api.raw("GET", path)
                except OSError as error:
                    self.tally.failed.append(f"{path}: {type(error).__name__}")
                    continue
                if status != 200 or b'"error"' in body:
                    self.tally.failed.append(f"{path}: {status} {body[:80]!r}")


async def _watch_nodes(nodes: list[DevNode], tally: Tally) -> None:
    """For ever: no task is ever processed by two nodes, or twice by one, at the same time."""
    tasks: dict[str, str] = {}
    checked = 0
    while True:
        for uuid in tally.accepted[checked:]:
            tasks.update(dict.fromkeys((node_uuid(uuid, number) for number in range(1, 6)), uuid))
            checked += 1
        running = Counter(
            tasks.get(uuid, uuid) for node in nodes for uuid, task in node.tasks.items() if task.code in (10, 20)
        )
        tally.doubled += [uuid for uuid, count in running.items() if count > 1 and uuid not in tally.doubled]
        await asyncio.sleep(0.01)


async def storm(folder: Path, *, rounds: int) -> Tally:
    """Run it: in each round every replica is killed in turn, then every one is told to stop in turn."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_postgres())
        database = server.new_database()
        nodes, ports = [], []
        for _ in range(NODES):
            node, port = await stack.enter_async_context(running_devnode(Knobs(seconds=0.4, slots=2), port=0))
            nodes.append(node)
            ports.append(f"127.0.0.1:{port}")
        settings = {"node": ",".join(ports), "shutdown-delay": 0.3, "shutdown-grace": 20}
        programs = [_program(stack, folder, number, database, settings) for number in range(REPLICAS)]
        for program in programs:
            await program.start()
        url = await stack.enter_async_context(balancer(folder / "nginx", [each.port for each in programs]))
        api = Api(url)
        stack.push_async_callback(api.session.close)
        await eventually(lambda: _online(api))
        photos = [str(path) for path in make_photos(folder / "photos", 4)]
        tally = Tally()
        hook = await _hook(stack, tally)
        clients = Clients(url, hook, photos, folder / "results", tally)
        store = await Store.open(database)
        stack.push_async_callback(store.close)
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(clients.poll(api)), group.create_task(_watch_nodes(nodes, clients.tally))]
            clients.begin()
            for _ in range(rounds):
                for program in programs:
                    await _kill(program, store, clients.tally)
                for program in programs:
                    await _restart(program, clients.tally)
            await clients.end()
            for task in watching:
                task.cancel()
        await eventually(lambda: _told_all(store))
        await _count(store, clients.tally)
        return clients.tally


def _program(stack: AsyncExitStack, folder: Path, number: int, database: str, settings: dict[str, Any]) -> Program:
    replica = Program(folder, **settings)
    replica.log = folder / f"replica-{number}.log"
    replica.environ |= {"CLUSTERODM_DATABASE_URL": database}

    async def end() -> None:
        if replica.runs():
            await replica.end()
        await replica.api.session.close()

    stack.push_async_callback(end)
    return replica


async def _hook(stack: AsyncExitStack, tally: Tally) -> str:
    async def take(request: web.Request) -> web.Response:
        tally.calls.setdefault((await request.json())["uuid"], []).append(time.monotonic())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/"


async def _online(api: Api) -> bool:
    return int((await api.get("/info")).get("maxParallelTasks", 0)) == NODES * 2


async def _kill(program: Program, store: Store, tally: Tally) -> None:
    """kill -9 in the middle of the work, and start again once somebody leads."""
    await _some_work(tally)
    died = f":{program.pid}"
    await program.end(signal.SIGKILL)
    began = time.monotonic()
    tally.killed.append(began)
    await eventually(lambda: _another_leads(store, died), seconds=TAKE_OVER + 5)
    tally.take_overs.append(time.monotonic() - began)
    await program.start()


async def _another_leads(store: Store, died: str) -> bool:
    leader = await holder(store, "lead")
    async with store._transaction() as connection:
        replicas = await store._replicas(connection)
    return any(each.id == leader and not each.name.endswith(died) for each in replicas)


async def _restart(program: Program, tally: Tally) -> None:
    await _some_work(tally)
    assert await program.end(signal.SIGTERM) == 0, program.log.read_text()[-2000:]
    tally.stops += 1
    await program.start()


async def _some_work(tally: Tally) -> None:
    """Until clients have begun some more tasks."""
    count = len(tally.accepted)
    with contextlib.suppress(AssertionError):
        await eventually(lambda: len(tally.accepted) >= count + 2, seconds=10)


async def _told_all(store: Store) -> bool:
    return not await store.webhooks_due()


async def _count(store: Store, tally: Tally) -> None:
    ended = {task.uuid: task for task in await store.find_tasks(TaskFilter(), limit=10_000)}
    for place, uuid in enumerate(tally.doubled):
        lines = [f"{event.at:.3f} {event.text}" for event in await store.timeline(uuid)]
        tally.doubled[place] = f"{uuid}: " + "; ".join(lines)
    tally.completed = sum(uuid in ended and str(ended[uuid].outcome) == "completed" for uuid in tally.accepted)
    tally.lost = len(tally.accepted) - tally.completed
    for uuid, calls in tally.calls.items():
        if len(calls) > 1:
            tally.judge_calls(uuid, sum(event.text == TOLD for event in await store.timeline(uuid)))


def main() -> None:
    """The table on standard output; status 1 when something was lost, doubled or refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    folder = Path(tempfile.mkdtemp(prefix="clusterodm-replicas-"))
    try:
        tally = asyncio.run(storm(folder, rounds=rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(tally.table())
    for text in [*tally.failed[:20], *tally.doubled]:
        print("wrong:", text)
    raise SystemExit(bool(tally.lost or tally.doubled or tally.told_twice or tally.failed))


if __name__ == "__main__":
    main()
