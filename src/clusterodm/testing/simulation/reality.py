# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the world replaces while it runs: time, chance, names of host and process, threads, sockets, file times.

Each function is replaced under every name that any loaded module has for it, as `from time import monotonic` made one.
"""

from __future__ import annotations

import http.client
import os
import random
import select
import socket
import ssl
import subprocess  # nosec B404 - it is refused
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Final

import aiohappyeyeballs
import aiosqlite.core
from asyncpg import connect_utils

from clusterodm.aio import Clock
from clusterodm.nodeodm import backlog, upload
from clusterodm.testing.simulation import blocking
from clusterodm.testing.simulation.disk import Disk
from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.hosts import PROCESS
from clusterodm.testing.simulation.loop import VirtualLoop
from clusterodm.testing.simulation.sqlite import InlineThread, inline_queue, sync_aware_commit

#: Modules that keep the real functions: the interpreter's own, and those that watch from outside.
_REAL: Final = ("threading", "subprocess", "selectors", "_pytest", "pytest", "pluggy", "xdist", "importlib")


@contextmanager
def unreal(loop: VirtualLoop, disk: Disk, seed: int, epoch: float) -> Iterator[None]:
    """Replace everything while the block runs."""
    chance = random.Random(f"{seed} os")  # noqa: S311  # nosec B311 - repeatable

    def wall() -> float:
        process = PROCESS.get()
        return epoch + (process.host.wall(loop.time()) if process is not None else loop.time())

    def steady() -> float:
        return loop.time()

    functions: dict[Any, Any] = {
        time.time: wall,
        time.time_ns: lambda: int(wall() * 1e9),
        time.monotonic: steady,
        time.monotonic_ns: lambda: int(steady() * 1e9),
        time.perf_counter: steady,
        time.sleep: blocking.sleep,
        os.urandom: chance.randbytes,
        os.getpid: _getpid,
        os.stat: partial(_stat, os.stat, disk, epoch),
        os.sendfile: partial(blocking.sendfile, os.sendfile),
        os.fsync: disk.sync,
        os.writev: partial(_noted, os.writev, disk),
        os.write: partial(_noted, os.write, disk),
        socket.gethostname: _gethostname,
        socket.create_connection: blocking.create_connection,
        socket.create_server: _refused("socket.create_server"),
        socket.getaddrinfo: _refused("socket.getaddrinfo"),
    }
    state = random.getstate()
    with _replaced_everywhere(functions), _replaced(_places(loop)):
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


def _places(loop: VirtualLoop) -> list[tuple[Any, str, Any]]:
    """Return what is replaced in one place only: object, attribute, new value."""
    clock_defaults = (time.time, time.monotonic)  # replaced by then
    return [
        (Clock.__init__, "__defaults__", clock_defaults),
        (ssl.SSLContext, "load_default_certs", lambda *_: None),  # slow, and there is no TLS
        (threading.Thread, "start", _refused("threading.Thread.start")),
        (subprocess.Popen, "__init__", _refused("subprocess.Popen")),
        (socket.socket, "connect", _refused("socket.connect")),
        (socket.socket, "bind", _refused("socket.bind")),
        (aiohappyeyeballs, "start_connection", _start_connection),
        (connect_utils, "_get_socket", lambda _: None),
        (connect_utils, "_set_nodelay", lambda _: None),
        (aiosqlite.core, "Thread", InlineThread),
        (aiosqlite.core, "SimpleQueue", partial(inline_queue, loop)),
        (aiosqlite.core.Connection, "commit", sync_aware_commit(aiosqlite.core.Connection.commit)),
        (backlog, "threading", types.SimpleNamespace(Condition=blocking.Condition)),
        (upload, "select", _with(select, poll=blocking.Poll)),
        (upload, "fcntl", types.SimpleNamespace(ioctl=blocking.ioctl)),
        (http.client, "socket", _with(socket, create_connection=blocking.create_connection)),
    ]


async def _start_connection(addr_infos: Any, **how: Any) -> Any:
    """Connect to the first address that answers, as aiohappyeyeballs does."""
    network = blocking.running().network
    assert network is not None, "simulated"  # noqa: S101 - see Simulation
    error: OSError | None = None
    for info in addr_infos:
        try:
            return await network.dial(info[4][0], info[4][1])
        except OSError as failure:
            error = failure
    raise error or OSError("no address")


def _getpid() -> int:
    process = PROCESS.get()
    return process.pid if process is not None else 1


def _gethostname() -> str:
    process = PROCESS.get()
    return process.host.name if process is not None else "world"


def _noted(write: Callable[..., int], disk: Disk, descriptor: int, content: Any) -> int:
    written = write(descriptor, content)
    disk.wrote(descriptor)
    return written


def _stat(real: Callable[..., os.stat_result], disk: Disk, epoch: float, path: Any, **how: Any) -> os.stat_result:
    """Return the status of a file with virtual times."""
    status = real(path, **how)
    at = disk.changed_at(path)
    if at is None or not status.st_mtime:
        return status
    process = PROCESS.get()
    seconds = epoch + (process.host.wall(at) if process is not None else at)
    times = {f"st_{which}time": seconds for which in "acm"} | {
        f"st_{which}time_ns": int(seconds * 1e9) for which in "acm"
    }
    return os.stat_result((*status[:7], *[int(seconds)] * 3), times)


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **how: Any) -> Any:
        raise RealWorldError(name)

    return refuse


def _with(module: ModuleType, **replaced: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{**vars(module), **replaced})


@contextmanager
def _replaced_everywhere(functions: dict[Any, Any]) -> Iterator[None]:
    by_id = {id(old): (old, new) for old, new in functions.items()}
    places = []
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module_name.partition(".")[0] in _REAL:
            continue
        for name, value in list(vars(module).items()):
            old, new = by_id.get(id(value), (None, None))
            if old is not None and value is old:
                places.append((module, name, new))
    with _replaced(places):
        yield


@contextmanager
def _replaced(places: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(where, name, getattr(where, name)) for where, name, _ in places]
    for where, name, new in places:
        setattr(where, name, new)
    try:
        yield
    finally:
        for where, name, old in before:
            setattr(where, name, old)
