# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node that costs as little as possible: swallows uploads, serves one large file, says what it saw when.

    python -m bench.node FIRST_PORT COUNT FILE [--hung N] [--slots N] [--bytes-per-second N] [--works]

COUNT nodes on ports from FIRST_PORT on; the last HUNG of them accept connections and never answer. Tasks are done at
once, or, with --works, never. All nodes together take no more than so many bytes a second.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

#: When the first upload for a task began, by its uuid (monotonic seconds, the same clock for all processes).
FIRST_BYTE: dict[str, float] = {}
#: When a task was committed, likewise.
COMMITTED: dict[str, float] = {}
LINES = [f"line {number} of what the engine says while it works" for number in range(200)]
INFO = {
    "version": "2.2.4",
    "taskQueueCount": 0,
    "totalMemory": 1 << 34,
    "availableMemory": 1 << 33,
    "cpuCores": 8,
    "maxImages": None,
    "maxParallelTasks": 1000,
    "engineVersion": "bench",
    "engine": "odm",
}


WORKS = False


class Speed:
    """So many bytes a second over all connections; 0: as many as come."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._next = 0.0

    async def wait(self, count: int) -> None:
        """Wait until `count` more bytes may come. What was not used within a tenth of a second is lost."""
        if not self.per_second:
            return
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + count / self.per_second
        if self._next > now:
            await asyncio.sleep(self._next - now)


SPEED = Speed(0)


async def info(request: web.Request) -> web.Response:
    """GET /info."""
    return web.json_response(INFO)


async def options(request: web.Request) -> web.Response:
    """GET /options."""
    return web.json_response([])


async def init(request: web.Request) -> web.Response:
    """POST /task/new/init."""
    await request.read()
    return web.json_response({"uuid": request.headers["set-uuid"]})


async def upload(request: web.Request) -> web.Response:
    """POST /task/new/upload/{uuid}: read and forget."""
    FIRST_BYTE.setdefault(request.match_info["uuid"], time.monotonic())
    while piece := await request.content.readany():
        await SPEED.wait(len(piece))
    return web.json_response({"success": True})


async def commit(request: web.Request) -> web.Response:
    """POST /task/new/commit/{uuid}."""
    COMMITTED.setdefault(request.match_info["uuid"], time.monotonic())
    return web.json_response({"uuid": request.match_info["uuid"]})


async def task_info(request: web.Request) -> web.Response:
    """GET /task/{uuid}/info."""
    uuid = request.match_info["uuid"]
    line = int(request.query.get("with_output", len(LINES)))
    body: dict[str, Any] = {
        "uuid": uuid,
        "name": "bench",
        "dateCreated": 1,
        "processingTime": 1000,
        "status": {"code": 20 if WORKS else 40},
        "options": [],
        "progress": 10 if WORKS else 100,
        "output": LINES[line:] if WORKS else [],
    }
    return web.json_response(body)


async def order(request: web.Request) -> web.Response:
    """POST /task/cancel and /task/remove."""
    return web.json_response({"success": True})


async def seen(request: web.Request) -> web.Response:
    """GET /seen/{uuid}: when the first upload for it began, and when it was committed."""
    uuid = request.match_info["uuid"]
    return web.json_response([FIRST_BYTE.get(uuid), COMMITTED.get(uuid)])


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(3600)


async def main(first: int, count: int, file: Path, hung: int) -> None:
    """Serve until killed."""

    async def download(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(file, chunk_size=1 << 20, headers={"Content-Type": "application/zip"})

    app = web.Application()
    app.add_routes(
        [
            web.get("/info", info),
            web.get("/options", options),
            web.post("/task/new/init", init),
            web.post("/task/new/upload/{uuid}", upload),
            web.post("/task/new/commit/{uuid}", commit),
            web.get("/task/{uuid}/info", task_info),
            web.get("/task/{uuid}/download/all.zip", download),
            web.post("/task/{verb:cancel|remove}", order),
            web.get("/seen/{uuid}", seen),
        ]
    )
    runner = web.AppRunner(app, access_log=None, read_bufsize=1 << 20)
    await runner.setup()
    for number in range(count - hung):
        await web.TCPSite(runner, "127.0.0.1", first + number).start()
    servers = [await asyncio.start_server(hang, "127.0.0.1", first + count - 1 - number) for number in range(hung)]
    print("ready", len(servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--hung", type=int, default=0)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--bytes-per-second", type=int, default=0)
    parser.add_argument("--works", action="store_true")
    given = parser.parse_args()
    WORKS, SPEED, INFO["maxParallelTasks"] = given.works, Speed(given.bytes_per_second), given.slots
    uvloop.run(main(given.first, given.count, given.file, given.hung))
