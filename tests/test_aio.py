# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The keyed work queue, the clock and the other parts that loops are made of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from clusterodm import aio
from clusterodm.aio import Clock, KeyedLock, Leadership, Observers, WorkQueue
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ClusterError
from tests.clock import EPOCH, DrivenClock, settle
from tests.support import eventually


@asynccontextmanager
async def working(
    work: Callable[[str], Awaitable[float | None]],
    concurrency: int = 10,
    *,
    clock: Clock | None = None,
    backoff: Backoff | None = None,
    leadership: Leadership | None = None,
) -> AsyncIterator[WorkQueue[str]]:
    """A queue that works while the block runs."""
    queue = WorkQueue(
        "test",
        work,
        concurrency=concurrency,
        clock=clock or Clock(),
        leadership=leadership,
        backoff=backoff or Backoff(first=0.001, longest=0.01),
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(queue.run())
        yield queue
        running.cancel()


async def test_a_key_is_worked_on_by_one_at_a_time_and_once_more_when_put_meanwhile() -> None:
    calls: list[str] = []
    in_progress: Counter[str] = Counter()
    gate = asyncio.Event()

    async def work(key: str) -> None:
        in_progress[key] += 1
        assert in_progress[key] == 1
        calls.append(key)
        await gate.wait()
        in_progress[key] -= 1

    async with working(work) as queue:
        for _ in range(5):
            queue.put("a")
        await eventually(lambda: calls)
        for _ in range(5):
            queue.put("a")
        gate.set()
        await eventually(lambda: len(calls) == 2 and not len(queue))


async def test_no_more_than_the_allowed_number_work_at_once() -> None:
    most, now = 0, 0

    async def work(key: str) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    async with working(work, concurrency=3) as queue:
        for number in range(20):
            queue.put(str(number))
        await eventually(lambda: not len(queue))
    assert most == 3


async def test_the_earlier_of_two_times_counts() -> None:
    calls: list[str] = []

    async def work(key: str) -> None:
        calls.append(key)

    async with working(work) as queue:
        queue.put("a", 1000)
        queue.put("b", 1000)
        queue.put("a", 0)
        queue.put("a", 500)
        await eventually(lambda: calls == ["a"])
        assert len(queue) == 1


async def test_failed_work_comes_back_and_does_not_hold_up_the_rest() -> None:
    calls: Counter[str] = Counter()

    async def work(key: str) -> None:
        calls[key] += 1
        if key == "bad" and calls[key] < 4:
            raise ClusterError("not yet") if calls[key] % 2 else ZeroDivisionError

    async with working(work) as queue:
        queue.put("bad")
        queue.put("good")
        await eventually(lambda: calls == {"bad": 4, "good": 1} and not len(queue))


async def test_what_failed_together_does_not_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(number / 10 for number in range(10))
    monkeypatch.setattr(aio, "chance", lambda: next(numbers))

    async def work(key: str) -> None:
        raise ClusterError("not yet")

    queue = WorkQueue("test", work, concurrency=10, clock=Clock(), backoff=Backoff(first=100.0, longest=100.0))
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(queue.run())
            for number in range(10):
                queue.put(str(number))
            await eventually(lambda: len(logs) == 10)
            running.cancel()
    assert sorted(line["again_in"] for line in logs) == [55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 100.0]


async def test_work_comes_again_after_the_seconds_that_it_returned() -> None:
    clock, calls = DrivenClock(), list[float]()

    async def work(key: str) -> float | None:
        calls.append(clock.steady())
        return 10.0 if len(calls) < 3 else None

    async with working(work, clock=clock) as queue:
        queue.put("a", 5.0)
        await clock.advance(4.9)
        assert calls == []
        await clock.advance(100.0)
        assert (calls, len(queue)) == ([5.0, 15.0, 25.0], 0)


async def test_failed_work_is_retried_with_growing_waits_that_a_success_resets() -> None:
    clock, calls, fails = DrivenClock(), list[float](), True

    async def work(key: str) -> None:
        calls.append(clock.steady())
        if fails:
            raise ClusterError("not yet")

    async with working(work, clock=clock, backoff=Backoff(first=1.0, longest=4.0, jitter=0.0)) as queue:
        queue.put("a")
        await clock.advance(11.5)
        assert calls == [0.0, 1.0, 3.0, 7.0, 11.0]
        fails = False
        await clock.advance(10.0)
        fails = True
        calls.clear()
        queue.put("a")
        await clock.advance(2.0)
        assert calls == [21.5, 22.5]


async def test_without_leadership_nothing_is_queued_and_it_expires_also_while_no_timer_fires() -> None:
    clock, calls = DrivenClock(), list[str]()
    leadership = Leadership(clock)

    async def work(key: str) -> None:
        calls.append(key)

    async with working(work, clock=clock, leadership=leadership) as queue:
        leadership.until = 4.0
        queue.put("in time")
        clock.freeze(4.0)
        queue.put("late")
        await clock.advance(0.0)
        assert (calls, leadership.held) == (["in time"], False)
        leadership.until = 8.0
        queue.put("next term")
        await settle()
        assert calls == ["in time", "next term"]


async def test_a_queue_that_settles_starts_nothing_and_waits_no_longer_than_told() -> None:
    clock, started, gate = DrivenClock(), list[str](), asyncio.Event()

    async def work(key: str) -> None:
        started.append(key)
        await gate.wait()

    async with working(work, clock=clock) as queue, asyncio.TaskGroup() as group:
        queue.put("a")
        await settle()
        hasty = group.create_task(queue.settle(1.0))
        patient = group.create_task(queue.settle(60.0))
        queue.put("b")
        await clock.advance(2.0)
        assert (hasty.done(), patient.done()) == (True, False)
        gate.set()
        await patient
    assert started == ["a"]


async def test_a_driven_block_is_canceled_when_its_time_is_over_and_not_before() -> None:
    clock, over = DrivenClock(), list[float]()

    async def block(seconds: float) -> None:
        try:
            async with clock.timeout(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            over.append(clock.steady())

    async with asyncio.TaskGroup() as group:
        for seconds in (3.0, 1.0, 0.0):
            group.create_task(block(seconds))
        await clock.advance(2.0)
        assert over == [0.0, 1.0]
        await clock.advance(1.0)
    assert (over, clock(), clock.age(EPOCH)) == ([0.0, 1.0, 3.0], EPOCH + 3.0, 3.0)
    async with clock.timeout(1.0):
        pass
    assert await clock.wait(_set(), 1.0)


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_canceled_work_stops_and_is_forgotten() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    async with working(work) as queue:
        queue.put("a")
        queue.put("later", 1000)
        await started.wait()
        queue.cancel("a")
        queue.cancel("later")
        await ended.wait()
        await eventually(lambda: not len(queue))


async def test_work_that_is_canceled_before_its_first_step_is_done_when_it_is_put_again() -> None:
    done = asyncio.Event()

    async def work(key: str) -> None:
        done.set()

    async with working(work) as queue:
        queue.put("a")
        for _ in range(100):
            if queue._running:  # its task exists, and has not run yet
                break
            await asyncio.sleep(0)
        queue.cancel("a")
        queue.put("a")
        await asyncio.wait_for(done.wait(), 5)
        await eventually(lambda: not len(queue))


async def test_work_that_cancels_itself_goes_on_to_its_end() -> None:
    done = asyncio.Event()

    async def work(key: str) -> None:
        queue.cancel(key)
        await asyncio.sleep(0)
        done.set()

    async with working(work) as queue:
        queue.put("a")
        await asyncio.wait_for(done.wait(), 5)


def test_ages_count_what_went_by_and_not_what_the_clock_was_set_to() -> None:
    wall, steady = [1000.0], [0.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    wall[0], steady[0] = 1010.0, 10.0
    assert clock.age(1000.0) == 10.0
    wall[0], steady[0] = 90_010.0, 20.0  # asleep, or set forward
    assert clock() == 90_010.0
    assert clock.age(1000.0) == pytest.approx(20.0)
    assert clock.age(90_005.0) == 5.0
    wall[0], steady[0] = 1030.0, 30.0  # and back
    assert clock.age(1030.0) == 0.0
    assert clock.age(1000.0) < 0
    assert clock.age(90_005.0) < 0


class Listener:
    """Hears of changes; a deaf one fails."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.heard: list[str] = []

    def hear(self, what: str) -> None:
        if self.deaf:
            raise ZeroDivisionError
        self.heard.append(what)


def test_an_observer_that_raises_keeps_no_other_from_hearing_and_is_logged_once_by_name_and_counted() -> None:
    first, broken, last = Listener(), Listener(deaf=True), Listener()
    observers: Observers[[str]] = Observers()
    for each in (first, broken, last):
        observers.add(each.hear)
    with capture_logs() as logs:
        for what in ("a", "b", "c"):
            observers.tell(what)
    assert first.heard == last.heard == ["a", "b", "c"]
    assert [(line["observer"], line["log_level"]) for line in logs] == [("Listener.hear", "error")]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)
    assert observers.failures == {"Listener.hear": 3}


def test_observers_of_any_kind_have_a_name() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    class Callable_:
        def __call__(self) -> None:
            raise ZeroDivisionError

    observers: Observers[[]] = Observers()
    observers.add(broken)
    observers.add(Callable_())
    observers.add(lambda: 1 // 0)
    observers.tell()
    assert observers.failures == {f"{__name__}.broken": 1, f"{__name__}.Callable_": 1, f"{__name__}.<lambda>": 1}


async def test_a_keyed_lock_is_held_by_one_at_a_time_however_many_come_and_go_meanwhile() -> None:
    lock: KeyedLock[str] = KeyedLock()
    holders, order = 0, list[int]()
    gates = [asyncio.Event() for _ in range(3)]

    async def one(number: int) -> None:
        nonlocal holders
        async with lock.hold("a"):
            holders += 1
            assert holders == 1
            order.append(number)
            await gates[number].wait()
            holders -= 1

    async with asyncio.TaskGroup() as group:
        group.create_task(one(0))
        group.create_task(one(1))
        await eventually(lambda: order == [0])
        gates[0].set()
        await eventually(lambda: order == [0, 1])
        group.create_task(one(2))  # while the second one, who waited, is inside
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == [0, 1]
        for gate in gates:
            gate.set()
    assert (order, len(lock)) == ([0, 1, 2], 0)


async def test_a_key_that_nobody_holds_or_waits_for_takes_no_memory_also_after_errors_and_cancels() -> None:
    lock: KeyedLock[str] = KeyedLock()

    async def wait() -> None:
        async with lock.hold("a"):
            raise AssertionError("never had")

    async def fail() -> None:
        async with lock.hold("a"), lock.hold("b"), asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await eventually(lambda: lock._users["a"] == 2)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert (len(lock), lock._users["a"]) == (2, 1)
            raise ValueError("inside")

    with pytest.RaisesGroup(ValueError):
        await fail()
    assert len(lock) == 0
