# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes under measurement: started, fed, asked how much CPU they took, ended."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid as uuid_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_ENV = {key: value for key, value in os.environ.items() if not key.startswith("CLUSTERODM_")}


class Measured:
    """A process whose CPU time and memory are of interest."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._ps = psutil.Process(process.pid)

    def _all(self) -> list[psutil.Process]:
        return [self._ps, *self._ps.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds so far, user and system, with its children."""
        times = [process.cpu_times() for process in self._all()]
        return sum(time.user + time.system for time in times)

    def busy(self, work: Callable[[], object]) -> float:
        """CPU seconds that it takes while `work()` runs."""
        before = self.cpu()
        work()
        return self.cpu() - before

    def peak_mb(self) -> float:
        """The most resident memory that it ever had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1000 if found else 0.0


@contextmanager
def started(*command: str, ready: Callable[[], bool]) -> Iterator[Measured]:
    """Run a command, wait until it is ready, end it with the block."""
    process = subprocess.Popen(command, env=_ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[:4]} did not start")
            time.sleep(0.02)
        yield Measured(process)
    finally:
        process.terminate()
        process.wait()


def python(*arguments: object) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *map(str, arguments)]


def answers(port: int, path: str = "/info") -> Callable[[], bool]:
    """Whether something answers HTTP there."""

    def ask() -> bool:
        try:
            call(port, "GET", path)
        except OSError:
            return False
        return True

    return ask


def call(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
    """One request on a connection of its own; the JSON of its answer, None when it is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, {key.replace("_", "-"): value for key, value in headers.items()})
        content = connection.getresponse().read()
    finally:
        connection.close()
    try:
        return json.loads(content)
    except ValueError:
        return None


@contextmanager
def cluster(folder: Path, port: int, nodes: list[int], **settings: object) -> Iterator[Measured]:
    """A cluster in a process of its own, with nodes on these ports."""
    flags = {
        "port": port,
        "host": "127.0.0.1",
        "data-dir": folder,
        "log-level": "error",
        "admin-cli-port": 0,
        "admin-web-port": 0,
    } | settings
    flags |= {"node": ",".join(f"127.0.0.1:{node}" for node in nodes)} if nodes else {}
    arguments = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    with started(*python("-m", "clusterodm", *arguments), ready=answers(port)) as measured:
        yield measured


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in range(20_000, 60_000, 500):
        try:
            for number in range(count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


@contextmanager
def nodes(large: Path, count: int, **flags: object) -> Iterator[list[int]]:
    """`count` cheap nodes in one process, with these flags of bench.node."""
    first = free_ports(count)
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", value)]
    given = [word for word in words if word is not True]
    with started(*python("-m", "bench.node", first, count, large, *given), ready=answers(first)):
        yield list(range(first, first + count))


@contextmanager
def system(
    folder: Path, large: Path, count: int, node_flags: dict[str, object] | None = None, **settings: object
) -> Iterator[tuple[Measured, int, list[int]]]:
    """Nodes and a cluster in front of them that knows that they are there."""
    with nodes(large, count, **(node_flags or {})) as ports:
        port = free_ports(1)
        with cluster(folder / "data", port, ports, **settings) as measured:
            until(lambda: call(port, "GET", "/info")["engineVersion"] == "bench")
            yield measured, port, ports


def until(check: Callable[[], Any], *, pause: float = 0.005, seconds: float = 120.0) -> Any:
    """Wait for a true value of `check()`, asked every `pause` seconds: asking costs the measured process too."""
    end = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > end:
            raise RuntimeError("waited in vain")
        time.sleep(pause)
    return value


def init(port: int) -> str:
    """Announce a task."""
    uuid = str(uuid_module.uuid4())
    call(port, "POST", "/task/new/init", set_uuid=uuid)
    return uuid


def small_upload(port: int, uuid: str) -> None:
    """One file of 1 KB."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        + b"x" * 1000
        + b"\r\n--b--\r\n"
    )
    call(port, "POST", f"/task/new/upload/{uuid}", body, Content_Type="multipart/form-data; boundary=b")


def code(port: int, uuid: str) -> int:
    """The status code of a task, 0 while it is unknown."""
    answer = call(port, "GET", f"/task/{uuid}/info")
    return int(answer["status"]["code"]) if "status" in answer else 0
