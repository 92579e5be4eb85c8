# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A clock that a test drives: time passes in `advance` alone, and timers fire in order as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from clusterodm.aio import Clock, Timer

#: Wall time at which driven clocks start.
EPOCH = 1_700_000_000.0


class _Timer:
    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback = callback
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True


class DrivenClock(Clock):
    """Begins at a wall time (a real one where others go by theirs), and at 0 monotonic seconds."""

    def __init__(self, start: float = EPOCH) -> None:
        self.start = start
        self.passed = 0.0
        self._timers: list[_Timer] = []
        super().__init__(lambda: self.start + self.passed, lambda: self.passed)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` once so much time has passed."""
        if seconds <= 0:
            return asyncio.get_running_loop().call_soon(callback)
        timer = _Timer(self.passed + seconds, callback)
        self._timers.append(timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass; what a timer wakes runs before the next one fires."""
        await settle()
        end = self.passed + seconds
        while due := [timer for timer in self._timers if timer.at <= end and not timer.canceled]:
            timer = min(due, key=lambda each: each.at)
            self._timers.remove(timer)
            self.passed = max(self.passed, timer.at)
            timer.callback()
            await settle()
        self._timers = [timer for timer in self._timers if not timer.canceled]
        self.passed = end

    def freeze(self, seconds: float) -> None:
        """Let time pass while nothing runs, as in a process that is stopped: no timer fires before `advance`."""
        self.passed += seconds


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a loop while the block runs."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield task
        task.cancel()


async def settle() -> None:
    """Run what is ready, and what that makes ready."""
    for _ in range(20):
        await asyncio.sleep(0)
