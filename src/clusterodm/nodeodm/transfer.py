# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bulk files to a node: sendfile from disk over keep-alive connections, one thread and connection each.

A file whose fate is unknown (sent, no answer) is never sent again into the same attempt: nodes would add a duplicate.
So any failure after the connection stood ends the transfer; only a connection that could not be made is tried again.
Files may be added while others are on their way.
"""

from __future__ import annotations

import asyncio
import http.client
import queue
import secrets
import socket
import ssl
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec

from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import NodeForgot, NodeRefused, NodeUnreachable, TokenRejected
from clusterodm.core.nodes import NodeAddress
from clusterodm.nodeodm.trust import Trust
from clusterodm.reasons import describe

CONNECT_TIMEOUT: Final = 10.0
#: Seconds without progress after which a node counts as hung.
IDLE_TIMEOUT: Final = 120.0
#: Bytes handed to the kernel in one go when the speed is limited.
_SLICE: Final = 256 << 10
_MAX_ANSWER: Final = 1 << 20
_CONNECT_TRIES: Final = 3
#: Seconds after which a connection without work is closed: before its node does it in the moment of the next file.
_QUIET: Final = 2.0
#: Seconds between two looks whether what is more urgent still uses up the speed that is allowed.
_YIELD: Final = 0.1


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
        self._target = f"/task/new/upload/{uuid}" + (f"?{urlencode({'token': node.token})}" if node.token else "")
        self._limit = limit
        self._most = connections
        self._executor = executor
        self._tls = tls
        #: None: no more will come.
        self._files: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._connections: set[http.client.HTTPConnection] = set()
        self._stopped = threading.Event()
        self._urgent = urgent
        self._running = False
        self._ended = False
        self.sent_bytes = 0
        self.sent_files = 0

    def add(self, file: Path) -> None:
        """One more file."""
        self._files.put(file)

    def end(self) -> None:
        """No more files will come."""
        self._ended = True
        self._files.put(None)

    def hurry(self) -> None:
        """From now on transfers that are not urgent make way for this one, where the speed is limited."""
        if not self._urgent:
            self._urgent = True
            self._limit.urgent += self._running

    async def run(self) -> None:
        """Send all files until the last one was added. Raises a NodeError; nothing is in flight after it."""
        loop = asyncio.get_running_loop()
        count = min(self._most, self._files.qsize() - 1) if self._ended else self._most
        lanes = [loop.run_in_executor(self._executor, self._lane) for _ in range(count)]
        if not lanes:
            return
        self._running = True
        self._limit.urgent += self._urgent
        try:
            await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stop()
            await asyncio.wait(lanes)
            self._running = False
            self._limit.urgent -= self._urgent
        errors = [error for lane in lanes if (error := lane.exception())]
        if errors:
            raise errors[0]

    def _stop(self) -> None:
        self._stopped.set()
        self._files.put(None)
        for connection in list(self._connections):
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _lane(self) -> None:
        connection = self._new_connection()
        self._connections.add(connection)
        try:
            while file := self._next_file(connection):
                if connection.sock is None:
                    self._connect(connection)
                self._send_one(connection, file)
                self.sent_files += 1
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(f"an upload had no answer ({describe(error)})") from None
        finally:
            self._connections.discard(connection)
            connection.close()

    def _next_file(self, connection: http.client.HTTPConnection) -> Path | None:
        """The next file, waited for; None when this lane is done."""
        try:
            file = self._files.get(timeout=_QUIET)
        except queue.Empty:
            connection.close()
            file = self._files.get()
        if file is None:
            self._files.put(None)  # for the other lanes
        return None if self._stopped.is_set() else file

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        for attempt in range(_CONNECT_TRIES):
            try:
                connection.connect()
            except OSError as error:
                if attempt == _CONNECT_TRIES - 1 or self._stopped.wait(0.5 * 2**attempt):
                    raise NodeUnreachable(f"no connection ({describe(error)})") from None
            else:
                connection.sock.settimeout(IDLE_TIMEOUT)
                return

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port = self._node.host, self._node.port
        if self._node.tls:
            return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT)

    def _send_one(self, connection: http.client.HTTPConnection, path: Path) -> None:
        boundary = secrets.token_hex(16)
        head = _part_head(boundary, path.name)
        tail = f"\r\n--{boundary}--\r\n".encode()
        size = path.stat().st_size
        connection.putrequest("POST", self._target, skip_accept_encoding=True)
        connection.putheader("User-Agent", PROGRAM)
        connection.putheader("Content-Type", f"multipart/form-data; boundary={boundary}")
        connection.putheader("Content-Length", str(len(head) + size + len(tail)))
        connection.endheaders(head)
        self._send_body(connection, path, size)
        connection.send(tail)
        response = connection.getresponse()
        _check(response.status, response.read(_MAX_ANSWER))
        if response.will_close:
            connection.close()

    def _send_body(self, connection: http.client.HTTPConnection, path: Path, size: int) -> None:
        with path.open("rb") as file:
            step = _SLICE if self._limit.per_second else max(size, 1)
            for start in range(0, size, step):
                count = min(step, size - start)
                self._make_way()
                self._limit.wait(count)
                sent = connection.sock.sendfile(file, start, count)
                self.sent_bytes += sent
                if sent != count or self._stopped.is_set():
                    raise OSError("the transfer was stopped")

    def _make_way(self) -> None:
        while self._limit.per_second and self._limit.urgent and not self._urgent:
            if self._stopped.wait(_YIELD):
                return


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


def _part_head(boundary: str, name: str) -> bytes:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _check(status: int, content: bytes) -> None:
    """A node says `{"success": true}`; an error of its own means that nothing was stored, anything else is unknown."""
    try:
        answer = msgspec.json.decode(content)
    except msgspec.DecodeError:
        answer = None
    if status == 401:
        raise TokenRejected("the node wants another token")
    if status != 200 or not isinstance(answer, dict):
        raise NodeUnreachable(f"an upload was answered with HTTP status {status}")
    if text := answer.get("error"):
        raise (NodeForgot if "not found" in str(text) else NodeRefused)(str(text)[:500])
    if answer.get("success") is not True:
        raise NodeUnreachable("an upload was answered with something that is no node's")
