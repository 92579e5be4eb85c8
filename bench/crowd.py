# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many clients at once, in a process of their own: python -m bench.crowd PORT UUID POLLERS UPLOADS BYTES SECONDS

Pollers ask for the task every two seconds, each call on a connection of its own, as clients do; uploads go on one after
another. Meanwhile `/info` is asked over and over; its times, in milliseconds, are printed one a line.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid as uuid_module

import aiohttp
import uvloop

POLL = 2.0


async def main(port: int, uuid: str, pollers: int, uploads: int, size: int, seconds: float) -> list[float]:
    """The whole crowd; milliseconds that `/info` took."""
    base = f"http://127.0.0.1:{port}"
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        + bytes(size)
        + b"\r\n--b--\r\n"
    )
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    took: list[float] = []

    async def poll(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(POLL * number / pollers)
        while True:
            async with session.get(f"{base}/task/{uuid}/info") as answer:
                assert (await answer.json())["uuid"] == uuid
            await asyncio.sleep(POLL)

    async def upload(session: aiohttp.ClientSession) -> None:
        while True:
            task = str(uuid_module.uuid4())
            async with session.post(f"{base}/task/new/init", headers={"set-uuid": task}):
                pass
            async with session.post(f"{base}/task/new/upload/{task}", data=body, headers=form) as answer:
                assert await answer.json() == {"success": True}

    async def watch(session: aiohttp.ClientSession) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            async with session.get(f"{base}/info") as answer:
                await answer.read()
            took.append((time.monotonic() - begun) * 1000)
            await asyncio.sleep(0.02)

    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        crowd = [group.create_task(poll(session, number)) for number in range(pollers)]
        crowd += [group.create_task(upload(session)) for _ in range(uploads)]
        await asyncio.sleep(POLL)
        await watch(session)
        for each in crowd:
            each.cancel()
    return took


if __name__ == "__main__":
    given = [int(text) if text.isdigit() else text for text in sys.argv[1:]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for milliseconds in runner.run(main(*given)):  # type: ignore[arg-type]
            print(f"{milliseconds:.2f}")
