# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The world itself: time, executors, network, processes, disk. Each test runs in a process that is forked for it,
because what killed processes leave behind must not be finalised."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import secrets
import socket
import subprocess
import threading
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.testing.simulation import Deadlock, Host, Process, RealWorldError, Simulation
from clusterodm.testing.simulation.network import Link

World = Callable[[Simulation], Awaitable[Any]]


def in_world(root: Path, main: World, *, seed: int = 1) -> Any:
    """Return the result of a coroutine in a world of its own."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        with os.fdopen(read, "rb") as file:
            content = file.read()
        os.waitpid(pid, 0)
        failure, result = pickle.loads(content)
        if failure:
            pytest.fail(failure)
        return result
    try:
        simulation = Simulation(seed, root, repeatable=False)

        async def run() -> Any:
            return await main(simulation)

        outcome = ("", simulation.run(run))
    except BaseException:  # noqa: BLE001 - it fails the test
        outcome = (traceback.format_exc(), None)
    with os.fdopen(write, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))
    os._exit(0)


async def run_on(host: Host, main: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of a program on a host."""

    async def program() -> Any:
        return await main()

    process = Process(host, "program")
    task = process.run(program())
    await process.ended.wait()
    return task.result()


def hosts(simulation: Simulation) -> tuple[Host, Host]:
    """Return a client's and a server's host."""
    return simulation.network.host("client", "10.0.0.1"), simulation.network.host("server", "10.0.0.2")


def serve(host: Host, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Process:
    """Start a web server on port 80 of a host."""

    async def main() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 80).start()
        await asyncio.Event().wait()

    process = Process(host, "server")
    process.run(main())
    return process


async def fetch(**how: Any) -> tuple[float, bytes]:
    """Get the server's page; return when it came, and what it was."""
    async with aiohttp.ClientSession() as session, session.get("http://server/", **how) as response:
        body = await response.read()
        return asyncio.get_running_loop().time(), body


async def hello(request: web.Request) -> web.Response:
    """Answer at once."""
    return web.Response(text="hello")


