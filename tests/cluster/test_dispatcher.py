# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the queue to a node, step by step: whatever breaks in between, a task runs once, and costs its owner nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks import prefetch
from clusterodm.cluster.tasks.attempts import Failed
from clusterodm.core.retry import Failure
from clusterodm.core.scheduling import Placement
from clusterodm.core.tasks import Cleanup, Outcome, Phase, Stage
from clusterodm.store import Replica
from tests.cluster.units import PHOTOS, Units, attempt_of, running, units
from tests.faults.liar import cut
from tests.odd_node import OddNode, running_odd_node
from tests.support import eventually

ME = "me"


async def _as_usual(request: web.Request) -> web.StreamResponse | None:
    return None


def _plan(unit: Units) -> list[Placement]:
    return unit.placer.plan(8, lambda entry: False).placements


def _hold(odd: OddNode) -> asyncio.Event:
    """Have a node never answer an upload; the event is set once one has begun."""
    reached = asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        reached.set()
        await asyncio.Event().wait()
        return None

    odd.before = hold
    return reached


async def _is_queued_again(unit: Units, entry: Entry, failed: Failed | None, expected: Failed) -> None:
    """The failure is this one, it is not charged, and the task waits for the end of its back-off."""
    assert failed == expected
    await unit.context.attempts.failed(entry, *expected)
    task, attempt = entry.task, attempt_of(entry)
    assert (task.phase, task.charged, attempt.stage, attempt.cleanup) == (Phase.QUEUED, 0, Stage.ENDED, Cleanup.REMOVE)
    assert (unit.sender.under_way, _plan(unit)) == ({}, [])
    unit.clock.ahead += 61


