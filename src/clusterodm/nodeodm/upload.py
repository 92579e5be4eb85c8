# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One keep-alive connection that uploads files to a node: multipart by sendfile, with early responses handled.

A node may respond before it has read the body, and then close: the response counts, not the broken pipe.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import secrets
import select
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlencode

import msgspec

from clusterodm.aio import Clock
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import FilesLost, NodeForgot, NodeRefused, TokenRejected
from clusterodm.core.files import HeldFile, describe_losses
from clusterodm.core.nodes import NodeAddress
from clusterodm.http.reasons import describe
from clusterodm.nodeodm.backlog import Batch
from clusterodm.nodeodm.client import INVALID_TOKEN

CONNECT_TIMEOUT: Final = 10.0
#: Seconds without progress after which a node counts as hung; longer after the body, when no progress can be seen.
IDLE_TIMEOUT: Final = 120.0
RESPONSE_TIMEOUT: Final = 300.0
#: Seconds between two checks of what the peer has acknowledged.
_CHECK_INTERVAL: Final = 1.0
#: Bytes per system call if the speed is limited, and over TLS; otherwise as many as the kernel takes.
SLICE: Final = 256 << 10
_MOST: Final = 1 << 30
_MAX_RESPONSE: Final = 1 << 20


class Unsure(Exception):
    """The node may or may not have stored the files, or it had a fault: the upload may be repeated."""


class Refused(Unsure):
    """The node refused the connection."""


class _Responded(Exception):
    """The node responded before it had the whole body."""


class Uploader:
    """Uploads of one attempt over one connection, by one thread. `gate(n)` blocks until n bytes may be sent."""

    def __init__(
        self,
        node: NodeAddress,
        uuid: str,
        tls: ssl.SSLContext,
        *,
        limited: bool,
        gate: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._target = f"/task/new/upload/{uuid}" + (f"?{urlencode({'token': node.token})}" if node.token else "")
        self._http = (
            http.client.HTTPSConnection(node.host, node.port, timeout=CONNECT_TIMEOUT, context=tls)
            if node.tls
            else http.client.HTTPConnection(node.host, node.port, timeout=CONNECT_TIMEOUT)
        )
        self._tls = node.tls
        self._stopped = False
        self._step = SLICE if limited or node.tls else _MOST
        self._gate = gate
        self._clock = clock
        #: Bytes of files that were handed to the kernel: in total, and of the current request.
        self.sent_bytes = 0
        self._put = 0
        #: Bytes of the current request that the peer has not acknowledged.
        self._unacknowledged = 0

    @property
    def under_way(self) -> int:
        """Bytes of files of the current request that the peer has acknowledged."""
        return max(0, self._put - self._unacknowledged)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._http.close()

    def stop(self) -> None:
        """Make the current request fail at once; called from another thread."""
        self._stopped = True
        if (connection := self._http.sock) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, batch: Batch) -> None:
        """Upload a batch and wait for the node's confirmation. Raise FilesLost, Unsure, or a NodeError if the node
        refused it."""
        with ExitStack() as stack:
            files = [stack.enter_context(_open(path, size)) for path, size in batch.files]
            try:
                if self._http.sock is None:
                    self._connect()
                status, content = self._exchange(batch, files)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise (Refused if isinstance(error, ConnectionRefusedError) else Unsure)(describe(error)) from None
            finally:
                self._put = self._unacknowledged = 0
        _check(status, content)

    def _connect(self) -> None:
        self._http.connect()
        self._http.sock.settimeout(IDLE_TIMEOUT)

    def _exchange(self, batch: Batch, files: list[BinaryIO]) -> tuple[int, bytes]:
        early = False
        try:
            self._send_body(batch, files)
            self._wait(select.POLLIN, RESPONSE_TIMEOUT)
        except (_Responded, BrokenPipeError, ConnectionResetError):
            early = True
        response = self._http.getresponse()
        content = response.read(_MAX_RESPONSE)
        if early or response.will_close or len(content) == _MAX_RESPONSE:
            self.close()
        return response.status, content

    def _send_body(self, batch: Batch, files: list[BinaryIO]) -> None:
        boundary = secrets.token_hex(16)
        heads = list(_heads(boundary, (path.name for path, _ in batch.files)))
        tail = f"\r\n--{boundary}--\r\n".encode()
        self._http.putrequest("POST", self._target, skip_accept_encoding=True)
        self._http.putheader("User-Agent", PROGRAM)
        self._http.putheader("Content-Type", f"multipart/form-data; boundary={boundary}")
        self._http.putheader("Content-Length", str(sum(map(len, heads)) + batch.size + len(tail)))
        self._http.endheaders()
        for head, file, (_, size) in zip(heads, files, batch.files, strict=True):
            self._send_small(head, socket.MSG_MORE)
            self._send_file(file, size)
        self._send_small(tail)

    def _send_small(self, content: bytes, flags: int = 0) -> None:
        if self._tls:
            self._http.sock.sendall(content)
            return
        if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
            raise _Responded
        self._http.sock.sendall(content, flags)

    def _send_file(self, file: BinaryIO, size: int) -> None:
        put = 0
        while put < size:
            count = min(self._step, size - put)
            self._gate(count)
            end = put + count
            while put < end:
                moved = self._move(file, put, end - put)
                put += moved
                self._put += moved
                self.sent_bytes += moved

    def _move(self, file: BinaryIO, start: int, count: int) -> int:
        """Hand bytes of a file to the kernel; return how many it took."""
        connection = self._http.sock
        if self._stopped:
            raise ConnectionError("stopped")
        try:
            if self._tls:
                block = os.pread(file.fileno(), count, start)
                connection.sendall(block)
                moved = len(block)
            else:
                moved = os.sendfile(connection.fileno(), file.fileno(), start, count)
        except BlockingIOError:
            if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                raise _Responded from None
            return 0
        if not moved:
            raise FilesLost(f"{Path(file.name).name} became shorter while it was sent")
        return moved

    def _wait(self, events: int, seconds: float = IDLE_TIMEOUT) -> int:
        """Wait until the connection is ready; return the events. Raise TimeoutError after too long without progress,
        which is what the peer acknowledges."""
        poll = select.poll()
        poll.register(self._http.sock, events)
        deadline = self._clock.steady() + seconds
        while True:
            events_by_file = poll.poll(_CHECK_INTERVAL * 1000)
            if self._has_progressed():
                deadline = self._clock.steady() + seconds
            if events_by_file:
                return events_by_file[0][1]
            if self._clock.steady() > deadline:
                raise TimeoutError("no progress")

    def _has_progressed(self) -> bool:
        """Update the number of unacknowledged bytes from the kernel; return True if it has changed."""
        before = self._unacknowledged
        outstanding = fcntl.ioctl(self._http.sock, termios.TIOCOUTQ, b"\0\0\0\0")
        self._unacknowledged = struct.unpack("i", outstanding)[0]
        return self._unacknowledged != before


