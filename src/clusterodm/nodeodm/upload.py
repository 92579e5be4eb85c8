# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One connection over which files go to a node: multipart by sendfile, kept alive, and aware of early answers.

A node may answer before it has read the body, and then close: the answer counts, not the broken pipe.
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
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlencode

import msgspec

from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import FilesLost, NodeForgot, NodeRefused, TokenRejected
from clusterodm.core.files import HeldFile, describe_losses
from clusterodm.core.nodes import NodeAddress
from clusterodm.http.reasons import describe
from clusterodm.nodeodm.backlog import Batch
from clusterodm.nodeodm.client import OTHER_TOKEN

CONNECT_TIMEOUT: Final = 10.0
#: Seconds without progress after which a node counts as hung; longer once it has all, when nothing shows progress.
IDLE_TIMEOUT: Final = 120.0
ANSWER_TIMEOUT: Final = 300.0
#: Seconds between two looks at what the node's side has acknowledged.
_LOOK: Final = 1.0
#: Bytes handed to the kernel in one go when the speed is limited, and over TLS; else as many as it takes.
SLICE: Final = 256 << 10
_MOST: Final = 1 << 30
_MAX_ANSWER: Final = 1 << 20


class Unsure(Exception):
    """An upload that may be sent again: it is not known whether the node stored the files, or it had a fault."""


class Refused(Unsure):
    """Nobody listens at the node's address."""


class _Answered(Exception):
    """The node answered before it had the whole body."""


class Uploader:
    """Uploads of one attempt over one connection, by one thread. `gate(count)` blocks until so many bytes may go."""

    def __init__(
        self, node: NodeAddress, uuid: str, tls: ssl.SSLContext, *, limited: bool, gate: Callable[[int], None]
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
        #: Bytes of files that were handed to the kernel, in all and of the request that is under way.
        self.sent_bytes = 0
        self._put = 0
        #: Bytes of the request under way that the node's side has not acknowledged.
        self._unacknowledged = 0

    @property
    def under_way(self) -> int:
        """Bytes of files that the node's side has acknowledged of a request that it has not answered."""
        return max(0, self._put - self._unacknowledged)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._http.close()

    def stop(self) -> None:
        """Have the request that is under way fail at once; called from another thread."""
        self._stopped = True
        if (connection := self._http.sock) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, batch: Batch) -> None:
        """Upload a batch; returns once the node has confirmed it. Raises FilesLost, Unsure, or a NodeError for what
        the node refused."""
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
            self._wait(select.POLLIN, ANSWER_TIMEOUT)
        except (_Answered, BrokenPipeError, ConnectionResetError):
            early = True
        response = self._http.getresponse()
        content = response.read(_MAX_ANSWER)
        if early or response.will_close or len(content) == _MAX_ANSWER:
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
            raise _Answered
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
        """Hand some bytes of a file to the kernel; how many it took."""
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
                raise _Answered from None
            return 0
        if not moved:
            raise FilesLost(f"{Path(file.name).name} became shorter while it was sent")
        return moved

    def _wait(self, events: int, seconds: float = IDLE_TIMEOUT) -> int:
        """Wait until the connection is ready; which events there are. Raises TimeoutError when nothing went on for
        too long; what the node's side acknowledges is progress."""
        poll = select.poll()
        poll.register(self._http.sock, events)
        until = time.monotonic() + seconds
        while True:
            found = poll.poll(_LOOK * 1000)
            if self._look():
                until = time.monotonic() + seconds
            if found:
                return found[0][1]
            if time.monotonic() > until:
                raise TimeoutError("no progress")

    def _look(self) -> bool:
        """Ask the kernel what is not acknowledged yet; whether that changed."""
        before = self._unacknowledged
        answer = fcntl.ioctl(self._http.sock, termios.TIOCOUTQ, b"\0\0\0\0")
        self._unacknowledged = struct.unpack("i", answer)[0]
        return self._unacknowledged != before


def _open(path: Path, size: int) -> BinaryIO:
    """A file that is as long as it was when it was accepted. Raises FilesLost."""
    try:
        file = path.open("rb")
    except OSError as error:
        reason = "missing" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        raise FilesLost(f"{path.name} ({reason})") from None
    found = HeldFile(path.name, os.fstat(file.fileno()).st_size)
    if lost := describe_losses([HeldFile(path.name, size)], [found]):
        file.close()
        raise FilesLost(lost)
    return file


def _heads(boundary: str, names: Iterator[str]) -> Iterator[bytes]:
    """What stands before each file of a body."""
    start = f"--{boundary}"
    for name in names:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        yield (
            f'{start}\r\nContent-Disposition: form-data; name="images"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        start = f"\r\n--{boundary}"


def _check(status: int, content: bytes) -> None:
    """Raise what an answer means that is not a node's `{"success": true}`: an error of the node's own or a 4xx is a
    refusal, anything else a fault after which the files may be sent again."""
    try:
        answer = msgspec.json.decode(content)
    except msgspec.DecodeError:
        answer = None
    text = str(answer.get("error") or "")[:500] if isinstance(answer, dict) else ""
    if status == 401 or text.startswith(OTHER_TOKEN):
        raise TokenRejected("the node wants another token")
    if 400 <= status < 500:
        raise NodeRefused(text or f"an upload was answered with HTTP status {status}")
    if status != 200:
        raise Unsure(f"HTTP status {status}")
    if text:
        raise (NodeForgot if "not found" in text else NodeRefused)(text)
    if not isinstance(answer, dict) or answer.get("success") is not True:
        raise Unsure("an answer that is no node's")
