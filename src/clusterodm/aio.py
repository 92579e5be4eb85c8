# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Building blocks of the loops: clock and timers, leadership, keyed work queue, keyed lock, observers."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar

import structlog
from aiohttp import StreamReader

from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ClusterError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
P = ParamSpec("P")

_log = structlog.get_logger("observers")

#: Seconds by which the wall clock may outrun the monotonic one between two readings before that counts as a jump.
_JUMP: Final = 30.0

#: Between two attempts at failed work.
BACKOFF: Final = Backoff(first=0.5, longest=30.0)


def chance() -> float:
    """Return a random number for a Backoff."""
    return random.random()  # noqa: S311  # nosec B311 - not a secret


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock:
    """The only source of time: a wall clock for people and the store, a monotonic clock and timers for this process.

    Ages leave out jumps of the wall clock (set forward, or the machine slept): no upload is abandoned and no node lost
    because of one. Only jumps that this process has observed are known.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        #: Monotonic seconds, for durations within this process.
        self.steady = steady
        self._last_reading = (wall(), steady())
        #: When (by the wall clock before the jump) and how far it jumped.
        self._jumps: deque[tuple[float, float]] = deque(maxlen=100)

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        wall, steady = self._wall(), self.steady()
        jump = (wall - self._last_reading[0]) - (steady - self._last_reading[1])
        if jump > _JUMP:
            self._jumps.append((self._last_reading[0], jump))
        self._last_reading = (wall, steady)
        return wall

    def age(self, then: float) -> float:
        """Return the seconds elapsed since `then`, a time that may have been stored; negative after the clock was set
        back: too young is the safe side."""
        now = self()
        return now - then - sum(jump for at, jump in self._jumps if then <= at)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` in so many seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Cancel the block after so many seconds and raise TimeoutError."""
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(seconds, lambda: limit.reschedule(0.0))
            try:
                yield
            finally:
                timer.cancel()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Return True once `event` is set, False after so many seconds."""
        with suppress(TimeoutError):
            async with self.timeout(seconds):
                await event.wait()
        return event.is_set()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ended = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if ended.done() else ended.set_result(None))
        try:
            await ended
        finally:
            timer.cancel()


class KeyedLock(Generic[K]):
    """One lock per key; a key without holders and waiters takes no memory."""

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
    """The role that one replica at a time holds. It expires by the monotonic clock, also while nothing runs here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Monotonic; without replicas it never expires.
        self.until = math.inf

    @property
    def held(self) -> bool:
        """True if this process is the leader."""
        return self._clock.steady() < self.until


