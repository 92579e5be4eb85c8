# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node works on the attempt that counts, or on one that it will be told to end: what the model found."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiohttp import web

from clusterodm.cluster.state.entry import Entry
from clusterodm.core.errors import StaleTask
from clusterodm.core.retry import Failure
from clusterodm.core.tasks import (
    DISCARDED,
    FAILED_CODE,
    QUEUED_CODE,
    RUNNING_CODE,
    Attempt,
    Cleanup,
    Outcome,
    Phase,
    Stage,
    shown_code,
)
from tests.cluster.units import Units, attempt_of, running
from tests.odd_node import OddNode
from tests.support import eventually

ME = "me"


class Held:
    """Requests to one path wait until they are released."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """In place of the node."""
        if not request.path.startswith(self.path):
            return None
        self.reached.set()
        await self.released.wait()
        return web.json_response({"success": True}) if self.path == "/task/restart" else None


async def _running(unit: Units, odd: OddNode) -> Entry:
    """A task that runs on the node."""
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, ME) is None
    return entry


async def _canceled(unit: Units, odd: OddNode) -> Entry:
    """A canceled task that is still on its node."""
    entry = await _running(unit, odd)
    await unit.context.control.cancel(entry)
    return entry


async def test_a_commit_that_arrives_after_the_cancel_was_carried_out_begins_nothing(unit: Units, odd: OddNode) -> None:
    held = odd.first = Held("/task/new/commit/")
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(unit.sender.begin(entry, node, ME))
        await held.reached.wait()
        await unit.context.control.cancel(entry)
        assert attempt_of(entry).cleanup is Cleanup.CANCEL
        async with running(unit.cleaner(), elected=True):
            await eventually(lambda: not odd.tasks)
        held.released.set()
        assert await sending is not None
    assert odd.commits == []


@pytest.mark.parametrize(
    ("code", "failure", "cleanup"),
    [(RUNNING_CODE, Failure.UNREACHABLE, Cleanup.CANCEL), (FAILED_CODE, Failure.PROCESSING, Cleanup.NONE)],
)
async def test_a_task_that_fails_with_its_node_is_canceled_there_unless_it_is_over(
    unit: Units, odd: OddNode, code: int, failure: Failure, cleanup: Cleanup
) -> None:
    entry = await _running(unit, odd)
    unit.context.tasks.progress(entry, node_code=code)
    await unit.context.attempts.failed(entry, failure)
    assert (entry.task.outcome, attempt_of(entry).cleanup) == (Outcome.FAILED, cleanup)


async def test_a_replica_that_dies_while_it_restarts_a_task_leaves_a_cancel(unit: Units, odd: OddNode) -> None:
    held = odd.first = Held("/task/restart")
    entry = await _canceled(unit, odd)
    await unit.context.store.change_attempt(attempt_of(entry), cleanup=Cleanup.NONE)
    entry.attempt = msgspec.structs.replace(attempt_of(entry), cleanup=Cleanup.NONE)
    async with asyncio.TaskGroup() as group:
        group.create_task(unit.context.control.restart(entry, None))
        await held.reached.wait()
        [stored] = await unit.context.store.attempts_to_clean()
        assert (stored.number, stored.cleanup) == (1, Cleanup.CANCEL)
        held.released.set()
    assert await unit.context.store.attempts_to_clean() == []
    assert entry.task.phase is Phase.RUNNING


async def test_a_second_restart_does_not_queue_a_task_that_is_on_its_way_to_a_node(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    control, tasks = unit.context.control, unit.context.tasks
    await control.cancel(entry)
    async with asyncio.TaskGroup() as group, tasks.locks.hold(entry):
        second = group.create_task(control.restart(entry, None))
        await asyncio.wait([second], timeout=0.05)  # it waits for the lock
        await tasks.advance(entry, Phase.QUEUED, "restarted", outcome=None)
        assert await unit.sender.begin(entry, node, "") is None
    assert (entry.task.phase, attempt_of(entry).stage) == (Phase.DISPATCHING, Stage.SENDING)


async def test_what_was_polled_of_an_earlier_run_does_not_count_for_its_restart(unit: Units, odd: OddNode) -> None:
    odd.first = Held("/task/restart")
    odd.first.released.set()
    entry = await _running(unit, odd)
    before, tasks = attempt_of(entry), unit.context.tasks
    await unit.context.control.cancel(entry)
    unit.clock.ahead += 1
    await unit.context.control.restart(entry, None)
    assert (entry.task.phase, attempt_of(entry).number) == (Phase.RUNNING, before.number)
    with pytest.raises(StaleTask):
        await tasks.advance(entry, Phase.COLLECTING, "completed", was=before)
    assert entry.task.phase is Phase.RUNNING


async def test_a_prefetch_that_another_leader_discarded_is_not_taken(unit: Units, odd: OddNode) -> None:
    """Its files are about to be removed from the node."""
    entry, tasks = await unit.add_upload(), unit.context.tasks
    node = await unit.add_node(odd.port)
    uuid = entry.task.uuid
    prefetching = Attempt(
        task=uuid, number=1, node_id=node.record.id, node_name="n", node_uuid=uuid, stage=Stage.PREFETCHING, sender=ME
    )
    await tasks.change(entry, "prefetching", attempt=prefetching, attempts=1)
    await unit.commit(entry)
    await tasks.change(entry, "discarded", attempt=prefetching.ended(unit.clock(), DISCARDED, Cleanup.REMOVE))
    taken = msgspec.structs.replace(prefetching, stage=Stage.SENDING)
    with pytest.raises(StaleTask):
        await tasks.advance(entry, Phase.DISPATCHING, "taken", attempt=taken, was=prefetching)
    assert [each.stage for each in await unit.context.store.attempts(uuid)] == [Stage.ENDED]


async def test_a_restart_from_the_held_files_leaves_nothing_of_the_attempt_before(unit: Units, odd: OddNode) -> None:
    """Its node was not online at the restart: the next attempt may go to another one."""
    entry = await _canceled(unit, odd)
    await unit.context.store.change_attempt(attempt_of(entry), cleanup=Cleanup.NONE)
    entry.attempt = msgspec.structs.replace(attempt_of(entry), cleanup=Cleanup.NONE)
    [node] = unit.context.registry.nodes()
    node.failures = 100
    await unit.context.control.restart(entry, None)
    [stored] = await unit.context.store.attempts_to_clean()
    assert (entry.task.phase, stored.number, stored.cleanup) == (Phase.QUEUED, 1, Cleanup.REMOVE)


async def test_what_its_node_has_queued_after_a_restart_was_not_shown_as_running(unit: Units, odd: OddNode) -> None:
    odd.first = Held("/task/restart")
    odd.first.released.set()
    entry = await _running(unit, odd)
    await unit.context.control.cancel(entry)
    await unit.context.control.restart(entry, None)
    assert (entry.task.phase, shown_code(entry.task)) == (Phase.RUNNING, QUEUED_CODE)


async def test_what_was_seen_running_is_not_seen_queued_on_its_next_node(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, ME) is None
    unit.context.tasks.progress(entry, node_code=RUNNING_CODE)
    await unit.context.attempts.failed(entry, Failure.INTERRUPTED)
    assert await unit.sender.begin(entry, node, ME) is None
    odd.last.code, odd.last.count = QUEUED_CODE, 2
    tracker = unit.context.tracker
    await tracker._follow(entry.task.uuid)
    assert shown_code(entry.task) == RUNNING_CODE
