# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node that keeps tasks in memory, is as strict as a real one about files, and does one thing differently."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.typedefs import Handler

from clusterodm.core.names import next_name
from tests.support import zipped

#: An answer in place of the node's, or None to have it do its work.
Odd = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


async def _not_odd(request: web.Request) -> web.StreamResponse | None:
    return None


@dataclass
class OddTask:
    """One task. Its state is what a test says it is."""

    files: dict[str, bytes] = field(default_factory=dict)
    console: list[str] = field(default_factory=list)
    code: int = 20
    processing_time: int = -1
    count: int = 0
    announced: bool = True


@dataclass
class OddNode:
    """The tasks, and what is odd."""

    port: int = 0
    tasks: dict[str, OddTask] = field(default_factory=dict)
    #: Files of each upload, in the order in which they were stored.
    uploads: list[list[str]] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    #: Before any request about a task is handled.
    first: Odd = _not_odd
    #: Before an upload is read; after it was stored; in place of the archive.
    before: Odd = _not_odd
    after: Odd = _not_odd
    download: Odd = _not_odd
    answer_output: Odd = _not_odd
    archive: bytes = zipped({"odm_report/report.pdf": b"report"})
    #: Called once a task is committed.
    work: Callable[[OddTask], None] = lambda task: None

    @property
    def last(self) -> OddTask:
        """The task that was committed last."""
        return self.tasks[self.commits[-1]]

    def done(self, task: OddTask) -> None:
        """A task is completed."""
        task.code, task.processing_time = 40, 100

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Be odd first, or go on."""
        odd = await self.first(request) if request.path.startswith("/task/") else None
        return odd if odd is not None else await handler(request)

    async def info(self, request: web.Request) -> web.Response:
        """GET /info."""
        defaults = {"version": "2.2.4", "taskQueueCount": 0, "totalMemory": 1 << 34, "availableMemory": 1 << 33}
        more = {"cpuCores": 8, "maxImages": None, "maxParallelTasks": 10, "engineVersion": "odd", "engine": "odm"}
        return web.json_response(defaults | more)

    async def init(self, request: web.Request) -> web.Response:
        """POST /task/new/init: what is refused has its files deleted."""
        body, uuid = await request.read(), request.headers["set-uuid"]
        if b"\r\n\r\n[\r\n" in body:
            self.tasks.pop(uuid, None)
            return web.json_response({"error": "Invalid options"})
        self.tasks[uuid] = OddTask()
        return web.json_response({"uuid": uuid})

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """POST /task/new/upload: a second file of the same name gets a `_`, whatever is in it."""
        if (odd := await self.before(request)) is not None:
            return odd
        task, stored = self.tasks[request.match_info["uuid"]], list[str]()
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            name = str(part.filename)
            while name in task.files:
                name = next_name(name)
            task.files[name] = bytes(await part.read())
            stored.append(name)
        self.uploads.append(stored)
        return await self.after(request) or web.json_response({"success": True})

    async def commit(self, request: web.Request) -> web.Response:
        """POST /task/new/commit: images are counted as on a real node."""
        uuid = request.match_info["uuid"]
        if uuid not in self.tasks:
            return web.json_response({"error": "Invalid uuid"})
        task = self.tasks[uuid]
        moved = re.compile(r"\.txt$|^align\.(las|laz|tif)$|\.zip$", re.IGNORECASE)
        task.announced, task.count = False, sum(not moved.search(name) for name in task.files)
        self.commits.append(uuid)
        self.work(task)
        return web.json_response({"uuid": uuid})

    def _task(self, request: web.Request) -> OddTask:
        uuid = request.match_info["uuid"]
        if uuid not in self.tasks or self.tasks[uuid].announced:
            raise web.HTTPOk(text='{"error": "not found"}', content_type="application/json")
        return self.tasks[uuid]

    async def task_info(self, request: web.Request) -> web.Response:
        """GET /task/{uuid}/info."""
        task = self._task(request)
        body: dict[str, Any] = {
            "uuid": request.match_info["uuid"],
            "name": "odd",
            "dateCreated": 1,
            "processingTime": task.processing_time,
            "status": {"code": task.code},
            "options": [],
            "imagesCount": task.count,
            "progress": 50,
        }
        if "with_output" in request.query:
            body["output"] = task.console[int(request.query["with_output"]) :]
        return web.json_response(body)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """GET /task/{uuid}/output."""
        if (odd := await self.answer_output(request)) is not None:
            return odd
        return web.json_response(self._task(request).console[int(request.query.get("line", 0)) :])

    async def results(self, request: web.Request) -> web.StreamResponse:
        """GET /task/{uuid}/download/all.zip: no ranges, as on a real node."""
        self._task(request)
        return await self.download(request) or web.Response(body=self.archive, content_type="application/zip")

    async def order(self, request: web.Request) -> web.Response:
        """POST /task/remove and /task/cancel: a node does not know a task before its commit."""
        uuid = str((await request.post())["uuid"])
        if uuid in self.tasks and self.tasks[uuid].announced:
            return web.json_response({"error": f"{uuid} not found"})
        self.tasks.pop(uuid, None)
        return web.json_response({"success": True})


@asynccontextmanager
async def running_odd_node() -> AsyncIterator[OddNode]:
    """An odd node on a port of its own while the block runs."""
    node = OddNode()
    app = web.Application(client_max_size=1 << 30, middlewares=[node.handle])
    app.add_routes(
        [
            web.get("/info", node.info),
            web.post("/task/new/init", node.init),
            web.post("/task/new/upload/{uuid}", node.upload),
            web.post("/task/new/commit/{uuid}", node.commit),
            web.get("/task/{uuid}/info", node.task_info),
            web.get("/task/{uuid}/output", node.output),
            web.get("/task/{uuid}/download/all.zip", node.results),
            web.post("/task/{verb:cancel|remove}", node.order),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        node.port = runner.addresses[0][1]
        yield node
    finally:
        await runner.cleanup()