async def test_a_node_that_vanishes_after_the_choice_leaves_its_task_in_the_queue(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    [placement] = _plan(unit)
    assert unit.placer.choose(placement)
    assert _plan(unit) == [], "a chosen task is not placed twice"
    await unit.context.registry.forget(node)
    assert unit.placer.chosen(entry.task.uuid) is None
    unit.placer.close(entry.task.uuid, entry)
    assert (entry.attempt, _plan(unit)) == (None, [])
    await unit.add_node(odd.port)
    assert [each.task for each in _plan(unit)] == [entry.task.uuid]


async def test_a_node_that_vanishes_before_its_task_is_placed_is_not_chosen(unit: Units, odd: OddNode) -> None:
    node, _ = await unit.add_node(odd.port), await unit.add_task()
    [placement] = _plan(unit)
    await unit.context.registry.forget(node)
    assert not unit.placer.choose(placement)


async def test_a_node_that_vanishes_before_the_files_are_sent_costs_nothing(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, "") is None
    await unit.context.registry.forget(node)
    failed = await unit.sender.claim(entry, attempt_of(entry), ME)
    await _is_queued_again(unit, entry, failed, Failed(Failure.DISPATCH, "the node was deleted"))
    await unit.add_node(odd.port)
    assert [each.task for each in _plan(unit)] == [entry.task.uuid]


async def test_a_node_that_goes_down_while_files_are_sent_costs_nothing(unit: Units, odd: OddNode) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return cut(request)

    odd.first = refuse
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    failed = await unit.sender.begin(entry, node, ME)
    assert failed is not None
    await _is_queued_again(unit, entry, failed, Failed(Failure.DISPATCH, failed.detail))
    assert odd.commits == []


async def test_a_sender_that_dies_while_it_sends_has_the_task_sent_anew_under_another_uuid(
    unit: Units, odd: OddNode
) -> None:
    reached = _hold(odd)
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    async with running(lambda: unit.sender.begin(entry, node, ME)):
        await reached.wait()
    assert (entry.task.phase, attempt_of(entry).stage) == (Phase.DISPATCHING, Stage.SENDING)
    failed = await unit.sender.resume(entry, attempt_of(entry))
    await _is_queued_again(unit, entry, failed, Failed(Failure.INTERRUPTED))
    first = attempt_of(entry).node_uuid

    odd.before = _as_usual
    assert await unit.sender.begin(entry, node, ME) is None
    assert (entry.task.phase, attempt_of(entry).number) == (Phase.RUNNING, 2)
    assert odd.commits == [attempt_of(entry).node_uuid] != [first]
    assert odd.last.files == PHOTOS


@pytest.mark.parametrize("stage", [Stage.SENDING, Stage.COMMITTING])
async def test_the_leader_resumes_what_a_dead_replica_was_sending_and_leaves_that_of_others(
    unit: Units, odd: OddNode, stage: Stage
) -> None:
    node, context = await unit.add_node(odd.port), unit.context
    context.replicas.members.append(Replica(id="alive", name="alive", version=""))
    entries = {}
    for sender in ("dead", "alive"):
        entry = entries[sender] = await unit.add_task()
        await unit.sender.begin(entry, node, "")
        await context.tasks.change_attempt(entry, attempt_of(entry), sender=sender, stage=stage)
    dead = entries["dead"]
    async with running(context.dispatcher, elected=True):
        await unit.until(lambda: dead.task.phase is not Phase.DISPATCHING)
    assert (entries["alive"].task.phase, attempt_of(entries["alive"]).stage) == (Phase.DISPATCHING, stage)
    assert dead.task.phase is (Phase.RUNNING if stage is Stage.COMMITTING else Phase.QUEUED)
    assert dead.task.charged == 0
    expected = "interrupted during the commit" if stage is Stage.COMMITTING else "sending was interrupted"
    assert expected in (await unit.timeline(dead))[-1]


async def test_a_task_that_its_owner_canceled_meanwhile_does_not_keep_a_new_leader_from_the_others(
    unit: Units, odd: OddNode, tmp_path: Path
) -> None:
    node, context = await unit.add_node(odd.port), unit.context
    entries = [await unit.add_task(), await unit.add_task()]
    for entry in entries:
        await unit.sender.begin(entry, node, "")
        await context.tasks.change_attempt(entry, attempt_of(entry), sender="dead")
    canceled, other = entries
    with closing(sqlite3.connect(tmp_path / "clusterodm.db")) as database, database:
        database.execute("UPDATE tasks SET phase = 'finished' WHERE uuid = ?", (canceled.task.uuid,))
    async with running(context.dispatcher, elected=True):
        await unit.until(lambda: other.task.phase is Phase.QUEUED)
    assert canceled.task.phase is Phase.DISPATCHING, "it is read again when its change is heard of"


async def test_an_attempt_is_claimed_by_one_replica(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    await unit.sender.begin(entry, node, "")
    attempt = attempt_of(entry)
    claims = [unit.sender.claim(entry, attempt, sender) for sender in ("one", "other")]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert sorted(map(repr, results))[0] == "None"
    assert [type(result).__name__ for result in results if result is not None] == ["StaleTask"]
    assert len(odd.commits) == 1


@pytest.mark.parametrize(
    ("lost", "line"),
    [
        ("answer", "running on"),
        ("request", "running on"),
        ("everything", "commit to 127.0.0.1"),
    ],
)
async def test_a_commit_without_an_answer_starts_the_task_once(unit: Units, odd: OddNode, lost: str, line: str) -> None:
    commits = 0

    async def lose(request: web.Request) -> web.StreamResponse | None:
        nonlocal commits
        if "/commit/" not in request.path:
            return cut(request) if lost == "everything" and request.path.endswith("/info") else None
        commits += 1
        if commits > 1:
            return None
        if lost != "request":
            await odd.commit(request)
        return cut(request)

    odd.first = lose
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, ME) is None
    assert (entry.task.phase, odd.commits) == (Phase.RUNNING, [entry.task.uuid])
    assert (await unit.timeline(entry))[-1].startswith(line)


async def test_a_commit_that_cannot_be_stored_is_not_repeated(unit: Units, odd: OddNode, tmp_path: Path) -> None:
    def rename(table: str, to: str) -> None:
        with closing(sqlite3.connect(tmp_path / "clusterodm.db")) as database:
            database.execute(f"ALTER TABLE {table} RENAME TO {to}")

    async def break_store(request: web.Request) -> web.StreamResponse | None:
        if "/commit/" in request.path:
            rename("tasks", "broken")
        return None

    odd.first = break_store
    await unit.add_node(odd.port)
    async with running(unit.context.dispatcher):
        entry = await unit.add_task()
        await eventually(lambda: odd.commits and not unit.context.dispatcher._working)
        assert entry.task.phase is Phase.DISPATCHING
        rename("broken", "tasks")
        await unit.until(lambda: entry.task.phase is Phase.RUNNING)
    assert odd.commits == [entry.task.uuid]
    assert (await unit.timeline(entry))[-1].startswith("interrupted during the commit")


async def test_a_commit_that_never_arrives_is_given_up_and_costs_nothing(unit: Units, odd: OddNode) -> None:
    async def lose(request: web.Request) -> web.StreamResponse | None:
        return cut(request) if "/commit/" in request.path else None

    odd.first = lose
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    failed = await unit.sender.begin(entry, node, ME)
    await _is_queued_again(unit, entry, failed, Failed(Failure.DISPATCH, "the commit was not taken"))
    assert odd.commits == []


async def test_a_node_that_refuses_the_commit_has_its_words_kept(unit: Units, odd: OddNode) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return web.json_response({"error": "no such option"}) if "/commit/" in request.path else None

    odd.first = refuse
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    assert await unit.sender.begin(entry, node, ME) == Failed(Failure.REFUSED, "no such option")


@pytest.mark.parametrize(
    ("path", "cleanup"),
    [
        ("/task/new/init", Cleanup.REMOVE),
        ("/task/new/upload/", Cleanup.REMOVE),
        ("/task/new/commit/", Cleanup.CANCEL),
        ("/info", Cleanup.CANCEL),
        ("/download/", Cleanup.CANCEL),
    ],
    ids=["announcing", "sending", "committing", "running", "collecting"],
)
async def test_a_cancel_in_any_step_ends_the_task_and_frees_its_slot(
    unit: Units, odd: OddNode, path: str, cleanup: Cleanup
) -> None:
    reached, released = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        if path in request.path:
            reached.set()
            await released.wait()
        return None

    odd.first, odd.work = hold, odd.done
    node, context = await unit.add_node(odd.port), unit.context
    async with running(context.dispatcher, context.tracker, unit.cleaner()):
        entry = await unit.add_task()
        await reached.wait()
        ended: list[Cleanup] = []
        context.tasks.watch(lambda each: ended.append(attempt_of(each).cleanup))
        await context.control.cancel(entry)
        released.set()
        assert ended == [cleanup]
        assert (entry.task.outcome, entry.task.error) == (Outcome.CANCELED, "")
        await unit.until(lambda: not node.reserved and not node.running)
        other = await unit.add_task()
        await unit.until(lambda: other.task.phase is Phase.FINISHED)
        assert (other.task.outcome, unit.sender.under_way) == (Outcome.COMPLETED, {})
    assert entry.task.outcome is Outcome.CANCELED
    assert (await unit.timeline(entry))[-1] == "canceled by its owner"


@dataclass
class Slow:
    """Cancel and restart at a node as they are carried out; the first of one kind takes until it is released."""

    slow: str
    begun: int = 0
    done: list[str] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """In place of the node."""
        order = request.path.removeprefix("/task/")
        if order not in ("cancel", "restart"):
            return None
        self.begun += 1
        if order == self.slow and not self.reached.is_set():
            self.reached.set()
            await self.released.wait()
        self.done.append(order)
        return web.json_response({"success": True})


async def test_a_cancel_on_its_way_never_ends_the_run_that_follows_it(unit: Units, odd: OddNode) -> None:
    slow = odd.first = Slow("cancel")
    await unit.add_node(odd.port)
    context = unit.context
    async with running(context.dispatcher, context.tracker, unit.cleaner()):
        entry = await unit.add_task()
        await unit.until(lambda: entry.task.phase is Phase.RUNNING)
        await context.control.cancel(entry)
        await slow.reached.wait()
        async with asyncio.TaskGroup() as group:
            restart = group.create_task(context.control.restart(entry, None))
            await asyncio.wait([restart], timeout=0.3)  # it must not get there now
            slow.released.set()
        await eventually(lambda: len(slow.done) == slow.begun)
        assert (slow.done[0], slow.done[-1], slow.done.count("restart")) == ("cancel", "restart", 1)
        assert (entry.task.phase, attempt_of(entry).cleanup) == (Phase.RUNNING, Cleanup.NONE)


async def test_a_restart_on_its_way_never_follows_the_cancel_of_its_owner(unit: Units, odd: OddNode) -> None:
    slow = odd.first = Slow("restart")
    odd.work = lambda task: setattr(task, "code", 30)
    await unit.add_node(odd.port)
    context = unit.context
    async with running(context.dispatcher, context.tracker, unit.cleaner()):
        entry = await unit.add_task()
        await unit.until(lambda: entry.task.not_before)
        unit.clock.ahead += 61
        context.tracker.look(entry.task.uuid)
        await slow.reached.wait()
        await context.control.cancel(entry)
        async with asyncio.TaskGroup() as group:
            canceled = group.create_task(eventually(lambda: slow.done))
            await asyncio.wait([canceled], timeout=0.3)  # it must not get there now
            slow.released.set()
        await eventually(lambda: len(slow.done) == 2)
        assert slow.done == ["restart", "cancel"]
        assert (entry.task.outcome, entry.task.phase) == (Outcome.CANCELED, Phase.FINISHED)


async def test_a_cancel_in_the_queue_gives_the_chosen_slot_back(unit: Units, odd: OddNode) -> None:
    node, entry = await unit.add_node(odd.port), await unit.add_task()
    [placement] = _plan(unit)
    unit.placer.choose(placement)
    assert entry.task.uuid in node.reserved
    await unit.context.control.cancel(entry)
    assert (entry.attempt, node.reserved, unit.placer.chosen(entry.task.uuid)) == (None, {}, None)


@pytest.fixture
async def eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Units]:
    """The parts of a cluster that prefetches whatever comes in."""
    monkeypatch.setattr(prefetch, "WORTH", 1)
    async with units(tmp_path, prefetch=2) as parts:
        prefetcher = parts.sender.prefetcher
        async with running(prefetcher):
            yield parts


