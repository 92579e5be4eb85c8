# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes that run a module as `python -m` does, forked from one that has loaded the program: hundreds of tests start
it, and to load it takes most of a start."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "clusterodm.__main__",
        "clusterodm.commands.serve",
        "clusterodm.commands.workers",
        "aiosqlite",
        "sqlalchemy.dialects.sqlite.aiosqlite",
        "tests.faults.crashing",
    ]
)
#: Variables that only act on a program that is executed.
_AT_EXECUTION = ("LD_", "PYTHON", "SSL_CERT_")
#: What coverage sets to be started in it, too.
_COVERAGE = {"COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}


def can_fork(environ: dict[str, str]) -> bool:
    """True if a process with this environment is the same whether forked or executed."""
    changed = {name for name, value in environ.items() if os.environ.get(name) != value}
    return not environ.keys() & _COVERAGE and not any(name.startswith(_AT_EXECUTION) for name in changed)


class Forked:
    """A process, with the part of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, module: str, arguments: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self._process = _FORKS.Process(target=_run, args=(module, list(arguments), environ, str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or -N when it was ended by signal N; None while it runs."""
        return self._process.exitcode

    def send_signal(self, how: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, how)

    async def wait(self) -> int:
        """Wait for its end; return `returncode`."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()  # it has ended
        assert self.returncode is not None
        return self.returncode


def _run(module: str, arguments: list[str], environ: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # run it anew, as `python -m` does
    runpy.run_module(module, run_name="__main__", alter_sys=True)
