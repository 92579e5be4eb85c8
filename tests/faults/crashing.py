"""Run the program and kill it (as by kill -9) at one named point of its work.

    python -m tests.faults.crashing OWNER.METHOD:before|after:COUNT [arguments of clusterodm]

The points are the borders between the program and everything that outlives it: the database, the files, the nodes, the
owner. Between two of them nothing happens that a restart could see.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import Any, NoReturn

from clusterodm.__main__ import main
from clusterodm.cluster.notifier import Notifier
from clusterodm.console import Consoles
from clusterodm.nodeodm import NodeClient, Transfer
from clusterodm.spool import Spool
from clusterodm.store import Store

OWNERS: dict[str, type] = {
    "store": Store,
    "spool": Spool,
    "consoles": Consoles,
    "client": NodeClient,
    "transfer": Transfer,
    "notifier": Notifier,
}


def die() -> NoReturn:
    """End without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def arm(point: str) -> None:
    """Have the process die at `point`."""
    where, when, count = point.split(":")
    owner, method = where.split(".")
    original = getattr(OWNERS[owner], method)
    left = int(count)

    @functools.wraps(original)
    async def deadly(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        last = left == 0
        if last and when == "before":
            die()
        result = await original(self, *arguments, **named)
        if last:
            die()
        return result

    setattr(OWNERS[owner], method, deadly)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main()
