# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bulk files to a node: many at a time in one request when they are small, over some connections, one thread each.

What fails without a clear refusal is sent again. A node may then have a file twice: that is seen after the commit, in
its count of images. Files may be added while others are on their way.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from clusterodm.core.errors import NodeUnreachable
from clusterodm.core.nodes import NodeAddress
from clusterodm.nodeodm.backlog import Backlog
from clusterodm.nodeodm.trust import Trust
from clusterodm.nodeodm.upload import Refused, Unsure, Uploader

#: Seconds between two looks whether what is more urgent still uses up the speed that is allowed.
_YIELD: Final = 0.05
#: Seconds between two looks whether the node is still there, and for which one that refuses connections may be starting
#: again.
_LOOK: Final = 0.25
_STARTS_AGAIN: Final = 1.0


class RateLimit:
    """Bytes per second over all transfers together; 0: none."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._lock = threading.Lock()
        self._next = 0.0
        #: Transfers that others have to make way for.
        self.urgent = 0

    def wait(self, count: int) -> None:
        """Block the calling thread until `count` more bytes may go."""
        if not self.per_second:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + count / self.per_second
        if start > now:
            time.sleep(start - now)


class Transfer:
    """The files of one attempt on their way to one node: `add` them, say `end`; `run` returns once all are there."""

    def __init__(
        self,
        node: NodeAddress,
        uuid: str,
        *,
        connections: int,
        urgent: bool,
        limit: RateLimit,
        executor: Executor,
        tls: ssl.SSLContext,
    ) -> None:
        self._node = node
        self._uuid = uuid
        self._limit = limit
        self._most = connections
        self._executor = executor
        self._tls = tls
        self._backlog = Backlog(connections)
        self._uploaders: list[Uploader] = []
        self._urgent = urgent
        self._running = False
        #: Since when the node refuses connections; 0: it does not.
        self._refused_since = 0.0
        #: True if another node would take the task at once; asked while this one refuses connections.
        self.elsewhere: Callable[[], bool] = lambda: False

    @property
    def arrived_files(self) -> int:
        """Files that the node has confirmed."""
        return self._backlog.arrived_files

    @property
    def arrived_bytes(self) -> int:
        """Bytes of the files that the node has confirmed."""
        return self._backlog.arrived_bytes

    @property
    def under_way(self) -> int:
        """Bytes that the node's side has acknowledged of files that it has not confirmed."""
        return sum(uploader.under_way for uploader in list(self._uploaders))

    @property
    def sent_bytes(self) -> int:
        """Bytes of files that were put on their way, what was sent again included."""
        return sum(uploader.sent_bytes for uploader in list(self._uploaders))

    def add(self, file: Path, size: int) -> None:
        """Add a file of this size."""
        self._backlog.add(file, size)

    def end(self) -> None:
        """No more files will come."""
        self._backlog.end()

    def prioritise(self) -> None:
        """From now on transfers that are not urgent make way for this one, where the speed is limited."""
        if not self._urgent:
            self._urgent = True
            self._limit.urgent += self._running

    async def run(self) -> None:
        """Send all files until the last one was added. Raises a NodeError, or FilesLost for a file that is no longer
        here as it was; nothing is in flight after it."""
        loop = asyncio.get_running_loop()
        count = min(self._most, self._backlog.waiting) if self._backlog.ended else self._most
        lanes = [loop.run_in_executor(self._executor, self._lane) for _ in range(count)]
        if not lanes:
            return
        self._running = True
        self._limit.urgent += self._urgent
        try:
            under_way = set(lanes)
            while under_way and not any(lane.done() and lane.exception() for lane in lanes):
                self._check_refusals()
                _, under_way = await asyncio.wait(under_way, timeout=_LOOK, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stop()
            await asyncio.wait(lanes)
            self._running = False
            self._limit.urgent -= self._urgent
        errors = [error for lane in lanes if (error := lane.exception())]
        if errors:
            raise errors[0]

    def _check_refusals(self) -> None:
        """Raise NodeUnreachable where waiting for a node that is not there helps nobody; one that only starts again is
        back before that."""
        since = self._refused_since
        if since and time.monotonic() - since > _STARTS_AGAIN and self.elsewhere():
            raise NodeUnreachable("the node refuses connections, and another one is free")

    def _stop(self) -> None:
        self._backlog.stop()
        for uploader in list(self._uploaders):
            uploader.stop()

    def _lane(self) -> None:
        uploader = Uploader(
            self._node, self._uuid, self._tls, limited=bool(self._limit.per_second), gate=self._wait_for_turn
        )
        self._uploaders.append(uploader)
        try:
            while batch := self._backlog.take(uploader.close):
                try:
                    uploader.send(batch)
                except Unsure as error:
                    refused = isinstance(error, Refused)
                    self._refused_since = (self._refused_since or time.monotonic()) if refused else 0.0
                    self._backlog.again(batch, str(error))
                else:
                    self._refused_since = 0.0
                    self._backlog.arrived(batch)
        finally:
            uploader.close()

    def _wait_for_turn(self, count: int) -> None:
        """Block until so many bytes may go: transfers that are not urgent make way, and the speed may be limited."""
        while self._limit.per_second and self._limit.urgent and not self._urgent and not self._backlog.stopped:
            time.sleep(_YIELD)
        self._limit.wait(count)


class Transfers:
    """Makes transfers, `most` at a time, over so many `connections` each. They share their threads, and a limit with
    others; those that are not urgent make way for those that are."""

    def __init__(self, trust: Trust, limit: RateLimit, *, connections: int, most: int, urgent: bool) -> None:
        self._trust = trust
        self._limit = limit
        self._connections = connections
        self._urgent = urgent
        self._threads = ThreadPoolExecutor(max(1, most * connections), thread_name_prefix="transfer")

    def to(self, node: NodeAddress, uuid: str) -> Transfer:
        """A transfer to a node, of the task that has this uuid there."""
        return Transfer(
            node,
            uuid,
            connections=self._connections,
            urgent=self._urgent,
            limit=self._limit,
            executor=self._threads,
            tls=self._trust.context(node),
        )

    def close(self) -> None:
        """Let go of the threads; those that still send are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
