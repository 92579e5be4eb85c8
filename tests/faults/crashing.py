# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run the program and kill it (as by kill -9) at one named point of its work.

    python -m tests.faults.crashing OWNER.METHOD:before|after:COUNT [arguments of clusterodm]
    python -m tests.faults.crashing --orders FILE [arguments of clusterodm]

The points are the borders between the program and everything that outlives it: the database, the files, the nodes, the
owner. Between two of them nothing happens that a restart could see. With `--orders`, FILE may at any time be given one
line OWNER.METHOD:before|after; the next call there is the last. The wall clock is ahead by what FILE.clock holds.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from clusterodm.aio import Clock
from clusterodm.cluster.machines import absence, backoff
from clusterodm.cluster.tasks import prefetch
from clusterodm.files.spool import Spool
from clusterodm.nodeodm import NodeClient, Transfer
from clusterodm.providers import BoundedProvider
from clusterodm.providers.rest import RestClient
from clusterodm.server import schedule
from clusterodm.store import Store


def owners() -> dict[str, type]:
    """Who has points."""
    from clusterodm.cluster.tasks.notifier import Notifier
    from clusterodm.files.console import Consoles

    return {
        "store": Store,
        "spool": Spool,
        "consoles": Consoles,
        "client": NodeClient,
        "transfer": Transfer,
        "notifier": Notifier,
        "provider": BoundedProvider,
        "rest": RestClient,
    }


#: The points of a task's way from the announcement to the webhook.
POINTS = [
    "store.add_task",
    "spool.publish",
    "store.advance",
    "client.init",
    "transfer.run",
    "store.change_attempt",
    "client.commit",
    "client.task",
    "consoles.append",
    "spool.drop",
    "notifier._call",
    "store.change_task",
]


#: The points of a machine's way from the order to its end.
MACHINE_POINTS = [
    "store.add_machine",
    "store.advance_machine",
    "store.change_machine",
    "provider.create",
    "provider.delete",
    "rest.call",
]


def die() -> NoReturn:
    """End without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def arm(where: str, last_before: Callable[[], bool], last_after: Callable[[], bool]) -> None:
    """Have the process die at a call of `where` as soon as one of the two says so."""
    owner, method = where.split(".")
    original = getattr(owners()[owner], method)

    @functools.wraps(original)
    async def deadly(self: Any, *arguments: Any, **named: Any) -> Any:
        if last_before():
            die()
        result = await original(self, *arguments, **named)
        if last_after():
            die()
        return result

    setattr(owners()[owner], method, deadly)


def at_count(when: str, count: int) -> tuple[Callable[[], bool], Callable[[], bool]]:
    """Before or after the call with this number."""
    calls = {"before": 0, "after": 0}

    def reached(moment: str) -> bool:
        calls[moment] += 1
        return when == moment and calls[moment] == count

    return functools.partial(reached, "before"), functools.partial(reached, "after")


def at_order(file: Path, where: str) -> tuple[Callable[[], bool], Callable[[], bool]]:
    """When the file says so; the order is taken out of it first."""

    def ordered(moment: str) -> bool:
        try:
            if file.read_text() != f"{where}:{moment}":
                return False
            file.unlink()
        except FileNotFoundError:
            return False
        return True

    return functools.partial(ordered, "before"), functools.partial(ordered, "after")


def set_clock(file: Path) -> None:
    """Have the wall clock go ahead by what the file holds."""
    true_time = time.time

    def jumping() -> float:
        try:
            return true_time() + float(file.read_text())
        except (FileNotFoundError, ValueError):
            return true_time()

    Clock.__init__.__defaults__ = (jumping, time.monotonic)


if __name__ == "__main__":
    schedule._SCALE = 0.05
    absence.SETTLE = 0.5  # type: ignore[misc]
    backoff.FIRST_BLOCK = 1.0  # type: ignore[misc]
    backoff.STOCK_OUT = 1.0  # type: ignore[misc]
    NodeClient._call.__kwdefaults__["seconds"] = 5.0  # type: ignore[index]  # what a node that hangs costs, in a storm often twice in a row
    point = sys.argv.pop(1)
    if point == "--orders":
        orders = Path(sys.argv.pop(1))
        prefetch.WORTH = 1  # type: ignore[misc]
        set_clock(orders.with_suffix(".clock"))
        for each in POINTS + MACHINE_POINTS:
            arm(each, *at_order(orders, each))
    else:
        name, moment, number = point.split(":")
        arm(name, *at_count(moment, int(number)))
    from clusterodm.__main__ import main

    main()
