# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A simulation: one seed, one loop, one network, one disk."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from clusterodm.testing.simulation.disk import Disk
from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.loop import VirtualLoop
from clusterodm.testing.simulation.network import Network
from clusterodm.testing.simulation.reality import unreal

T = TypeVar("T")

#: Seconds since the epoch at which virtual time begins.
EPOCH: Final = 1_767_225_600.0


class Simulation:
    """A world in which programs run. `root` is a folder of this machine for their files; its path has no influence.
    Not `repeatable`, the order of sets of strings is left to the interpreter."""

    def __init__(self, seed: int, root: Path, *, repeatable: bool = True) -> None:
        if repeatable and sys.flags.hash_randomization:
            raise RealWorldError("start the interpreter with PYTHONHASHSEED=0: sets of strings are ordered by it")
        self.seed = seed
        self.root = root
        self.loop = VirtualLoop(self.chance("loop"))
        self.network = Network(self.loop, self.chance("network"))
        self.disk = Disk(root, self.loop.time, self.chance("disk"))

    def chance(self, purpose: str) -> random.Random:
        """Return random numbers for a purpose: one that needs more of them changes no other."""
        return random.Random(f"{self.seed} {purpose}")  # noqa: S311  # nosec B311 - repeatable

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end. What other processes still do then is dropped. If any was killed, the interpreter
        collects no garbage afterwards: what the dead have left must not be finalised."""
        collects = gc.isenabled()
        gc.disable()  # what a collection finalises, and when, would depend on the machine
        asyncio.set_event_loop(self.loop)
        self.disk.watch()
        try:
            with unreal(self.loop, self.disk, self.seed, EPOCH):
                try:
                    return self.loop.run_until_complete(main())
                except RuntimeError:  # stopped
                    if self.loop.failure is not None:
                        raise self.loop.failure from None
                    raise
        finally:
            self.disk.unwatch()
            asyncio.set_event_loop(None)
            if collects and not self.loop.dead:
                gc.enable()

    def now_in_sql(self, connection: sqlite3.Connection) -> None:
        """Let a connection's `julianday('now')` tell virtual time."""
        connection.create_function("julianday", 1, lambda _: (EPOCH + self.loop.time()) / 86400.0 + 2440587.5)
