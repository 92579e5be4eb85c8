# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state behind a fake cloud: machines with a state, an address on loopback, disks, and a development node that is
started with them as their user data says. The APIs over it are in the modules beside this one."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import obstore
from aiohttp import web
from obstore.store import S3Store

from clusterodm.aio import Clock
from clusterodm.devnode import DevNode, Knobs, running_devnode
from clusterodm.devnode.tasks import DevTask

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Fates of a request: failed without being carried out, throttled, or carried out with the response lost.
REFUSE: Final = "refuse"
THROTTLE: Final = "throttle"
LOSE: Final = "lose"


@dataclass
class FakeMachine:
    """One machine."""

    id: str
    name: str
    size: str
    location: str
    address: str
    labels: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    user_data: str = ""
    state: str = "stopped"
    volumes: list[str] = field(default_factory=list)
    node: DevNode | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    """All machines of one cloud, and knobs for failures."""

    def __init__(self, *, port: int, net: int = 1, clock: Clock | None = None) -> None:
        #: Port of all nodes. Each machine has an address of its own in 127.`net`.0.0/16.
        self.port = port
        self.clock = clock or Clock()
        self._net = net
        self.machines: dict[str, FakeMachine] = {}
        #: Every machine ever created.
        self.created: list[FakeMachine] = []
        #: Existing disks, also those of deleted machines.
        self.volumes: set[str] = set()
        #: Sizes that are out of stock.
        self.out_of_stock: set[str] = set()
        #: Machines that the account may have; -1: no limit.
        self.quota = -1
        #: Nodes with a bucket upload their results to it.
        self.uploads = True
        #: Machines start, but their nodes do not.
        self.dead_on_arrival = False
        #: Knobs of nodes, in addition to their user data.
        self.knobs: dict[str, Any] = {"seconds": 0.0}
        #: Returns the fate of a request: one of the above, or "".
        self.misbehave: Callable[[web.Request], str] = lambda request: ""
        #: Seconds of a pause, and the response with which this cloud asks for it.
        self.pause = 0.0
        self.throttled: Callable[[float], web.Response] = lambda seconds: web.Response(status=429)
        #: Called with each request and its response, to validate them against an API description.
        self.watch: Callable[[web.Request, bytes, web.Response], None] = lambda request, body, response: None
        self.calls: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self, app: web.Application) -> AsyncIterator[str]:
        """Serve an API on loopback while the block runs; yield its URL."""
        app.middlewares.append(self._middleware)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with self.living():
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def living(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Allow machines to be started while the block runs; stop them at its end."""
        async with asyncio.TaskGroup() as self._group:
            yield self._group
            for machine in list(self.machines.values()):
                self.delete(machine)

    def find_room(self, size: str) -> bool:
        """True if a machine of that size can be created."""
        full = 0 <= self.quota <= len(self.machines)
        return size not in self.out_of_stock and not full

    def create(self, name: str, size: str, location: str, **fields: Any) -> FakeMachine:
        """Create a machine that is stopped."""
        number = len(self.created) + 1
        machine = FakeMachine(
            id=str(uuid.uuid4()) if fields.pop("uuid", False) else str(1000 + number),
            name=name,
            size=size,
            location=location,
            address=f"127.{self._net}.{number // 250}.{number % 250 + 1}",
            volumes=[str(uuid.uuid4())],
            **fields,
        )
        self.machines[machine.id] = machine
        self.created.append(machine)
        self.volumes.update(machine.volumes)
        return machine

    def start(self, machine: FakeMachine) -> None:
        """Power a machine on."""
        assert self._group is not None, "running"  # noqa: S101 - a context manager
        machine.state = "running"
        if not self.dead_on_arrival:
            self._group.create_task(self._live(machine))

    def delete(self, machine: FakeMachine, *, keep_volumes: bool = False) -> None:
        """Delete a machine at once."""
        self.machines.pop(machine.id, None)
        machine.gone.set()
        if not keep_volumes:
            self.volumes.difference_update(machine.volumes)

    async def _live(self, machine: FakeMachine) -> None:
        """Run the node of a machine as its user data says."""
        document = json.loads(machine.user_data.removeprefix("#cloud-config\n"))
        written = {file["path"]: file["content"] for file in document["write_files"]}
        config = json.loads(written["/etc/clusterodm/node.json"])
        knobs = Knobs(
            token=config["token"], max_images=config["maxImages"], slots=config["parallelQueueProcessing"], **self.knobs
        )
        async with running_devnode(knobs, host=machine.address, port=self.port) as (machine.node, _):
            if "s3Bucket" in config:
                machine.node.done = self._uploader(machine.node, config)
            await machine.gone.wait()

    def _uploader(self, node: DevNode, config: dict[str, Any]) -> Callable[[DevTask], Awaitable[None]]:
        """Return a function that uploads results to a bucket, as nodes do."""
        store = S3Store(
            config["s3Bucket"],
            endpoint=config["s3Endpoint"],
            access_key_id=config["s3AccessKey"],
            secret_access_key=config["s3SecretKey"],
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

        async def put(task: DevTask) -> None:
            if self.uploads:
                await obstore.put_async(store, f"{task.uuid}/all.zip", node.archive(task.uuid).read_bytes())
                await obstore.put_async(store, f"{task.uuid}/orthophoto.tif", b"TIFF " * 1000)

        return put

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        self.calls[request.method] += 1
        fate = self.misbehave(request)
        if fate == REFUSE:
            return web.json_response({"message": "internal error"}, status=500)
        if fate == THROTTLE:
            refusal = self.throttled(self.pause)
            self.watch(request, body, refusal)
            return refusal
        response = await handler(request)
        if isinstance(response, web.Response):
            self.watch(request, body, response)
        if fate == LOSE and request.transport is not None:
            request.transport.abort()
        return response


def page(request: web.Request, items: list[Any]) -> list[Any]:
    """Return the page of a list that a request asks for."""
    size, number = int(request.query.get("per_page", 20)), int(request.query.get("page", 1))
    return items[(number - 1) * size : number * size]
