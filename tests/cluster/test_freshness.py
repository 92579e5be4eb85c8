# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One query for all who ask, and nobody's answer depends on another who asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clusterodm.cluster.state import freshness
from clusterodm.cluster.state.freshness import Freshness
from clusterodm.core.errors import StoreDown
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
async def running(queries: Queries) -> AsyncIterator[tuple[Freshness, asyncio.TaskGroup]]:
    fresh = Freshness(queries)
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
        later = [group.create_task(fresh.check(uuid)) for uuid in ("a", "b", "c")]
        await asyncio.sleep(0)
        later[0].cancel()
        queries.gate.set()
        await asyncio.wait([first, *later])
        assert queries.begun == [{"a"}, {"a", "b", "c"}]
        assert (later[0].cancelled(), queries.ended) == (True, 2)


@pytest.mark.parametrize("error", [StoreDown("later"), ZeroDivisionError()])
async def test_a_query_that_fails_leaves_the_old_answer_and_ends_nothing(error: Exception) -> None:
    queries = Queries()
    queries.error = error
    queries.gate.set()
    async with running(queries) as (fresh, _):
        await fresh.check("a")
        await fresh.check("b")
    assert queries.begun == [{"a"}, {"b"}]


async def test_nobody_waits_longer_than_for_two_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "_PATIENCE", 0.02)
    queries = Queries()
    async with running(queries) as (fresh, _):
        await fresh.check("a")
    await Freshness(queries).check("a")  # nor where no loop runs, as at the end
    assert queries.ended == 0


async def test_the_end_of_the_loop_answers_who_waits() -> None:
    queries = Queries()
    async with asyncio.TaskGroup() as group:
        fresh = Freshness(queries)
        loop = group.create_task(fresh.run())
        waiting = group.create_task(fresh.check("a"))
        await eventually(lambda: queries.begun)
        loop.cancel()
        await waiting