class Observers(Generic[P]):
    """Callbacks on a change, called one after another. One that raises neither undoes the change nor stops the others;
    it is a bug, so it is logged the first time and counted every time."""

    def __init__(self) -> None:
        #: How often each observer raised, by name; 0 for one that never did.
        self.failures: Counter[str] = Counter()
        self._observers: list[Callable[P, object]] = []

    def add(self, observer: Callable[P, object]) -> None:
        """Call `observer` from now on."""
        self._observers.append(observer)
        self.failures[_name(observer)] += 0

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all observers."""
        for observer in self._observers:
            try:
                observer(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - not a fault of the caller, which made a change
                self._failed(_name(observer), error)

    def _failed(self, name: str, error: Exception) -> None:
        self.failures[name] += 1
        if self.failures[name] == 1:
            _log.error("observer failed, further failures are only counted", observer=name, exc_info=error)


def _name(observer: Callable[..., object]) -> str:
    owner = getattr(observer, "__self__", None)
    name = str(getattr(observer, "__name__", type(observer).__name__))
    return f"{type(owner).__name__}.{name}" if owner is not None else f"{observer.__module__}.{name}"


class WorkQueue(Generic[K]):
    """Processes each key by one call at a time, and at most `concurrency` keys at once.

    `work(key)` returns the seconds until its next call, or None when it is done with the key. When it raises, it is
    retried with backoff. A key that is put while it is queued is merged (the earlier time wins); one that is put while
    it is processed is processed once more. Given a leadership, nothing is queued without it: the next leader starts
    from the store.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[K], Awaitable[float | None]],
        *,
        concurrency: int,
        clock: Clock,
        leadership: Leadership | None = None,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self.name = name
        self.work = work
        self._concurrency = concurrency
        self._clock = clock
        self._leadership = leadership
        self._backoff = backoff
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._running: dict[K, asyncio.Task[float | None]] = {}
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._settled = False
        self._log = structlog.get_logger(name)

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def put(self, key: K, delay: float = 0.0) -> None:
        """Process `key` in `delay` seconds at the latest."""
        if self._leadership is not None and not self._leadership.held:
            return
        due = self._clock.steady() + delay
        if key in self._running:
            self._again[key] = min(due, self._again.get(key, due))
        elif due < self._due.get(key, math.inf):
            self._schedule(key, due)
        else:
            self._wake.set()  # the clock may have passed the earlier time before its timer fired

    def cancel(self, key: K) -> None:
        """Forget `key`, and cancel the work on it."""
        self._due.pop(key, None)
        self._again.pop(key, None)
        self._failures.pop(key, None)
        running = self._running.get(key)
        if running and running is not asyncio.current_task():
            running.cancel()

    async def settle(self, seconds: float) -> None:
        """Start no more work, and wait at most so long for the work in progress."""
        self._settled = True
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                while self._running:
                    self._wake.clear()
                    await self._wake.wait()

    async def run(self) -> None:
        """Process keys until canceled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    delay = self._start_due(group)
                    timer = self._clock.call_later(delay, self._wake.set) if delay is not None else None
                    try:
                        await self._wake.wait()
                    finally:
                        if timer is not None:
                            timer.cancel()
        finally:
            for collection in (self._due, self._again, self._failures, self._heap):
                collection.clear()

    def _schedule(self, key: K, due: float) -> None:
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._wake.set()

    def _start_due(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due; return the seconds until the next key is, None if only a put or an end can bring one."""
        while self._heap and not self._settled:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
                continue
            if len(self._running) >= self._concurrency:
                return None
            if (delay := due - self._clock.steady()) > 0:
                return delay
            heapq.heappop(self._heap)
            del self._due[key]
            task = self._running[key] = group.create_task(self._one(key), name=f"{self.name} {key}")
            # not at the end of `_one`: a task that is canceled before its first step never gets there
            task.add_done_callback(partial(self._finish, key))
        return None

    async def _one(self, key: K) -> float | None:
        """Return the seconds until the next call."""
        try:
            delay = await self.work(key)
        except Exception as error:  # noqa: BLE001 - one of the three edges: a work item
            return self._failed(key, error)
        self._failures.pop(key, None)
        return delay

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

    def _finish(self, key: K, task: asyncio.Task[float | None]) -> None:
        self._wake.set()
        del self._running[key]
        due = self._again.pop(key, None)
        if not task.cancelled() and (delay := task.result()) is not None:
            due = min(due or math.inf, self._clock.steady() + delay)
        if due is not None and due < self._due.get(key, math.inf):
            self._schedule(key, due)


async def next_piece(stream: StreamReader) -> bytes:
    """Return the next bytes of a stream as they arrived, without a copy; empty only at its end. The empty piece that
    marks the end of an HTTP chunk is skipped."""
    piece = b""
    while not piece and not stream.at_eof():
        piece, _ = await stream.readchunk()
    return piece


async def to_end(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return the result of `work`. A cancel of the caller waits for its end, for so many seconds at most."""
    running = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=seconds)
        raise
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def unless(event: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
    """Run `work()`, and cancel it once `event` is set."""

    async def working() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        both = {group.create_task(event.wait()), group.create_task(working())}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
