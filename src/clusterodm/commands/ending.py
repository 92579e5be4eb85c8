# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How commands run and end: errors as one line, exit codes, and the signals of a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog
import typer
import uvloop

from clusterodm.core.errors import ClusterError, ConfigError, DataFolderError

#: Sent by a parent to end its workers at once. A second SIGTERM would not do: a service manager sends it to parent and
#: workers, and the parent passes it on.
AT_ONCE: Final = signal.SIGUSR1
#: Seconds until a process that ends at once is killed; everything accepted is on disk by then.
_AT_MOST: Final = 5

_log = structlog.get_logger("clusterodm")


class Signals:
    """SIGTERM and Ctrl-C shut the cluster down gracefully, a second one at once; SIGHUP reloads files."""

    def __init__(self, *, worker: bool) -> None:
        self._stopped = self._hung_up = False
        self._wake = asyncio.Event()
        #: Set when the shutdown must not wait any longer.
        self.at_once = asyncio.Event()
        self._terminal = Terminal()
        loop = asyncio.get_running_loop()
        stop = self._stop if worker else self._stop_or_hurry
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if worker:
            loop.add_signal_handler(AT_ONCE, self._hurry)
        else:
            loop.add_signal_handler(signal.SIGINT, stop)

    async def until_stop(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Wait for the signal to stop; call `reload` at each SIGHUP."""
        while not self._stopped:
            self._wake.clear()
            if self._hung_up:
                self._hung_up = False
                _log.info("SIGHUP: reloading files")
                await reload()
            else:
                await self._wake.wait()

    def _stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def _stop_or_hurry(self) -> None:
        if self._stopped:
            self._hurry()
        self._stop()

    def _hurry(self) -> None:
        if not self.at_once.is_set():
            _log.warning("stopping at once; clients will repeat uploads in progress")
            signal.alarm(_AT_MOST)
        self.at_once.set()
        self._stop()

    def _hang_up(self) -> None:
        if self._terminal.is_gone():
            self._stop()
            return
        self._hung_up = True
        self._wake.set()


class Terminal:
    """The terminal that a command was started on, if any."""

    def __init__(self) -> None:
        self._was_there = sys.stderr.isatty()

    def is_gone(self) -> bool:
        """Return True if it was closed, so that SIGHUP means the end of the session. Later log lines are discarded."""
        if not self._was_there or sys.stderr.isatty():
            return False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
        return True


def run_until_done(main: Coroutine[Any, Any, Any]) -> Any:
    """Run the coroutine of a command on uvloop. Exits with 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    errors: list[BaseException] = []
    code = 130
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    # nothing is raised in here: before Python 3.11.4 it would be wrapped in a group
    except* (ConfigError, DataFolderError) as group:
        code, errors = 2, _leaves(group)
    except* ClusterError as group:
        code, errors = 1, [*errors, *_leaves(group)]
    except* KeyboardInterrupt:
        pass
    for error in errors:
        typer.echo(f"clusterodm: {error}", err=True)
    sys.exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
