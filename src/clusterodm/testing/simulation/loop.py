# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The event loop: time advances to the next timer once nothing is ready.

Executors run on the loop's own thread, each call in a greenlet: it may block in virtual time (`park`), as a thread
would, and everything else goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from greenlet import getcurrent, greenlet

from clusterodm.testing.simulation.errors import Deadlock, RealWorldError
from clusterodm.testing.simulation.handles import Handle, TimerHandle
from clusterodm.testing.simulation.hosts import PROCESS, Process

if TYPE_CHECKING:
    from clusterodm.testing.simulation.network import Network

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Canceled timers beyond which the heap is rebuilt.
_MOST_CANCELED: Final = 200
#: Seconds that a call in an executor takes: a hop to a thread, and sometimes a disk that is busy.
_HOP: Final = 0.0005
_BUSY: Final = 0.05
_BUSY_CHANCE: Final = 0.02
#: Threads of the default executor.
_THREADS: Final = 32


class OrderedTask(asyncio.Task[Any]):
    """A task whose place in a set depends on its number instead of its address."""

    _numbers = itertools.count(1)

    def __init__(self, *args: Any, **how: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **how)

    def __hash__(self) -> int:
        return self._number


class Parking:
    """Blocks the code of one executor call until it is woken."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._parked: greenlet | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float | None = None) -> bool:
        """Block until `wake`; return False if `seconds` passed first."""
        current = getcurrent()
        if current.parent is None:
            raise RealWorldError("the event loop would block")
        self._parked = current
        if seconds is not None:
            self._timer = self._loop.call_later(max(0.0, seconds), self._resume, False)
        return bool(current.parent.switch())

    def wake(self) -> None:
        """Let the blocked code go on."""
        if self._parked is not None:
            self._loop.call_soon(self._resume, True)

    def _resume(self, woken: bool) -> None:
        parked, self._parked = self._parked, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if parked is not None:
            parked.switch(woken)


class _Executor:
    """The queue of one thread pool."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = 0
        self.waiting: deque[Callable[[], None]] = deque()


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, beginning at 0."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 0.0
        self._ready: deque[Any] = deque()
        self._scheduled: list[tuple[float, int, Any]] = []
        self._timers = 0
        #: Timers in the heap that are canceled.
        self._canceled = 0
        self._stopping = False
        #: What decides how long calls in executors take.
        self.chance = chance
        self._executors: dict[int, _Executor] = {}
        #: Calls in executors; those of crashed processes stay, so that their clean-up never runs.
        self._jobs: set[greenlet] = set()
        self.network: Network | None = None
        #: What ended the simulation early.
        self.failure: RealWorldError | None = None
        #: What dead processes have left in memory.
        self.dead: list[object] = []
        #: Processes that are stopped, each with what it will do once it goes on.
        self._paused: dict[Process, list[asyncio.Handle]] = {}
        #: Callbacks run so far.
        self.steps = 0
        #: Errors that nothing handled, with their time.
        self.unhandled: list[tuple[float, str]] = []
        self.set_exception_handler(self._note_unhandled)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # as asyncio calls it

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    # Scheduling

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback, unless its process is dead."""
        handle = Handle(callback, args, self, context)
        if not self.dead or not _is_dead(handle):
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback: there are no other threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Queue a callback for a later time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Queue a callback for a time, unless its process is dead."""
        timer = TimerHandle(when, callback, args, self, context)
        if not self.dead or not _is_dead(timer):
            self._timers += 1  # of two for the same time, the earlier one comes first
            heapq.heappush(self._scheduled, (when, self._timers, timer))
            timer._scheduled = True
        return timer

    def timer_canceled(self) -> None:
        """Note that a timer in the heap will not run."""
        self._canceled += 1

    def drop(self, process: Process) -> None:
        """Forget all callbacks of a process. What they refer to stays in memory: a coroutine that is finalised would
        run its clean-up, which a killed process does not."""
        self.dead.append(process)
        paused = self._paused.pop(process, [])
        for handle in (*self._ready, *paused, *(timer for _, _, timer in self._scheduled)):
            if _process_of(handle) is process and not handle.cancelled():
                self.dead.append((handle._callback, handle._args))
                handle.cancel()

    def pause(self, process: Process) -> None:
        """Run no callback of a process until `resume`."""
        self._paused.setdefault(process, [])

    def resume(self, process: Process) -> None:
        """Let a process go on, with everything that was due meanwhile."""
        self._ready.extend(self._paused.pop(process, []))

    def _is_held(self, handle: asyncio.Handle) -> bool:
        process = _process_of(handle)
        if process is None or process not in self._paused:
            return False
        self._paused[process].append(handle)
        return True

    def _run_once(self) -> None:
        """Run callbacks until `stop` was called."""
        ready = self._ready
        while True:
            self._queue_due()
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled and not (self._paused and self._is_held(handle)):
                    self.steps += 1
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:  # noqa: BLE001 - as asyncio does
                        self.call_exception_handler({"message": "Exception in a callback", "exception": error})
            if self._stopping:
                return

    def _queue_due(self) -> None:
        """Queue the timers that are due, those of the next time if nothing else is ready."""
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0][2]._cancelled:
            self._canceled -= 1
            heapq.heappop(scheduled)[2]._scheduled = False
        if self._canceled > _MOST_CANCELED and self._canceled * 2 > len(scheduled):
            self._rebuild()
        if not ready and not self._stopping:
            if not scheduled:
                raise Deadlock("nothing can happen any more")
            self._now = max(self._now, scheduled[0][0])
        while scheduled and scheduled[0][0] <= self._now:
            timer = heapq.heappop(scheduled)[2]
            timer._scheduled = False
            ready.append(timer)

    def _rebuild(self) -> None:
        for _, _, timer in self._scheduled:
            if timer._cancelled:
                timer._scheduled = False
        self._scheduled[:] = [each for each in self._scheduled if not each[2]._cancelled]
        heapq.heapify(self._scheduled)
        self._canceled = 0

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **how: Any) -> Any:
        return OrderedTask(coroutine, loop=loop, **how)

    def _note_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, RealWorldError):
            self.fail(error)
        self.unhandled.append((self._now, f"{context.get('message')}: {error!r}"))

    def fail(self, error: RealWorldError) -> None:
        """End the simulation: simulated code did what it must not."""
        self.failure = self.failure or error
        self.stop()

    # Executors

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function after a delay of the seed; it may `park`."""
        future: asyncio.Future[T] = self.create_future()
        queue = self._executor(executor)
        context = copy_context()

        def start() -> None:
            queue.running += 1
            self.call_later(self.hop(), self._start_job, queue, executor, future, func, args, context=context)

        if queue.running < queue.most:
            start()
        else:
            queue.waiting.append(start)
        return future

    def hop(self) -> float:
        """Return the seconds that a short call in a thread takes."""
        pace = _BUSY if self.chance.random() < _BUSY_CHANCE else _HOP
        return self.chance.expovariate(1.0 / pace)

    def _executor(self, executor: Any) -> _Executor:
        process = PROCESS.get()
        key = id(executor) if executor is not None else -id(process)
        if key not in self._executors:
            self._executors[key] = _Executor(getattr(executor, "_max_workers", _THREADS))
            self._executors[key].owner = executor or process  # type: ignore[attr-defined]  # keeps its id its own
        return self._executors[key]

    def _start_job(self, queue: _Executor, executor: Any, future: asyncio.Future[Any], func: Any, args: Any) -> None:
        if getattr(executor, "_shutdown", False):
            future.cancel()
            return
        job = greenlet(self._job)
        job.gr_context = copy_context()
        self._jobs.add(job)
        job.switch(queue, future, func, args)

    def _job(self, queue: _Executor, future: asyncio.Future[Any], func: Callable[..., Any], args: Any) -> None:
        try:
            result = func(*args)
        except RealWorldError as error:
            self.fail(error)
        except BaseException as error:  # noqa: BLE001 - as a thread pool: the error belongs to whoever waits
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        finally:
            self._jobs.discard(getcurrent())
            queue.running -= 1
            if queue.waiting:
                queue.waiting.popleft()()

    def block_on(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a coroutine to code in an executor, which blocks meanwhile."""
        parking = Parking(self)
        task = self.create_task(work)
        task.add_done_callback(lambda _: parking.wake())
        parking.wait()
        return task.result()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncio has it
        """Do nothing: there are no threads."""

    # Sockets

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
        """Return the address of a simulated name."""
        assert self.network is not None, "simulated"  # noqa: S101 - see Simulation
        await asyncio.sleep(self.hop())
        address = self.network.resolve(str(host))
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, int(port or 0)))]

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **how: Any) -> Any:
        """Listen on an address of the caller's host, or on the socket `sock` of Network.listening."""
        assert self.network is not None, "simulated"  # noqa: S101 - see Simulation
        return self.network.listen(protocol_factory, how.get("sock"), host, port)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **how: Any) -> Any:
        """Connect, or take over the connected socket `sock` of Network.dial."""
        assert self.network is not None, "simulated"  # noqa: S101 - see Simulation
        if how.get("ssl"):
            raise RealWorldError("TLS is not simulated")
        endpoint = how.get("sock") or await self.network.dial(str(host), int(port))
        protocol = protocol_factory()
        endpoint.attach(protocol)
        return endpoint, protocol

    def _write_to_self(self) -> None:
        """Do nothing: the kernel is not involved."""

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: there are no events of the kernel."""


def _process_of(handle: Any) -> Process | None:
    context: Context = handle._context
    return context.get(PROCESS)


def _is_dead(handle: Any) -> bool:
    process = _process_of(handle)
    return process is not None and process.dead