def test_an_hour_passes_at_once(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> float:
        await asyncio.sleep(3600)
        return time.time() - time.monotonic()

    began = time.process_time()
    assert in_world(tmp_path, main) == 1_767_225_600.0
    assert time.process_time() - began < 2.0


def test_chance_follows_the_seed_alone(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> tuple[Any, ...]:
        return random.random(), secrets.token_hex(8), str(uuid.uuid4()), os.urandom(4)

    assert in_world(tmp_path, main, seed=1) == in_world(tmp_path, main, seed=1)
    assert in_world(tmp_path, main, seed=1) != in_world(tmp_path, main, seed=2)


def test_threads_sockets_programs_and_blocking_on_the_loop_are_refused(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> list[str]:
        refused = []
        reaches: list[Callable[[], object]] = [
            threading.Thread(target=print).start,
            lambda: time.sleep(1.0),
            lambda: socket.socket().connect(("127.0.0.1", 1)),
            lambda: subprocess.run(["true"], check=True),
        ]
        for reach in reaches:
            try:
                reach()
            except RealWorldError as error:
                refused.append(str(error))
        return refused

    refused = ["threading.Thread.start", "the event loop would block", "socket.connect", "subprocess.Popen"]
    assert in_world(tmp_path, main) == refused


def test_a_world_in_which_nothing_can_happen_ends(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> None:
        await asyncio.Event().wait()

    with pytest.raises(pytest.fail.Exception, match=f"{Deadlock.__name__}: nothing can happen any more"):
        in_world(tmp_path, main)


def test_calls_in_executors_block_in_virtual_time(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> tuple[float, float]:
        async with asyncio.TaskGroup() as group:
            sleeps = [group.create_task(asyncio.to_thread(time.sleep, 10.0)) for _ in range(3)]
            await asyncio.sleep(5)
            assert not any(sleep.done() for sleep in sleeps)
        return simulation.loop.time(), time.monotonic()

    passed, steady = in_world(tmp_path, main)
    assert 10.0 < passed < 11.0
    assert passed == steady


def test_a_web_server_and_its_client_run_unmodified(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> tuple[float, bytes]:
        client, server = hosts(simulation)
        serve(server, hello)
        await asyncio.sleep(1)
        result: tuple[float, bytes] = await run_on(client, fetch)
        return result

    at, body = in_world(tmp_path, main)
    assert (round(at, 1), body) == (1.0, b"hello")


def test_a_partition_delays_what_is_sent_until_it_heals(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> float:
        client, server = hosts(simulation)
        serve(server, hello)
        simulation.network.cut(server.address, client.address)
        simulation.loop.call_later(20.0, simulation.network.heal, server.address, client.address)
        patient = aiohttp.ClientTimeout(total=None, sock_connect=100)
        return float((await run_on(client, lambda: fetch(timeout=patient)))[0])

    assert 20.0 < in_world(tmp_path, main) < 80.0


def test_a_killed_process_runs_no_clean_up_and_resets_its_connections(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> tuple[str, list[str], float]:
        client, server = hosts(simulation)
        cleaned: list[str] = []

        async def slow(request: web.Request) -> web.Response:
            try:
                await asyncio.sleep(100)
            finally:
                cleaned.append("clean-up")
            return web.Response()

        process = serve(server, slow)
        simulation.loop.call_later(5.0, process.kill)

        async def ask() -> str:
            try:
                await fetch()
            except aiohttp.ClientError as error:
                return type(error).__name__
            return ""

        return await run_on(client, ask), cleaned, simulation.loop.time()

    error, cleaned, at = in_world(tmp_path, main)
    assert error == "ClientConnectorError", "the client tries once more by itself"
    assert (cleaned, round(at)) == ([], 5)


def test_a_machine_without_power_tells_nobody(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> float:
        client, server = hosts(simulation)

        async def never(request: web.Request) -> web.Response:
            await asyncio.Event().wait()
            return web.Response()

        serve(server, never)
        simulation.loop.call_later(5.0, server.lose_power)

        async def ask() -> None:
            with pytest.raises(TimeoutError):
                await fetch(timeout=aiohttp.ClientTimeout(total=60))

        await run_on(client, ask)
        return simulation.loop.time()

    assert round(in_world(tmp_path, main)) == 60


def test_a_slow_reader_holds_its_sender_back(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> tuple[list[float], int]:
        client, server = hosts(simulation)
        sent: list[float] = []

        async def large(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(40):
                await response.write(bytes(64 << 10))
                sent.append(simulation.loop.time())
            return response

        serve(server, large)

        async def read() -> int:
            async with aiohttp.ClientSession() as session, session.get("http://server/", read_bufsize=1024) as response:
                await asyncio.sleep(30)
                return len(await response.read())

        return sent, await run_on(client, read)

    sent, size = in_world(tmp_path, main)
    assert size == 40 * (64 << 10)
    assert sent[3] < 1.0
    assert sent[-1] > 30.0


def test_resets_happen_as_often_as_the_link_says(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> int:
        client, server = hosts(simulation)
        serve(server, hello)
        simulation.network.link = Link(reset=0.2)

        async def ask() -> int:
            failed = 0
            for _ in range(100):
                try:
                    await fetch()
                except aiohttp.ClientError:
                    failed += 1
            return failed

        return int(await run_on(client, ask))

    assert 5 < in_world(tmp_path, main) < 30, "of the two tries that a client makes, one in three fails"


def test_a_loss_of_power_takes_what_was_not_synced(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> dict[str, Any]:
        source = simulation.root / "data"
        source.mkdir()
        (source / "old").write_bytes(b"old" * 1000)
        await asyncio.sleep(60)
        lost: dict[str, int] = {"new": 0, "synced": 0, "old": 0}
        for turn in range(20):
            for name in ("new", "synced"):
                with (source / name).open("wb") as file:
                    file.write(b"content" * 1000)
                    file.flush()
                    if name == "synced":
                        os.fsync(file.fileno())
            target = simulation.root / f"after-{turn}"
            simulation.disk.lose_power(source, target)
            for name in lost:
                kept = target / name
                lost[name] += not kept.exists() or kept.read_bytes() != (source / name).read_bytes()
        return lost

    lost = in_world(tmp_path, main)
    assert lost["new"] > 10
    assert (lost["synced"], lost["old"]) == (0, 0)


def test_files_have_virtual_times(tmp_path: Path) -> None:
    async def main(simulation: Simulation) -> float:
        await asyncio.sleep(100)
        (simulation.root / "file").write_bytes(b"x")
        await asyncio.sleep(50)
        return time.time() - (simulation.root / "file").stat().st_mtime

    assert in_world(tmp_path, main) == 50.0
