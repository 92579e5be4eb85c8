# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Seeds in parallel: each runs in a process that is forked for it, so that all begin from the same state."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from clusterodm.testing.simulation import Event
from tests.simulation.plan import Plan
from tests.simulation.properties import Violation
from tests.simulation.scenario import simulate
from tests.support import empty_database

#: Seconds of CPU after which a seed is given up.
_MOST_CPU = 300.0


@dataclass
class Result:
    """What a seed came to, without its plan."""

    plan: Plan
    digest: str
    violations: list[Violation]
    hours: float
    cpu: float
    steps: int
    #: The history, if something was violated or it was asked for.
    events: list[Event]
    crash: str = ""

    @property
    def failed(self) -> bool:
        """True if a property does not hold, or the simulation itself broke."""
        return bool(self.violations or self.crash)


def run_all(
    plans: Iterable[Plan], *, jobs: int, events: bool = False, stop: Callable[[Result], bool] = lambda _: False
) -> Iterator[Result]:
    """Run plans, `jobs` at a time; yield results as they come, in any order, until `stop(result)`."""
    database = asyncio.run(empty_database())
    Image.init()  # what is loaded here need not be loaded for each seed
    waiting, running = iter(plans), dict[int, tuple[int, Plan]]()
    try:
        while True:
            while len(running) < jobs and (plan := next(waiting, None)) is not None:
                file, pid = _fork(plan, database, events=events)
                running[file] = (pid, plan)
            if not running:
                return
            for file in select.select(list(running), [], [])[0]:
                pid, plan = running.pop(file)
                result = _collect(file, pid, plan)
                yield result
                if stop(result):
                    return
    finally:
        for file, (pid, _) in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(file)


def run_one(plan: Plan, *, events: bool = True) -> Result:
    """Run one plan."""
    return next(run_all([plan], jobs=1, events=events))


def _fork(plan: Plan, database: bytes, *, events: bool) -> tuple[int, int]:
    sys.stdout.flush()
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return read, pid
    os.close(read)
    try:
        content = pickle.dumps(_simulated(plan, database, events=events))
        with os.fdopen(write, "wb") as file:
            file.write(content)
    finally:
        os._exit(0)


def _simulated(plan: Plan, database: bytes, *, events: bool) -> Result:
    try:
        outcome = simulate(plan, database)
    except BaseException:  # noqa: BLE001 - reported with its seed
        return Result(plan, "", [], 0.0, 0.0, 0, [], crash=traceback.format_exc())
    kept = outcome.events if outcome.violations or events else []
    return Result(plan, outcome.digest, outcome.violations, outcome.hours, outcome.cpu, outcome.steps, kept)


def _collect(file: int, pid: int, plan: Plan) -> Result:
    """Read a result; a child writes it at once, when it is done."""
    with os.fdopen(file, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    if not content:
        return Result(plan, "", [], 0.0, 0.0, 0, [], crash="the process of the simulation died")
    result: Result = pickle.loads(content)
    return result
