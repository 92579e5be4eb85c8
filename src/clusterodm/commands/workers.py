# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes on one host: a parent that opens the ports, and workers that each are a replica on them."""

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

from clusterodm.commands.ending import AT_ONCE, Terminal
from clusterodm.server.serving import Sockets
from clusterodm.settings import Settings

_log = structlog.get_logger("workers")

#: Seconds that a worker must have lived for an error to be an accident, after which another one is started.
_LIVED: Final = 5.0
#: Seconds before that, so that workers that are killed at once do not keep a core busy.
_PAUSE: Final = 0.5
_PR_SET_PDEATHSIG: Final = 1


def run_workers(settings: Settings, work: Callable[[Sockets], None]) -> None:
    """Run `work` in as many processes as configured until a signal says stop. One that dies is replaced; one that
    cannot even start ends them all, with its exit status."""
    sockets = Sockets.of(settings)
    parent = _Parent(sockets, work)
    for number in range(settings.workers):
        parent.start(number)
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: parent.stop())
    signal.signal(signal.SIGHUP, lambda *_: parent.hang_up())
    sys.exit(parent.wait())


class _Parent:
    """Knows its workers."""

    def __init__(self, sockets: Sockets, work: Callable[[Sockets], None]) -> None:
        self._sockets = sockets
        self._work = work
        self._workers: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._terminal = Terminal()

    def start(self, number: int) -> None:
        """Start a worker."""
        # what is buffered would be written by both
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._be_worker(number)
        self._workers[pid] = (number, time.monotonic())
        if self._stopping:  # the signal came in between
            os.kill(pid, signal.SIGTERM)

    def _be_worker(self, number: int) -> NoReturn:
        status = 1
        try:
            # Ctrl-C and a hang-up of the terminal come to all: the parent says what they mean
            for wanted, how in (
                (signal.SIGTERM, signal.SIG_DFL),
                (signal.SIGINT, signal.SIG_IGN),
                (signal.SIGHUP, signal.SIG_IGN),
            ):
                signal.signal(wanted, how)
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
        """Have all workers end in good order, at the second call at once; connections are refused once the last one has
        closed its ports."""
        how = AT_ONCE if self._stopping else signal.SIGTERM
        self._stopping = True
        self._sockets.close()
        self._tell(how)

    def hang_up(self) -> None:
        """Have all workers read their files again; end them where the terminal was closed."""
        if self._terminal.is_gone():
            self.stop()
            return
        _log.info("SIGHUP: passed on to the workers", workers=len(self._workers))
        self._tell(signal.SIGHUP)

    def _tell(self, how: signal.Signals) -> None:
        for pid in list(self._workers):
            os.kill(pid, how)

    def wait(self) -> int:
        """Until all workers have ended; the exit status."""
        worst = 0
        while self._workers:
            pid, status = os.wait()
            number, began = self._workers.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:  # one that was told to stop before it could listen to signals ended as it should
                worst = max(worst, 0 if code in (-signal.SIGTERM, -AT_ONCE) else abs(code))
            elif code > 0 and time.monotonic() - began < _LIVED:
                worst = abs(code) or 1
                _log.error("a worker cannot start", worker=number, status=code)
                self.stop()
            else:
                _log.error("a worker ended, another one is started", worker=number, status=code)
                time.sleep(_PAUSE)
                self.start(number)
        return worst
