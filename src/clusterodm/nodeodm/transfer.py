# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bulk uploads to a node: small files share a request, and each of several connections has a thread.

What fails without a clear refusal is sent again. A node may then have a file twice, which its count of images reveals
after the commit. Files may be added while others are being sent.
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

from clusterodm.aio import Clock
from clusterodm.core.errors import NodeUnreachable
from clusterodm.core.nodes import NodeAddress
from clusterodm.nodeodm.backlog import Backlog
from clusterodm.nodeodm.trust import Trust
from clusterodm.nodeodm.upload import Refused, Unsure, Uploader

#: Seconds between two checks for urgent transfers.
_YIELD: Final = 0.05
#: Seconds between two checks for refused connections, and for which a node that refuses them may be restarting.
_CHECK_INTERVAL: Final = 0.25
_RESTART_TIME: Final = 1.0


class RateLimit:
    """A limit in bytes per second over all transfers together; 0: no limit."""

    def __init__(self, per_second: int, clock: Clock) -> None:
        self.per_second = per_second
        self.clock = clock
        self._lock = threading.Lock()
        self._next = 0.0
        #: Running transfers that have precedence.
        self.urgent = 0

    def wait(self, count: int) -> None:
        """Block the calling thread until `count` more bytes may be sent."""
        if not self.per_second:
            return
        with self._lock:
            now = self.clock.steady()
            start = max(self._next, now)
            self._next = start + count / self.per_second
        if start > now:
            time.sleep(start - now)


class Transfer:
    """Uploads the files of one attempt to one node: `add` them, then `end`; `run` returns once all are confirmed."""

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
        self._clock = limit.clock
        self._backlog = Backlog(connections, limit.clock)
        self._uploaders: list[Uploader] = []
        self._urgent = urgent
        self._running = False
        #: When the node began to refuse connections, by the monotonic clock; 0: it does not.
        self._refused_since = 0.0
        #: Returns True if another node would take the task at once; called while this one refuses connections.
        self.elsewhere: Callable[[], bool] = lambda: False

    @property
    def arrived_files(self) -> int:
        """Number of files that the node has confirmed."""
        return self._backlog.arrived_files

    @property
    def arrived_bytes(self) -> int:
        """Bytes of the files that the node has confirmed."""
        return self._backlog.arrived_bytes

    @property
    def under_way(self) -> int:
        """Bytes that the peer has acknowledged of files that the node has not confirmed."""
        return sum(uploader.under_way for uploader in list(self._uploaders))

    @property
    def sent_bytes(self) -> int:
        """Bytes of files that were sent, retries included."""
        return sum(uploader.sent_bytes for uploader in list(self._uploaders))

    def add(self, file: Path, size: int) -> None:
        """Add a file of this size."""
        self._backlog.add(file, size)

    def end(self) -> None:
        """Declare that no more files will be added."""
        self._backlog.end()

    def prioritise(self) -> None:
        """Give this transfer precedence over those that are not urgent, where the speed is limited."""
        if not self._urgent:
            self._urgent = True
            self._limit.urgent += self._running

    async def run(self) -> None:
        """Send all files, including those added meanwhile. Raise a NodeError, or FilesLost if a file is missing or
        damaged; afterwards nothing is in flight."""
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
                _, under_way = await asyncio.wait(
                    under_way, timeout=_CHECK_INTERVAL, return_when=asyncio.FIRST_EXCEPTION
                )
        finally:
            self._stop()
            await asyncio.wait(lanes)
            self._running = False
            self._limit.urgent -= self._urgent
        errors = [error for lane in lanes if (error := lane.exception())]
        if errors:
            raise errors[0]

    def _check_refusals(self) -> None:
        """Raise NodeUnreachable if another node is free while this one refuses connections for longer than a restart
        takes."""
        since = self._refused_since
        if since and self._clock.steady() - since > _RESTART_TIME and self.elsewhere():
            raise NodeUnreachable("the node refuses connections, and another one is free")

    def _stop(self) -> None:
        self._backlog.stop()
        for uploader in list(self._uploaders):
            uploader.stop()

    def _lane(self) -> None:
        uploader = Uploader(
            self._node,
            self._uuid,
            self._tls,
            limited=bool(self._limit.per_second),
            gate=self._wait_for_turn,
            clock=self._clock,
        )
        self._uploaders.append(uploader)
        try:
            while batch := self._backlog.take(uploader.close):
                try:
                    uploader.send(batch)
                except Unsure as error:
                    refused = isinstance(error, Refused)
                    self._refused_since = (self._refused_since or self._clock.steady()) if refused else 0.0
                    self._backlog.again(batch, str(error))
                else:
                    self._refused_since = 0.0
                    self._backlog.arrived(batch)
        finally:
            uploader.close()

    def _wait_for_turn(self, count: int) -> None:
        """Block until so many bytes may be sent: urgent transfers first, and within the speed limit."""
        while self._limit.per_second and self._limit.urgent and not self._urgent and not self._backlog.stopped:
            time.sleep(_YIELD)
        self._limit.wait(count)


class Transfers:
    """Creates transfers, at most `most` at a time, over `connections` connections each. They share threads and a speed
    limit, within which urgent ones have precedence."""

    def __init__(self, trust: Trust, limit: RateLimit, *, connections: int, most: int, urgent: bool) -> None:
        self._trust = trust
        self._limit = limit
        self._connections = connections
        self._urgent = urgent
        self._threads = ThreadPoolExecutor(max(1, most * connections), thread_name_prefix="transfer")

    def to(self, node: NodeAddress, uuid: str) -> Transfer:
        """Return a transfer to a node, for the task with this uuid there."""
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
        """Release the threads without waiting for those that are still sending."""
        self._threads.shutdown(wait=False, cancel_futures=True)
