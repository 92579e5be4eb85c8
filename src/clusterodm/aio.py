# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What all loops of the cluster are made of: a keyed work queue, a keyed lock, observers of changes, a clock that
jumps do not deceive, and streams read piece by piece."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Final, Generic, ParamSpec, TypeVar

import structlog
from aiohttp import StreamReader

from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ClusterError

K = TypeVar("K", bound=Hashable)
P = ParamSpec("P")

_log = structlog.get_logger("observers")

#: Seconds that the wall clock may run ahead between two looks before that counts as a jump.
_JUMP: Final = 30.0

#: Between two tries of failed work.
BACKOFF: Final = Backoff(first=0.5, longest=30.0)


def chance() -> float:
    """A random number for a Backoff."""
    return random.random()  # noqa: S311  # nosec B311 - nobody gains by guessing it


class Clock:
    """Seconds since the epoch, for people and for what is stored; and ages in which jumps do not count.

    When the wall clock is set forward, or the machine slept, nothing has become older by it: no upload is abandoned and
    no node lost because of that. Only jumps that this process saw are known.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        #: Seconds since some moment, never set: for what only matters while this process lives.
        self.steady = steady
        self._seen = (wall(), steady())
        #: When (by the clock as it was before) and how far it jumped.
        self._jumps: deque[tuple[float, float]] = deque(maxlen=100)

    def __call__(self) -> float:
        """The wall clock."""
        wall, steady = self._wall(), self.steady()
        jump = (wall - self._seen[0]) - (steady - self._seen[1])
        if jump > _JUMP:
            self._jumps.append((self._seen[0], jump))
        self._seen = (wall, steady)
        return wall

    def age(self, then: float) -> float:
        """Seconds that went by since `then`, which is a time that may have been stored; negative after the clock was
        set back: too young is the safe side."""
        now = self()
        return now - then - sum(jump for at, jump in self._jumps if then <= at)


class KeyedLock(Generic[K]):
    """One lock for each key; a key takes no memory once nobody holds its lock or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[K, asyncio.Lock] = {}
        #: Holders and waiters of each lock.
        self._users: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Hold the lock of `key` while the block runs."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class Leadership:
    """What one replica at a time does for all. Work that belongs to a leadership is done only while it is held."""

    def __init__(self, *, held: bool = True) -> None:
        self.held = held


class Observers(Generic[P]):
    """Who is told of a change, one after another. One that raises keeps nobody else from hearing of it, nor the change
    from being made; that is a bug, so it is logged the first time and counted each time."""

    def __init__(self) -> None:
        #: How often each observer raised, by its name; 0 for one that never did.
        self.failures: Counter[str] = Counter()
        self._observers: list[Callable[P, object]] = []

    def add(self, observer: Callable[P, object]) -> None:
        """Have `observer` called from now on."""
        self._observers.append(observer)
        self.failures[_name(observer)] += 0

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all observers."""
        for observer in self._observers:
            try:
                observer(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whoever made the change cannot do anything about it
                self._failed(_name(observer), error)

    def _failed(self, name: str, error: Exception) -> None:
        self.failures[name] += 1
        if self.failures[name] == 1:
            _log.error("an observer failed, later failures are only counted", observer=name, exc_info=error)


def _name(observer: Callable[..., object]) -> str:
    whose = getattr(observer, "__self__", None)
    name = str(getattr(observer, "__name__", type(observer).__name__))
    return f"{type(whose).__name__}.{name}" if whose is not None else f"{observer.__module__}.{name}"


class WorkQueue(Generic[K]):
    """Works on one key at a time, on at most `concurrency` keys at once.

    `work(key)` returns the seconds after which it wants to be called again, or None when it is done with the key.
    When it raises, it is called again with growing delays. Putting a key that waits merges the two (the earlier time
    wins); putting one that is being worked on has it worked on once more. Without leadership nothing is put: the next
    leader begins with everything.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[K], Awaitable[float | None]],
        *,
        concurrency: int,
        leadership: Leadership | None = None,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._name = name
        self._work = work
        self._concurrency = concurrency
        self._leadership = leadership or Leadership()
        self._backoff = backoff
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._running: dict[K, asyncio.Task[None]] = {}
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._settled = False
        self._log = structlog.get_logger(name)

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def put(self, key: K, delay: float = 0.0) -> None:
        """Have `key` worked on in `delay` seconds at the latest."""
        if not self._leadership.held:
            return
        due = time.monotonic() + delay
        if key in self._running:
            self._again[key] = min(due, self._again.get(key, due))
        elif due < self._due.get(key, float("inf")):
            self._schedule(key, due)

    def cancel(self, key: K) -> None:
        """Forget `key`; work on it that is under way is canceled."""
        self._due.pop(key, None)
        self._again.pop(key, None)
        self._failures.pop(key, None)
        running = self._running.get(key)
        if running and running is not asyncio.current_task():
            running.cancel()

    async def settle(self, seconds: float) -> None:
        """Begin nothing new, and wait for what is being worked on, at most so long."""
        self._settled = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:
                    self._wake.clear()
                    await self._wake.wait()

    async def run(self) -> None:
        """Work until canceled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    delay = self._start_due(group)
                    try:
                        async with asyncio.timeout(delay):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
        finally:
            for kept in (self._due, self._again, self._failures, self._heap):
                kept.clear()

    def _schedule(self, key: K, due: float) -> None:
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._wake.set()

    def _start_due(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due; the seconds until more will be, None when only a change can bring more."""
        while self._heap and not self._settled:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
                continue
            if len(self._running) >= self._concurrency:
                return None
            if (delay := due - time.monotonic()) > 0:
                return delay
            heapq.heappop(self._heap)
            del self._due[key]
            self._running[key] = group.create_task(self._one(key), name=f"{self._name} {key}")
        return None

    async def _one(self, key: K) -> None:
        delay: float | None = None
        try:
            delay = await self._work(key)
            self._failures.pop(key, None)
        except asyncio.CancelledError:
            delay = None  # the work was taken back, or everything ends: either way this task ends here
        except Exception as error:  # noqa: BLE001 - one of the three edges: a work item
            delay = self._failed(key, error)
        finally:
            del self._running[key]
            self._finish(key, delay)

    def _failed(self, key: K, error: Exception) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.wait(count, chance())
        expected = isinstance(error, ClusterError)
        self._log.warning(
            "work failed",
            key=str(key),
            error=str(error) or type(error).__name__,
            again_in=round(delay, 2),
            exc_info=not expected,
        )
        return delay

    def _finish(self, key: K, delay: float | None) -> None:
        self._wake.set()
        due = self._again.pop(key, None)
        if delay is not None:
            due = min(due or float("inf"), time.monotonic() + delay)
        if due is not None and due < self._due.get(key, float("inf")):
            self._schedule(key, due)


async def next_piece(stream: StreamReader) -> bytes:
    """What came of a stream, as it came and without a copy; empty at the end only. The end of an HTTP chunk comes as an
    empty piece, which is skipped."""
    piece = b""
    while not piece and not stream.at_eof():
        piece, _ = await stream.readchunk()
    return piece


async def unless(event: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
    """Call `work()` and wait until it is done; no longer than until `event` is set."""

    async def working() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        both = {group.create_task(event.wait()), group.create_task(working())}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()


async def every(seconds: float, work: Callable[[], Awaitable[object]], name: str) -> None:
    """Call `work()` for ever, every so many seconds; a failure is logged and does not end it."""
    log = structlog.get_logger(name)
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            log.exception("work failed")
