# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One query answers all that arrived before it, and no answer depends on the client that came first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clusterodm.aio import Clock
from clusterodm.cluster.state.freshness import Freshness
from clusterodm.core.errors import StoreDown
from tests.clock import DrivenClock, background, settle
from tests.support import eventually


class Queries:
    """Queries that take until they are let go, and what each was for."""

    def __init__(self) -> None:
        self.begun: list[set[str]] = []
        self.ended = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, uuids: set[str]) -> None:
        self.begun.append(uuids)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.ended += 1


@asynccontextmanager
async def running(queries: Queries, clock: Clock | None = None) -> AsyncIterator[tuple[Freshness, asyncio.TaskGroup]]:
    fresh = Freshness(queries, clock or Clock())
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(fresh.run())
        yield fresh, group
        loop.cancel()


async def test_who_waits_is_answered_by_the_query_also_when_the_one_who_asked_first_leaves() -> None:
    queries = Queries()
    async with running(queries) as (fresh, group):
        first = group.create_task(fresh.check("a"))
        second = group.create_task(fresh.check("b"))
        await eventually(lambda: queries.begun)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not second.done()
        queries.gate.set()
        await second
        assert (queries.begun, queries.ended) == ([{"a", "b"}], 1)


async def test_a_question_that_comes_during_a_query_is_answered_by_the_next_one() -> None:
    queries = Queries()
    async with running(queries) as (fresh, group):
        first = group.create_task(fresh.check("a"))
        await eventually(lambda: queries.begun)
        waiters = [group.create_task(fresh.check(uuid)) for uuid in ("a", "b", "c")]
        await asyncio.sleep(0)
        waiters[0].cancel()
        queries.gate.set()
        await asyncio.wait([first, *waiters])
        assert queries.begun == [{"a"}, {"a", "b", "c"}]
        assert (waiters[0].cancelled(), queries.ended) == (True, 2)


@pytest.mark.parametrize("error", [StoreDown("later"), ZeroDivisionError()])
async def test_a_query_that_fails_leaves_the_old_answer_and_ends_nothing(error: Exception) -> None:
    queries = Queries()
    queries.error = error
    queries.gate.set()
    async with running(queries) as (fresh, _):
        await fresh.check("a")
        await fresh.check("b")
    assert queries.begun == [{"a"}, {"b"}]


async def test_a_store_that_does_not_answer_costs_each_client_two_seconds_at_most() -> None:
    clock, queries = DrivenClock(), Queries()
    async with running(queries, clock) as (fresh, group):
        first = group.create_task(fresh.check("a"))
        await clock.advance(0.5)
        second = group.create_task(fresh.check("b"))
        await clock.advance(0.4)
        assert not first.done()
        await clock.advance(0.2)  # its query is given up, and the next one begins
        assert (first.done(), second.done()) == (True, False)
        await clock.advance(1.0)
        assert second.done()
        third = group.create_task(fresh.check("c"))
        await settle()
        queries.gate.set()
        await third
    assert (queries.begun, queries.ended) == ([{"a"}, {"b"}, {"c"}], 1)


async def test_where_no_loop_runs_a_client_gets_the_old_answer_after_two_seconds() -> None:
    clock, queries = DrivenClock(), Queries()
    async with background(Freshness(queries, clock).check("a")) as waiting:
        await clock.advance(1.9)
        assert not waiting.done()
        await clock.advance(0.2)
        assert waiting.done()
    assert queries.begun == []


async def test_the_end_of_the_loop_answers_who_waits() -> None:
    queries = Queries()
    async with asyncio.TaskGroup() as group:
        fresh = Freshness(queries, Clock())
        loop = group.create_task(fresh.run())
        waiting = group.create_task(fresh.check("a"))
        await eventually(lambda: queries.begun)
        loop.cancel()
        await waiting
