"""A node that costs as little as possible: swallows uploads, serves one large file, says what it saw when.

    python -m bench.node FIRST_PORT COUNT FILE [HUNG]

COUNT nodes on ports from FIRST_PORT on; the last HUNG of them accept connections and never answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

#: When the first upload for a task began, by its uuid (monotonic seconds, the same clock for all processes).
FIRST_BYTE: dict[str, float] = {}
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
    while await request.content.readany():
        pass
    return web.json_response({"success": True})


async def commit(request: web.Request) -> web.Response:
    """POST /task/new/commit/{uuid}."""
    return web.json_response({"uuid": request.match_info["uuid"]})


async def task_info(request: web.Request) -> web.Response:
    """GET /task/{uuid}/info: done at once, unless the name of the task says otherwise."""
    uuid = request.match_info["uuid"]
    body: dict[str, Any] = {
        "uuid": uuid,
        "name": "bench",
        "dateCreated": 1,
        "processingTime": 1000,
        "status": {"code": 40},
        "options": [],
        "imagesCount": 1,
        "progress": 100,
        "output": [],
    }
    return web.json_response(body)


async def order(request: web.Request) -> web.Response:
    """POST /task/cancel and /task/remove."""
    return web.json_response({"success": True})


async def seen(request: web.Request) -> web.Response:
    """GET /seen/{uuid}: when the first upload for it began."""
    return web.json_response(FIRST_BYTE.get(request.match_info["uuid"]))


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
    arguments = sys.argv[1:]
    uvloop.run(
        main(int(arguments[0]), int(arguments[1]), Path(arguments[2]), int(arguments[3]) if arguments[3:] else 0)
    )