async def _prefetching(unit: Units) -> Entry:
    entry = await unit.add_upload()
    for file in await unit.context.spool.listing(entry.task.uuid):
        unit.sender.prefetcher.grew(entry.task.uuid, file)
    await unit.until(lambda: entry.attempt is not None)
    assert attempt_of(entry).stage is Stage.PREFETCHING
    return entry


async def test_a_prefetch_whose_node_vanishes_is_discarded_and_the_task_is_sent_elsewhere(
    eager: Units, odd: OddNode
) -> None:
    first = await eager.add_node(odd.port)
    entry = await _prefetching(eager)
    await eager.context.registry.forget(first)
    await eager.until(lambda: attempt_of(entry).stage is Stage.ENDED)
    assert (await eager.timeline(entry))[-1].endswith("discarded: the node was deleted")
    await eager.commit(entry)
    async with running_odd_node() as other:
        assert await eager.sender.begin(entry, await eager.add_node(other.port), ME) is None
        assert (other.commits, other.last.files) == ([attempt_of(entry).node_uuid], PHOTOS)
    assert [(each.number, each.stage) for each in await eager.context.store.attempts(entry.task.uuid)] == [
        (1, Stage.ENDED),
        (2, Stage.RUNNING),
    ]


async def test_a_cancel_while_the_rest_of_a_prefetch_is_sent_leaves_nothing_in_flight(
    eager: Units, odd: OddNode
) -> None:
    reached = _hold(odd)
    node = await eager.add_node(odd.port)
    entry = await _prefetching(eager)
    await reached.wait()
    await eager.commit(entry)
    async with running(eager.context.dispatcher):
        await eager.until(lambda: entry.task.phase is Phase.DISPATCHING)
        assert "prefetched to" in (await eager.timeline(entry))[-1]
        await eager.context.control.cancel(entry)
        await eager.until(lambda: not node.reserved and not node.prefetches)
        await eventually(lambda: not eager.sender.under_way)
    attempt = attempt_of(entry)
    assert (entry.task.outcome, attempt.stage, attempt.cleanup) == (Outcome.CANCELED, Stage.ENDED, Cleanup.REMOVE)
    assert odd.commits == []


async def test_a_read_that_began_before_a_change_of_an_attempt_does_not_undo_it(unit: Units, odd: OddNode) -> None:
    node, context = await unit.add_node(odd.port), unit.context
    entry = await unit.add_task()
    await unit.sender.begin(entry, node, "")
    sending = await context.tasks.change_attempt(entry, attempt_of(entry), sender=ME, stage=Stage.SENDING)
    read = await context.store.find_task(entry.task.uuid)
    assert read is not None
    await context.tasks.change_attempt(entry, sending, stage=Stage.COMMITTING)
    context.tasks._apply(*read)
    assert attempt_of(entry).stage is Stage.COMMITTING


async def test_a_task_that_another_replica_accepted_is_found_although_the_store_is_slow(unit: Units) -> None:
    entry, tasks = await unit.add_task(), unit.context.tasks
    entry.task = msgspec.structs.replace(entry.task, phase=Phase.RECEIVING, version=entry.task.version - 1)
    tasks._store.shared = True
    tasks.others = False  # the other one was late
    assert (await tasks.require(entry.task.uuid, entry.task.owner)).task.phase is Phase.QUEUED
