# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes on one host: a parent that opens the ports, and workers that are replicas on them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NoReturn

import structlog

from clusterodm.aio import Clock
from clusterodm.commands.ending import AT_ONCE, Terminal
from clusterodm.server.serving import Sockets
from clusterodm.settings import Settings

_log = structlog.get_logger("workers")

#: Seconds after which the exit of a worker is a crash, and it is replaced, rather than a failed start.
_LIVED: Final = 5.0
#: Seconds before a replacement, so that crash loops do not keep a core busy.
_PAUSE: Final = 0.5
_PR_SET_PDEATHSIG: Final = 1


def run_workers(settings: Settings, work: Callable[[Sockets], None]) -> None:
    """Run `work` in as many processes as configured until a signal to stop. A crashed one is replaced; one that cannot
    start ends all, with its exit status."""
    sockets = Sockets.of(settings)
    parent = _Parent(sockets, work, Clock())
    for number in range(settings.workers):
        parent.start(number)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: parent.stop())
    signal.signal(signal.SIGHUP, lambda *_: parent.hang_up())
    sys.exit(parent.wait())


class _Parent:
    """Starts and replaces workers."""

    def __init__(self, sockets: Sockets, work: Callable[[Sockets], None], clock: Clock) -> None:
        self._sockets = sockets
        self._work = work
        self._clock = clock
        self._workers: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._terminal = Terminal()

    def start(self, number: int) -> None:
        """Start a worker."""
        # both processes would write what is buffered
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._be_worker(number)
        self._workers[pid] = (number, self._clock.steady())
        if self._stopping:  # the signal came meanwhile
            os.kill(pid, signal.SIGTERM)

    def _be_worker(self, number: int) -> NoReturn:
        status = 1
        try:
            # Ctrl-C and SIGHUP of the terminal reach all processes; the parent handles them
            for signal_number, handler in (
                (signal.SIGTERM, signal.SIG_DFL),
                (signal.SIGINT, signal.SIG_IGN),
                (signal.SIGHUP, signal.SIG_IGN),
            ):
                signal.signal(signal_number, handler)
            if sys.platform == "linux":  # a worker never outlives its parent
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            self._work(replace(self._sockets, worker=number))
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - the edge of a process: nothing may return into the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def stop(self) -> None:
        """Stop all workers gracefully, at the second call at once. Connections are refused once the last one has closed
        its ports."""
        how = AT_ONCE if self._stopping else signal.SIGTERM
        self._stopping = True
        self._sockets.close()
        self._signal(how)

    def hang_up(self) -> None:
        """Reload the files of all workers; stop them if the terminal was closed."""
        if self._terminal.is_gone():
            self.stop()
            return
        _log.info("SIGHUP: passed on to workers", workers=len(self._workers))
        self._signal(signal.SIGHUP)

    def _signal(self, how: signal.Signals) -> None:
        for pid in list(self._workers):
            os.kill(pid, how)

    def wait(self) -> int:
        """Wait until all workers have ended; return the exit status."""
        worst = 0
        while self._workers:
            pid, status = os.wait()
            number, began = self._workers.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:  # a worker that got the signal before it handled signals counts as stopped
                worst = max(worst, 0 if code in (-signal.SIGTERM, -AT_ONCE) else abs(code))
            elif code > 0 and self._clock.steady() - began < _LIVED:
                worst = abs(code) or 1
                _log.error("worker failed to start", worker=number, status=code)
                self.stop()
            else:
                _log.error("worker ended, starting another one", worker=number, status=code)
                time.sleep(_PAUSE)
                self.start(number)
        return worst
