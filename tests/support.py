# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests are made of: running clusters and nodes, and a plain client that hides nothing."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.nodes import make_address
from clusterodm.devnode import DevNode, Knobs, running_devnode
from clusterodm.server.app import Cluster, running_cluster
from clusterodm.settings import load_settings
from clusterodm.store import Store

#: Everything happens at once in tests.
FAST: dict[str, Any] = {
    "port": 0,
    "host": "127.0.0.1",
    "node_poll_interval": 0.05,
    "task_poll_interval": 0.05,
    "shutdown_grace": 0.2,
    "log_file": "",
    "admin_cli_port": 0,
    "admin_web_port": 0,
    "fast_paths": os.environ.get("CLUSTERODM_FAST_PATHS", "on"),
}


class TurnedClock(Clock):
    """A clock with hours added by a test: `ahead` really went by, `jumped` is only what the wall clock says."""

    def __init__(self) -> None:
        self.ahead = self.jumped = 0.0
        super().__init__(lambda: time.time() + self.ahead + self.jumped, lambda: time.monotonic() + self.ahead)


async def eventually(check: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """The first true value of `check()` (awaited when it can be); fails when there is none in time."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, f"did not become true within {seconds} s"
        await asyncio.sleep(0.005)


async def holder(store: Store, lock: str) -> str:
    """The holder of a lock, by the database; empty if it is free."""
    async with store._transaction() as connection:
        return (await connection.execute(store._holder(lock))).scalar_one_or_none() or ""


class Api:
    """Calls as clients make them: one connection a call, the body as it came."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.query = {"token": token} if token else {}
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET."""
        async with self.session.get(self.url + path, params={**self.query, **query}) as response:
            return await response.json()

    async def post(self, path: str, data: Any = None, **how: Any) -> Any:
        """The JSON of a POST."""
        async with self.session.post(self.url + path, params=self.query, data=data, **how) as response:
            return await response.json()

    async def raw(self, method: str, path: str, **how: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of any request."""
        async with self.session.request(method, self.url + path, params=self.query, **how) as response:
            return response.status, dict(response.headers), await response.read()

    async def init(self, *, uuid: str = "", **fields: str) -> str:
        """Announce a task; its uuid."""
        answer = await self.post("/task/new/init", form(fields), headers={"set-uuid": uuid} if uuid else {})
        return str(answer["uuid"])

    async def upload(self, uuid: str, **files: bytes) -> Any:
        """Upload files given as name=bytes (`__` stands for a dot)."""
        return await self.post(f"/task/new/upload/{uuid}", images({_name(key): value for key, value in files.items()}))

    async def commit(self, uuid: str) -> Any:
        """Commit a task."""
        return await self.post(f"/task/new/commit/{uuid}")

    async def create(self, count: int = 2, *, uuid: str = "", **fields: str) -> str:
        """A whole task with `count` small files; its uuid."""
        uuid = await self.init(uuid=uuid, **fields)
        for number in range(count):
            await self.post(f"/task/new/upload/{uuid}", images({f"{number}.jpg": b"photo %d" % number}))
        assert await self.commit(uuid) == {"uuid": uuid}
        return uuid

    async def code(self, uuid: str) -> int:
        """The status code of a task."""
        return int((await self.get(f"/task/{uuid}/info"))["status"]["code"])

    async def ends(self, uuid: str, code: int = 40, *, seconds: float = 20.0) -> Any:
        """The info of a task once it is over with this code; fails at once when it ends with another."""

        async def over() -> Any:
            info = await self.get(f"/task/{uuid}/info")
            assert info["status"]["code"] in (10, 20, code), info
            return info if info["status"]["code"] == code else None

        return await eventually(over, seconds=seconds)


def _name(key: str) -> str:
    return key.replace("__", ".")


def form(fields: dict[str, str]) -> aiohttp.FormData:
    """A multipart form of fields."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value)
    return data


def images(files: dict[str, bytes], fields: dict[str, str] | None = None) -> aiohttp.FormData:
    """A multipart form of files, then fields."""
    data = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    for name, content in files.items():
        data.add_field("images", io.BytesIO(content), filename=name, content_type="image/jpeg")
    for name, value in (fields or {}).items():
        data.add_field(name, value)
    return data


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            archive.writestr(name, value)
    return content.getvalue()


_EMPTY: list[bytes] = []


async def empty_database() -> bytes:
    """A database with nothing in it. To migrate one takes a tenth of a second, and a thousand tests need one."""
    if not _EMPTY:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clusterodm.db"
            await (await Store.open(f"sqlite+aiosqlite:///{file}")).close()
            _EMPTY.append(file.read_bytes())
    return _EMPTY[0]


@dataclass
class Rig:
    """A cluster with nodes, and a client of it."""

    folder: Path
    stack: AsyncExitStack
    nodes: list[DevNode] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    stops: list[AsyncExitStack] = field(default_factory=list)
    clock: TurnedClock = field(default_factory=TurnedClock)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)
    _cluster: Cluster | None = None
    _api: Api | None = None

    @property
    def cluster(self) -> Cluster:
        """The running cluster."""
        assert self._cluster is not None
        return self._cluster

    @property
    def api(self) -> Api:
        """The client."""
        assert self._api is not None
        return self._api

    async def add_node(self, *, port: int = 0, folder: Path | None = None, **knobs: Any) -> DevNode:
        """Start a development node; it ends with the rig or by `stop_node`."""
        stop = await self.stack.enter_async_context(AsyncExitStack())
        knobs = {"seconds": 0.0, "fast_paths": FAST["fast_paths"] == "on"} | knobs
        node, opened = await stop.enter_async_context(running_devnode(Knobs(**knobs), port=port, folder=folder))
        self.nodes.append(node)
        self.ports.append(opened)
        self.stops.append(stop)
        if self._cluster is not None:
            await self.cluster.context.registry.add(make_address("127.0.0.1", opened))
        return node

    async def stop(self) -> None:
        """End the cluster; it may be started again on its folder."""
        self._cluster = None
        await self._running.aclose()

    async def stop_node(self, number: int) -> None:
        """End a node at once."""
        await self.stops[number].aclose()

    async def start(self, *, client_token: str = "", **settings: Any) -> Api:
        """Start the cluster with all nodes there are; a client with its token, or that of the settings."""
        flags = (
            FAST | {"data_dir": self.folder / "data", "node": [f"127.0.0.1:{port}" for port in self.ports]} | settings
        )
        data = Path(flags["data_dir"])
        if not data.exists() and "database_url" not in settings:
            data.mkdir(mode=0o700)
            (data / "clusterodm.db").write_bytes(await empty_database())
        self._running = await self.stack.enter_async_context(AsyncExitStack())
        self._cluster = await self._running.enter_async_context(
            running_cluster(load_settings(flags, environ={}), clock=self.clock)
        )
        self._api = Api(self._cluster.url, client_token or settings.get("token", ""))
        self.stack.push_async_callback(self._api.session.close)
        return self._api

    async def ready(self) -> None:
        """All nodes are online."""
        registry = self.cluster.context.registry
        await eventually(lambda: all(node.online for node in registry.nodes()))

    def entry(self, uuid: str) -> Entry:
        """A task as the cluster has it in memory."""
        entry = self.cluster.context.tasks.get(uuid)
        assert entry is not None
        return entry

    async def timeline(self, uuid: str) -> list[str]:
        """The lines of a task's timeline."""
        return [event.text for event in await self.cluster.context.store.timeline(uuid)]


async def narrow(cluster: Rig, *nodes: DevNode) -> None:
    """Have nodes refuse a value of an option that the cluster believes to be good: `feature-quality` other than low."""
    described = cluster.cluster.context.registry.description
    await eventually(lambda: described.now.info.engine_version == "development")
    for node in nodes:
        [option] = [option for option in node.options if option["name"] == "feature-quality"]
        option["domain"] = ["low"]


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """A rig whose parts end with the block."""
    async with AsyncExitStack() as stack:
        yield Rig(folder, stack)
