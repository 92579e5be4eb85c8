# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The faults of a storm: each takes a client with a task of its own, and carries that task through."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from clusterodm.core.tasks import node_uuid
from tests.faults.crashing import POINTS
from tests.faults.liar import LIES

if TYPE_CHECKING:
    from tests.faults.client import Client


async def _during(client: Client, fault: Callable[[], Awaitable[Any]], most: float) -> None:
    """The ordinary way, with a fault after a while."""

    async def later() -> None:
        await client.pause(most)
        await fault()

    await asyncio.gather(client.whole(), later())


# The process


async def killed(client: Client) -> None:
    """kill -9 at any moment of the task."""

    async def kill() -> None:
        await client.storm.up.wait()
        with suppress(ProcessLookupError):
            client.storm.program.send(signal.SIGKILL)

    await _during(client, kill, 1.2)


async def killed_at(point: str, client: Client) -> None:
    """kill -9 before or after one point of the way."""

    async def give_order() -> None:
        async with client.storm.calm:  # one order at a time
            await client.storm.up.wait()
            client.storm.orders.write_text(f"{point}:{client.chance.choice(['before', 'after'])}")
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while client.storm.orders.exists():
                        await asyncio.sleep(0.02)
            client.storm.orders.unlink(missing_ok=True)

    await _during(client, give_order, 0.5)


async def stopped(client: Client) -> None:
    """SIGTERM and a new start."""

    async def stop() -> None:
        await client.storm.up.wait()
        with suppress(ProcessLookupError):
            client.storm.program.send(signal.SIGTERM)
            client.storm.told_to_stop = True

    await _during(client, stop, 1.2)


async def clock_jumps(client: Client) -> None:
    """The wall clock is set to another day, and back."""

    async def jump() -> None:
        file = client.storm.orders.with_suffix(".clock")
        async with client.storm.calm:
            file.write_text(str(client.chance.choice([-90_000, -4000, 4000, 90_000, 9_000_000])))
            await asyncio.sleep(0.5)
            file.write_text("0")

    await _during(client, jump, 0.5)


async def disk_full(client: Client) -> None:
    """Nothing can be written for a moment."""

    async def fill() -> None:
        filler = client.storm.data / f"filler-{client.injection.number}"
        try:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                for size in (65536, 1):
                    with suppress(OSError):
                        while True:
                            file.write(bytes(size))
            await asyncio.sleep(0.4)
        finally:
            filler.unlink(missing_ok=True)

    await _during(client, fill, 0.8)


# The nodes


async def node_lies(name: str, client: Client) -> None:
    """A node says what is not so. The largest never says that it is too small: that would be the end, and rightly."""
    client.lie(name, client.storm.liars[:-1])
    await client.whole()


async def node_dies(client: Client) -> None:
    """The node that has the task is killed, and comes back without it."""

    async def forget() -> None:
        for node in client.storm.nodes:
            for number in range(1, 40):
                uuid = node_uuid(client.uuid, number)
                if uuid not in node.tasks or node.tasks[uuid].code in (10, 20):
                    node.forget(uuid)

    await _during(client, forget, 0.8)


async def node_silent(client: Client) -> None:
    """A node answers nobody for longer than it takes to count as lost, and works on."""

    async def silence() -> None:
        node = client.chance.choice(client.storm.nodes)
        node.knobs.hang = 1.0
        await asyncio.sleep(client.chance.uniform(0.5, 4.5))
        node.knobs.hang = 0.0

    await _during(client, silence, 0.3)


# The clients


async def commits_often(client: Client) -> None:
    """The commit comes five times at once."""
    await client.announce()
    await client.send_all()
    await asyncio.gather(*(client.commit() for _ in range(5)))
    await client.follow()


async def announces_often(client: Client) -> None:
    """The announcement comes again, before and after files."""
    await client.announce()
    await client.send("0.jpg")
    await client.announce()
    await client.send_all()
    await client.commit()
    await client.follow()


async def sends_twice(client: Client) -> None:
    """Each file comes three times, partly at once."""
    await client.announce()
    await asyncio.gather(client.send_all(), client.send_all())
    await client.send_all()
    await client.commit()
    await client.follow()


async def cuts_upload(client: Client) -> None:
    """An upload ends in the middle, and comes again."""
    await client.announce()
    for name, content in client.injection.files.items():
        await client.storm.up.wait()
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", client.storm.program.port)
            head = f"POST /task/new/upload/{client.uuid} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n"
            head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            part = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
            writer.write(head.encode() + part + content[: client.chance.randrange(len(content))])
            await writer.drain()
            writer.transport.abort()
    await client.send_all()
    await client.commit()
    await client.follow()


async def loses_commit_answer(client: Client) -> None:
    """The client goes away after it sent the commit, and comes back."""
    await client.announce()
    await client.send_all()
    await client.storm.up.wait()
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", client.storm.program.port)
        writer.write(f"POST /task/new/commit/{client.uuid} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        await client.pause(0.02)
        writer.transport.abort()
    await client.commit()
    await client.follow()


async def leaves_downloads(client: Client) -> None:
    """Twenty clients begin a download and leave."""
    await client.whole()

    async def leave() -> None:
        await client.storm.up.wait()
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", client.storm.program.port)
            writer.write(f"GET /task/{client.uuid}/download/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await writer.drain()
            await client.pause(0.05)
            writer.transport.abort()

    await asyncio.gather(*(leave() for _ in range(20)))
    await client.follow()


async def _ordered(verb: str, end: int, client: Client) -> None:
    await client.announce()
    await client.send_all()
    await client.commit()
    await client.pause(0.6)
    code = (await client.call(lambda: client.api.get(f"/task/{client.uuid}/info")))["status"]["code"]
    await asyncio.gather(*(client.order(verb) for _ in range(3)))
    after = await client.call(lambda: client.api.get(f"/task/{client.uuid}/info"))
    finished = verb == "cancel" and (code == 40 or after.get("status", {}).get("code") in (20, 40))
    await client.follow(end=40 if finished else end)


async def canceled(client: Client) -> None:
    """Three cancels at any moment."""
    await _ordered("cancel", 50, client)


async def removed(client: Client) -> None:
    """Three removes at any moment."""
    await _ordered("remove", 0, client)


#: Every fault by what the table calls it.
FAULTS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "the process is killed at any moment": killed,
    **{f"the process is killed at {point}": functools.partial(killed_at, point) for point in POINTS},
    "the process is stopped and started": stopped,
    "the clock jumps": clock_jumps,
    "the disk is full for a moment": disk_full,
    **{f"a node {name}": functools.partial(node_lies, name) for name in LIES},
    "a node dies and comes back without the task": node_dies,
    "a node answers nobody for some seconds": node_silent,
    "a client commits five times at once": commits_often,
    "a client announces again": announces_often,
    "a client sends each file three times": sends_twice,
    "a client cuts its uploads and sends them again": cuts_upload,
    "a client loses the answer to its commit": loses_commit_answer,
    "clients leave in the middle of downloads": leaves_downloads,
    "an owner cancels, three times": canceled,
    "an owner removes, three times": removed,
}
