# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pretended cloud: machines with a state, an address on loopback, disks, and a development node that starts when they
do, as their user-data says. What speaks a provider's API over it is beside this file."""

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

from clusterodm.devnode import DevNode, Knobs, running_devnode
from clusterodm.devnode.tasks import DevTask

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What may happen to a request instead of being answered: refused before it is done, throttled, or done without the
#: answer reaching anybody.
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
    """All machines of one cloud, and knobs for what may go wrong."""

    def __init__(self, *, port: int, net: int = 1) -> None:
        #: Where nodes listen, each on its machine's own address of 127.`net`.0.0/16.
        self.port = port
        self._net = net
        self.machines: dict[str, FakeMachine] = {}
        #: Every machine that there ever was.
        self.created: list[FakeMachine] = []
        #: Disks that there are, also those that belong to no machine any more.
        self.volumes: set[str] = set()
        #: Forecasts that are out of stock.
        self.out_of_stock: set[str] = set()
        #: Machines that the account may have; -1: any number.
        self.quota = -1
        #: Nodes that were told of a bucket put their results into it.
        self.uploads = True
        #: Machines start, but their nodes never answer.
        self.dead_on_arrival = False
        #: How nodes behave, beside what the user-data says.
        self.knobs: dict[str, Any] = {"seconds": 0.0}
        #: What happens to a request: one of the words above, or nothing.
        self.misbehave: Callable[[web.Request], str] = lambda request: ""
        #: Seconds for which a throttled answer asks for a pause, and that answer as this cloud gives it.
        self.pause = 0.0
        self.throttled: Callable[[float], web.Response] = lambda seconds: web.Response(status=429)
        #: Called with each request that was understood and its answer, to compare them with a description.
        self.watch: Callable[[web.Request, bytes, web.Response], None] = lambda request, body, response: None
        self.calls: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self, app: web.Application) -> AsyncIterator[str]:
        """The cloud's API on loopback while the block runs; its URL."""
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
        """Machines can be started while the block runs, and end with it."""
        async with asyncio.TaskGroup() as self._group:
            yield self._group
            for machine in list(self.machines.values()):
                self.delete(machine)

    def find_room(self, size: str) -> bool:
        """Whether a machine of that size can be had."""
        full = 0 <= self.quota <= len(self.machines)
        return size not in self.out_of_stock and not full

    def create(self, name: str, size: str, location: str, **given: Any) -> FakeMachine:
        """A machine that is not started yet."""
        number = len(self.created) + 1
        machine = FakeMachine(
            id=str(uuid.uuid4()) if given.pop("uuid", False) else str(1000 + number),
            name=name,
            size=size,
            location=location,
            address=f"127.{self._net}.{number // 250}.{number % 250 + 1}",
            volumes=[str(uuid.uuid4())],
            **given,
        )
        self.machines[machine.id] = machine
        self.created.append(machine)
        self.volumes.update(machine.volumes)
        return machine

    def start(self, machine: FakeMachine) -> None:
        """Switch a machine on."""
        assert self._group is not None, "running"  # noqa: S101 - a context manager
        machine.state = "running"
        if not self.dead_on_arrival:
            self._group.create_task(self._live(machine))

    def delete(self, machine: FakeMachine, *, keep_volumes: bool = False) -> None:
        """A machine ends at once."""
        self.machines.pop(machine.id, None)
        machine.gone.set()
        if not keep_volumes:
            self.volumes.difference_update(machine.volumes)

    async def _live(self, machine: FakeMachine) -> None:
        """What its user-data makes of it."""
        document = json.loads(machine.user_data.removeprefix("#cloud-config\n"))
        written = {file["path"]: file["content"] for file in document["write_files"]}
        said = json.loads(written["/etc/clusterodm/node.json"])
        knobs = Knobs(
            token=said["token"], max_images=said["maxImages"], slots=said["parallelQueueProcessing"], **self.knobs
        )
        async with running_devnode(knobs, host=machine.address, port=self.port) as (machine.node, _):
            if "s3Bucket" in said:
                machine.node.done = self._putting(machine.node, said)
            await machine.gone.wait()

    def _putting(self, node: DevNode, said: dict[str, Any]) -> Callable[[DevTask], Awaitable[None]]:
        """Put results into a bucket, as a node does that was told of one."""
        store = S3Store(
            said["s3Bucket"],
            endpoint=said["s3Endpoint"],
            access_key_id=said["s3AccessKey"],
            secret_access_key=said["s3SecretKey"],
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
    """The page of a list that a request asks for."""
    size, number = int(request.query.get("per_page", 20)), int(request.query.get("page", 1))
    return items[(number - 1) * size : number * size]