def _open(path: Path, size: int) -> BinaryIO:
    """Open a file. Raise FilesLost if it is missing or its size has changed since it was accepted."""
    try:
        file = path.open("rb")
    except OSError as error:
        reason = "missing" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        raise FilesLost(f"{path.name} ({reason})") from None
    current = HeldFile(path.name, os.fstat(file.fileno()).st_size)
    if lost := describe_losses([HeldFile(path.name, size)], [current]):
        file.close()
        raise FilesLost(lost)
    return file


def _heads(boundary: str, names: Iterator[str]) -> Iterator[bytes]:
    """Yield the part headers of a multipart body."""
    start = f"--{boundary}"
    for name in names:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        yield (
            f'{start}\r\nContent-Disposition: form-data; name="images"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        start = f"\r\n--{boundary}"


def _check(status: int, content: bytes) -> None:
    """Raise unless the response is a node's `{"success": true}`: an error of the node or a 4xx is a refusal, anything
    else a fault after which the files may be sent again."""
    try:
        answer = msgspec.json.decode(content)
    except msgspec.DecodeError:
        answer = None
    text = str(answer.get("error") or "")[:500] if isinstance(answer, dict) else ""
    if status == 401 or text.startswith(INVALID_TOKEN):
        raise TokenRejected("token missing or rejected")
    if 400 <= status < 500:
        raise NodeRefused(text or f"HTTP status {status} for an upload")
    if status != 200:
        raise Unsure(f"HTTP status {status}")
    if text:
        raise (NodeForgot if "not found" in text else NodeRefused)(text)
    if not isinstance(answer, dict) or answer.get("success") is not True:
        raise Unsure("unexpected response")
