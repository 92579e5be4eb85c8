# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Units of a cluster over a real database, without any loop but those that a test runs, on a clock that it turns."""

from __future__ import annotations

import asyncio
import uuid as uuid_module
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from clusterodm.aio import Clock, Leadership
from clusterodm.auth import JobTokens
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.cleaner import Cleaner
from clusterodm.cluster.tasks.placement import Placer
from clusterodm.cluster.tasks.sending import Sender
from clusterodm.core.changes import TaskChanges
from clusterodm.core.files import Manifest
from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Attempt, Phase, Task
from clusterodm.server.assembly import ClusterIdentity, build
from clusterodm.server.context import Context
from clusterodm.server.schedule import Part
from clusterodm.settings import load_settings
from clusterodm.store import Store
from tests.support import FAST, TurnedClock, empty_database

PHOTOS = {"a.jpg": b"first", "b.jpg": b"second"}


@dataclass
class Units:
    """The parts of one cluster."""

    context: Context
    clock: TurnedClock
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def placer(self) -> Placer:
        """What decides."""
        return self.context.dispatcher.placer

    @property
    def sender(self) -> Sender:
        """What sends."""
        return self.context.dispatcher.sender

    async def add_node(self, port: int) -> Node:
        """A node, once it is online."""
        node = await self.context.registry.add(make_address("127.0.0.1", port))
        await self.until(lambda: node.online)
        return node

    async def add_upload(self, files: dict[str, bytes] | None = None) -> Entry:
        """An upload with these files that is not committed."""
        context, uuid = self.context, str(uuid_module.uuid4())
        task = Task(uuid=uuid, owner="", phase=Phase.RECEIVING, created_at=self.clock())
        entry = await context.tasks.add(task, "announced")
        assert entry is not None
        for name, content in (PHOTOS if files is None else files).items():
            part = context.spool.new_part(uuid)
            await part.write(content)
            await part.close()
            await context.spool.publish(uuid, part, name)
        return entry

    async def commit(self, entry: Entry) -> None:
        """Commit an upload."""
        held = await self.context.spool.listing(entry.task.uuid)
        count, size = len(held), sum(file.size for file in held)
        columns = TaskChanges(
            file_count=count, image_count=count, counted_files=count, byte_count=size, committed_at=self.clock()
        )
        await self.context.tasks.advance(entry, Phase.QUEUED, "committed", manifest=Manifest(held), **columns)

    async def add_task(self, files: dict[str, bytes] | None = None) -> Entry:
        """A committed task with these files."""
        entry = await self.add_upload(files)
        await self.commit(entry)
        return entry

    async def until(self, check: Callable[[], Any]) -> None:
        """Wait until a change of a task or a node has made this true."""
        async with asyncio.timeout(30):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def timeline(self, entry: Entry) -> list[str]:
        """The lines of a task's timeline."""
        return [event.text for event in await self.context.store.timeline(entry.task.uuid)]

    def cleaner(self) -> Cleaner:
        """What cancels and removes on nodes, not running."""
        runtime = Runtime(clock=self.clock, leadership=Leadership(self.clock), metrics=self.context.metrics)
        return Cleaner(state=self.context.control.state, client=self.context.client, runtime=runtime)

    def watch(self) -> None:
        """Be told of changes."""
        self.context.tasks.watch(lambda entry: self._changed.set())
        self.context.registry.watch(self._changed.set)


def attempt_of(entry: Entry) -> Attempt:
    """The attempt of a task that has one."""
    assert entry.attempt is not None
    return entry.attempt


@asynccontextmanager
async def running(
    *parts: Part | Callable[[], Coroutine[Any, Any, object]], elected: bool = False
) -> AsyncIterator[None]:
    """Run the loops of these parts, or functions, while the block runs; with their election work if elected."""
    loops = [loop for part in parts if not callable(part) for loop in part.loops()]
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Any]] = [group.create_task(loop.run()) for loop in loops]
        tasks += [group.create_task(part()) for part in parts if callable(part)]
        for loop in loops if elected else ():
            await loop.on_elected()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def assembled(folder: Path, clock: Clock, **settings: Any) -> AsyncIterator[Context]:
    """All parts of the cluster c1 over a real database; no loop runs."""
    (folder / "clusterodm.db").write_bytes(await empty_database())
    flags = FAST | {"data_dir": folder} | settings
    async with AsyncExitStack() as stack:
        store = await Store.open(f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        own = ClusterIdentity(JobTokens(JobTokens.new_key()), "c1")
        parts = build(load_settings(flags, environ={}), folder, store, session, own, clock)
        stack.push_async_callback(parts.close)
        yield parts.context


@asynccontextmanager
async def units(folder: Path, **settings: Any) -> AsyncIterator[Units]:
    """The parts of a cluster; only its nodes are polled."""
    clock = TurnedClock()
    async with assembled(folder, clock, **{"prefetch": 0, **settings}) as context:
        built = Units(context, clock)
        built.watch()
        async with running(context.registry):
            try:
                yield built
            finally:
                built.sender.transfers.close()
