# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results are checked before a task counts as completed: broken ones are not kept, lost ones cost an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import BadResults, NodeError, NodeForgot, NodeUnreachable, ResultsGone
from clusterodm.core.retry import FETCHED
from clusterodm.core.tasks import Outcome, Phase
from tests.cluster.units import Units, attempt_of, running, units
from tests.faults.liar import cut
from tests.odd_node import Odd, OddNode, running_odd_node

LOST_AFTER = 600.0


@pytest.fixture
async def odd() -> AsyncIterator[OddNode]:
    """A node that is odd."""
    async with running_odd_node() as node:
        node.work = node.done
        yield node


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[Units]:
    """The parts of a cluster that keeps results."""
    async with units(tmp_path, results="keep", task_poll_interval=0.01, node_lost_after=LOST_AFTER) as parts:
        yield parts


async def _collecting(unit: Units, odd: OddNode, *, reason: str = "") -> tuple[Entry, Node]:
    """A task that is done on its node."""
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, "me") is None
    if reason:
        await unit.context.tasks.change_attempt(entry, attempt_of(entry), reason=reason)
    await unit.context.tasks.advance(entry, Phase.COLLECTING, "completed on its node; checking its results")
    return entry, node


def _kept(unit: Units, entry: Entry) -> list[Path]:
    """All that lies in the folder of a task's results."""
    folder = unit.context.results.folder(entry.task.uuid)
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def _answers(response: web.StreamResponse | None = None, *, body: bytes = b"", close: bool = False) -> Odd:
    async def answer(request: web.Request) -> web.StreamResponse | None:
        if close:
            return cut(request)
        return response or web.Response(body=body, content_type="application/zip")

    return answer


async def _not_odd(request: web.Request) -> web.StreamResponse | None:
    return None


BROKEN: dict[str, tuple[Callable[[OddNode], Odd], type[NodeError]]] = {
    "cut": (lambda odd: _answers(body=odd.archive[:-10]), BadResults),
    "no archive": (lambda odd: _answers(body=b"<html>" * 50), BadResults),
    "empty": (lambda odd: _answers(body=b""), BadResults),
    "forgotten": (lambda odd: _answers(web.json_response({"error": "x not found"})), NodeForgot),
    "closed": (lambda odd: _answers(close=True), NodeUnreachable),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_results_that_are_broken_or_not_to_be_had_are_not_kept(unit: Units, odd: OddNode, fault: str) -> None:
    entry, node = await _collecting(unit, odd)
    make, error = BROKEN[fault]
    odd.download = make(odd)
    with pytest.raises(error):
        await unit.context.collector.collect(entry, attempt_of(entry), node)
    assert (entry.task.phase, _kept(unit, entry)) == (Phase.COLLECTING, [])
    assert await unit.context.spool.listing(entry.task.uuid), "its files may be needed for another attempt"
    odd.download = _not_odd
    await unit.context.collector.collect(entry, attempt_of(entry), node)
    assert entry.task.outcome is Outcome.COMPLETED
    assert [path.read_bytes() for path in _kept(unit, entry)] == [odd.archive]
    assert not await unit.context.spool.listing(entry.task.uuid)


async def test_two_who_want_the_same_results_have_them_pulled_once(unit: Units, odd: OddNode) -> None:
    pulls: list[str] = []

    async def count(request: web.Request) -> web.StreamResponse | None:
        pulls.append(request.path)
        return None

    entry, node = await _collecting(unit, odd)
    odd.download = count
    collector, attempt = unit.context.collector, attempt_of(entry)
    pulled = [collector._pull(entry.task.uuid, attempt, node) for _ in range(3)]
    assert len(set(await asyncio.gather(*pulled))) == len(pulls) == 1


async def test_a_cancel_while_results_are_pulled_leaves_nothing_of_them(unit: Units, odd: OddNode) -> None:
    reached = asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        response = web.StreamResponse()
        response.content_length = len(odd.archive)
        await response.prepare(request)
        await response.write(odd.archive[:20])
        reached.set()
        await asyncio.Event().wait()
        return response

    odd.download = hold
    entry, _ = await _collecting(unit, odd)
    async with running(unit.context.tracker, elected=True):
        await reached.wait()
        await unit.context.control.cancel(entry)
    assert (entry.task.outcome, _kept(unit, entry)) == (Outcome.CANCELED, [])


@pytest.mark.parametrize("reason", ["", FETCHED], ids=["completed", "fetched through it"])
async def test_results_that_are_never_delivered_have_the_task_tried_elsewhere(
    unit: Units, odd: OddNode, reason: str
) -> None:
    odd.download = _answers(body=odd.archive[:-10])
    entry, node = await _collecting(unit, odd, reason=reason)
    async with running(unit.context.tracker, elected=True):
        await unit.until(lambda: entry.task.phase is Phase.QUEUED)
    assert (entry.task.charged, node.record.id in entry.task.avoid) == (1, bool(reason))
    assert (node.set_aside_until == pytest.approx(unit.clock() + 60, abs=30)) is not bool(reason)
    ended = "could not pack or deliver the results" if reason else "its results cannot be fetched"
    assert ended in (await unit.timeline(entry))[-1]
    assert await unit.context.spool.listing(entry.task.uuid)


async def test_a_node_that_gives_no_answer_is_waited_for_as_long_as_it_may_be_away(unit: Units, odd: OddNode) -> None:
    polled = asyncio.Event()

    async def away(request: web.Request) -> web.StreamResponse | None:
        polled.set()
        return cut(request)

    odd.download = away
    entry, _ = await _collecting(unit, odd)
    async with running(unit.context.tracker, elected=True):
        for _ in range(3):
            polled.clear()
            await polled.wait()
        assert entry.task.phase is Phase.COLLECTING
        unit.clock.ahead += LOST_AFTER + 1
        await unit.until(lambda: entry.task.phase is Phase.QUEUED)
    assert "the node could not be reached for too long" in (await unit.timeline(entry))[-1]


async def test_a_node_that_is_gone_while_its_results_are_due_costs_an_attempt(unit: Units, odd: OddNode) -> None:
    entry, node = await _collecting(unit, odd)
    await unit.context.registry.forget(node)
    async with running(unit.context.tracker, elected=True):
        await unit.until(lambda: entry.task.phase is Phase.QUEUED)
    assert (entry.task.charged, "the node was deleted" in (await unit.timeline(entry))[-1]) == (1, True)


async def test_results_that_stayed_on_a_node_that_is_gone_are_gone(tmp_path: Path, odd: OddNode) -> None:
    async with units(tmp_path) as unit:
        entry, node = await _collecting(unit, odd)
        collector = unit.context.collector
        await collector.collect(entry, attempt_of(entry), node)
        assert (entry.task.outcome, _kept(unit, entry)) == (Outcome.COMPLETED, [])
        odd.first = _answers(close=True)
        with pytest.raises(NodeUnreachable):
            await collector.archive(entry)
        await unit.context.registry.forget(node)
        with pytest.raises(ResultsGone, match="has deleted them, or is no longer here"):
            await collector.archive(entry)
