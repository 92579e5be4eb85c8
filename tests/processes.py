# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The program as a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.forked import Forked, can_fork
from tests.support import Api, eventually

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
#: Below what the kernel gives to clients; for each process of a test run another range, and for other runs beside it
#: most likely another place in it.
_FIRST, _SPAN = 10_000 + 4_000 * (_WORKER % 5), 4_000
_PLACES = itertools.count(random.randrange(_SPAN))


def free_port() -> int:
    """A port that is free now, and that nobody else of this test run gets."""
    for _ in range(_SPAN):
        port = _FIRST + next(_PLACES) % _SPAN
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports are used up")


def without_settings() -> dict[str, str]:
    """The environment without settings, except the one with which a whole run of tests does without fast paths."""
    exempt = "CLUSTERODM_FAST_PATHS"
    return {key: value for key, value in os.environ.items() if key == exempt or not key.startswith("CLUSTERODM_")}


class Program:
    """`clusterodm serve` on one data folder, started and killed as often as a test wants."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        fast = {"host": "127.0.0.1", "node-poll-interval": 0.05, "task-poll-interval": 0.05, "shutdown-grace": 1}
        fast |= {"admin-cli-port": 0, "admin-web-port": 0}
        self.port = free_port()
        self.settings = fast | {"port": self.port, "data-dir": folder / "data"} | settings
        self.api = Api(f"http://127.0.0.1:{self.port}", str(settings.get("token", "")))
        self.log = folder / "log"
        #: Owners' webhooks lead to servers of the tests.
        self.environ = {"CLUSTERODM_WEBHOOK_ALLOW_PRIVATE": "true"}
        #: What to run instead of the plain program.
        self.launcher: list[str] = []
        self._process: asyncio.subprocess.Process | Forked | None = None

    async def start(self) -> Api:
        """Start it and wait until it answers."""
        await self.spawn()
        await eventually(self._started)
        return self.api

    async def spawn(self) -> asyncio.subprocess.Process | Forked:
        """Start it without waiting."""
        arguments = [text for key, value in self.settings.items() for text in (f"--{key}", str(value))]
        command = [*(self.launcher or ["-m", "clusterodm"]), *arguments]
        environ = without_settings() | self.environ
        if command[0] == "-m" and can_fork(environ):
            self._process = Forked(command[1], command[2:], environ, self.log)
            return self._process
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stderr=log, stdout=log, env=environ
            )
        return self._process

    def died(self) -> bool:
        """Whether it is no longer there."""
        return self._process is not None and self._process.returncode is not None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    def runs(self) -> bool:
        """Whether it was started and is still there."""
        return self._process is not None and self._process.returncode is None

    async def _started(self) -> bool:
        assert not self.died(), self.log.read_text()
        return await self.answers()

    async def answers(self) -> bool:
        """Whether it answers now."""
        try:
            return "version" in await self.api.get("/info")
        except OSError:
            return False

    async def wait(self) -> int:
        """Until it is no longer there; the exit status."""
        assert self._process is not None
        return await self._process.wait()

    def send(self, how: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(how)

    async def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        return await asyncio.wait_for(self._process.wait(), 20)


@asynccontextmanager
async def program(folder: Path, **settings: Any) -> AsyncIterator[Program]:
    """A program that does not outlive its test."""
    new_program = Program(folder, **settings)
    try:
        yield new_program
    finally:
        if new_program._process is not None:
            await new_program.end()
        await new_program.api.session.close()
