# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How every command runs and ends: errors as one clear line, exit codes that scripts can trust, and what signals mean
to a cluster."""

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

#: What a parent sends to its workers to end them at once. SIGTERM does not count there: a service manager sends that to
#: parent and workers, and the parent passes it on.
AT_ONCE: Final = signal.SIGUSR1
#: Seconds that an end at once takes at most: what is kept is on the disk by then, or was before.
_AT_MOST: Final = 5

_log = structlog.get_logger("clusterodm")


class Signals:
    """SIGTERM and Ctrl-C end the cluster in good order, a second one at once; SIGHUP has files read again."""

    def __init__(self, *, worker: bool) -> None:
        self._stopped = self._hung_up = False
        self._wake = asyncio.Event()
        #: Set once nothing is to be waited for any more.
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
        """Wait for the signal to stop, and call `reload` at each SIGHUP before it."""
        while not self._stopped:
            self._wake.clear()
            if self._hung_up:
                self._hung_up = False
                _log.info("SIGHUP: files are read again")
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
            _log.warning("stopping at once; clients send again what they are sending now")
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
    """The terminal that a command was started on, if it was."""

    def __init__(self) -> None:
        self._was_there = sys.stderr.isatty()

    def is_gone(self) -> bool:
        """True if it was closed, so that SIGHUP means the end of the session. Later log lines are discarded."""
        if not self._was_there or sys.stderr.isatty():
            return False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
        return True


def run_until_done(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine on the fast event loop. 1 is a failure, 2 a wrong call, 130 an interruption."""
    errors: list[BaseException] = []
    code = 130
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    # nothing is raised in here: before Python 3.11.4 it would come out in a group
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
