# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators do with tasks, each verb once."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Iterable
from typing import Final

import msgspec

from clusterodm.admin.estimates import Guesses
from clusterodm.admin.views import (
    AttemptView,
    Done,
    EventView,
    FileView,
    OptionView,
    TaskDetail,
    TaskPage,
    TaskView,
    Why,
)
from clusterodm.cluster.context import Context
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.durations import span
from clusterodm.core.errors import BadRequest, FilesLost, TaskNotFound
from clusterodm.core.names import is_image
from clusterodm.core.options import added_options
from clusterodm.core.retry import Failure, awaits_restart
from clusterodm.core.tasks import ON_NODE, Attempt, Outcome, Phase, Stage, Task, has_results, shown_code
from clusterodm.nodeodm import Transfer
from clusterodm.store import TaskFilter

MAX_PAGE: Final = 500
_MAX_FILES: Final = 1000
_OPERATOR: Final = "an operator"
#: Priorities go from one to the other; higher goes first.
LOWEST, HIGHEST = -1000, 1000
#: Words for a filter.
_PHASES: Final = [str(phase) for phase in Phase if phase is not Phase.REMOVED]
_OUTCOMES: Final = [str(outcome) for outcome in Outcome]
STATES: Final = (*_PHASES, *_OUTCOMES)


def entry_view(entry: Entry, guesses: Guesses) -> TaskView:
    """One task in short."""
    task, attempt = entry.task, entry.attempt
    position, expected = guesses.of(task.uuid)
    return TaskView(
        uuid=task.uuid,
        name=task.name,
        owner=task.owner,
        phase=task.phase,
        status=0 if task.phase is Phase.RECEIVING else shown_code(task),
        outcome=task.outcome,
        error=task.error,
        progress=100.0 if task.outcome is Outcome.COMPLETED else task.progress,
        images=task.image_count,
        files=task.file_count,
        bytes=task.byte_count,
        priority=task.priority,
        submodel=task.submodel,
        created_at=task.created_at,
        committed_at=task.committed_at,
        finished_at=task.finished_at,
        processing_seconds=task.processing_time / 1000 if task.processing_time >= 0 else -1.0,
        node=attempt.node_name if attempt else "",
        attempt=attempt.number if attempt else 0,
        started_at=attempt.started_at if attempt else 0.0,
        wait=entry.wait if task.phase is Phase.QUEUED else "",
        position=position,
        expected_wait=expected,
    )


async def find(cluster: Context, uuid: str) -> Entry:
    """A task of any owner in any phase but removed; the beginning of its uuid is enough when it is unique. Raises
    TaskNotFound."""
    wanted = uuid.strip().lower()
    entry = await cluster.tasks.find(wanted)
    if entry is None and 4 <= len(wanted) < 36:
        begins = await cluster.store.find_tasks(TaskFilter(text=wanted), limit=3)
        found = [task for task in begins if task.uuid.startswith(wanted)]
        if len(found) > 1:
            raise BadRequest(f"several tasks begin with {wanted}")
        entry = await cluster.tasks.find(found[0].uuid) if found else None
    if entry is None or entry.task.phase is Phase.REMOVED:
        raise TaskNotFound(f"{uuid[:100]} not found")
    return entry


async def page(cluster: Context, wanted: TaskFilter, *, limit: int = 50, offset: int = 0) -> TaskPage:
    """A page of tasks, with how many there are in all."""
    entries = await latest(cluster, wanted, limit=limit, offset=offset)
    guesses = await Guesses.now(cluster)
    views = [entry_view(entry, guesses) for entry in entries]
    return TaskPage(tasks=views, total=await cluster.store.count_tasks(wanted))


async def latest(cluster: Context, wanted: TaskFilter, *, limit: int, offset: int = 0) -> list[Entry]:
    """Tasks, latest commit first. What is in memory is newer than the store and wins."""
    stored = await cluster.store.find_tasks(wanted, limit=min(limit, MAX_PAGE), offset=offset)
    attempts = await cluster.store.last_attempts(task.uuid for task in stored)
    return [cluster.tasks.get(task.uuid) or Entry(task, attempts.get(task.uuid)) for task in stored]


async def queue(cluster: Context) -> list[TaskView]:
    """Tasks that wait, next first."""
    guesses = await Guesses.now(cluster)
    waiting = (cluster.tasks.get(turn.task.uuid) for turn in guesses.turns)
    return [entry_view(entry, guesses) for entry in waiting if entry is not None]


async def active(cluster: Context) -> list[TaskView]:
    """Tasks that are not over, but for those that wait: on nodes first, then those that receive files."""
    guesses = await Guesses.now(cluster)
    entries = [entry for entry in cluster.tasks.active() if entry.task.phase is not Phase.QUEUED]
    entries.sort(key=lambda entry: (entry.task.phase is Phase.RECEIVING, -entry.task.committed_at, entry.task.uuid))
    return [entry_view(entry, guesses) for entry in entries]


async def show(cluster: Context, entry: Entry) -> TaskDetail:
    """One task with all that is known of it."""
    task, uuid = entry.task, entry.task.uuid
    guesses = await Guesses.now(cluster)
    held = await cluster.spool.listing(uuid)
    archive = cluster.results.archive(uuid)
    shown = entry_view(entry, guesses)
    if task.phase is Phase.RECEIVING:  # they are counted at the commit
        shown.files, shown.images = len(held), sum(is_image(file.name) for file in held)
        shown.bytes = sum(file.size for file in held)
    options = [*task.options, *added_options(task.options, task.added_options)]
    return TaskDetail(
        task=shown,
        why=_why(cluster, entry, guesses),
        options=[OptionView(name=str(option["name"]), value=option.get("value")) for option in options],
        attempts=[_attempt(attempt) for attempt in await cluster.store.attempts(uuid)],
        timeline=await timeline(cluster, entry),
        held_files=[FileView(name=file.name, size=file.size) for file in held[:_MAX_FILES]],
        results=await asyncio.to_thread(_inside, archive) if archive else [],
        results_at=_results_at(entry, here=archive is not None) if has_results(task, entry.attempt) else "",
        console_lines=await cluster.consoles.count(uuid),
    )


def _results_at(entry: Entry, *, here: bool) -> str:
    if here:
        return "here"
    if entry.task.results_in:
        return f"bucket of {entry.task.results_in}"
    return entry.attempt.node_name if entry.attempt else ""


def _attempt(attempt: Attempt) -> AttemptView:
    return AttemptView(
        number=attempt.number,
        node=attempt.node_name,
        node_uuid=attempt.node_uuid,
        stage=str(attempt.stage),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        reason=attempt.reason,
        cleanup=str(attempt.cleanup),
    )


def _inside(archive: object) -> list[FileView]:
    try:
        with zipfile.ZipFile(str(archive)) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError):
        return []
    return [FileView(name=entry.filename, size=entry.file_size) for entry in entries[:_MAX_FILES]]


async def timeline(cluster: Context, entry: Entry) -> list[EventView]:
    """What happened to a task, oldest first."""
    return [EventView(at=event.at, text=event.text) for event in await cluster.store.timeline(entry.task.uuid)]


async def output(cluster: Context, entry: Entry, line: int = 0) -> list[str]:
    """Console lines from number `line`; negative: the last ones."""
    return msgspec.json.decode(await cluster.consoles.read(entry.task.uuid, line), type=list[str])


async def why(cluster: Context, entry: Entry) -> Why:
    """Why a task is as it is."""
    guesses = await Guesses.now(cluster)
    return Why(uuid=entry.task.uuid, phase=entry.task.phase, why=_why(cluster, entry, guesses))


def _why(cluster: Context, entry: Entry, guesses: Guesses) -> str:
    task, node = entry.task, entry.attempt.node_name if entry.attempt else "a node"
    is_ahead = entry.attempt is not None and entry.attempt.stage is Stage.PREFETCHING
    ahead = f"; its files are sent ahead to {node}" if is_ahead else ""
    match task.phase:
        case Phase.RECEIVING:
            return f"its client has not committed it yet{ahead}"
        case Phase.QUEUED:
            position, expected = guesses.of(task.uuid)
            guess = f", about {span(expected)} to go" if expected else ""
            place = f"position {position} of {len(guesses.turns)}{guess}"
            turn = f"; {guesses.turns[position - 1].why}" if position else ""
            return f"waits: {entry.wait or 'it was not looked at yet'} ({place}{turn}){ahead}"
        case Phase.DISPATCHING:
            transfer = cluster.dispatcher.sending.get(task.uuid)
            return f"on its way to {node}, {_arrived(task, transfer)}"
        case Phase.RUNNING:
            return _why_running(cluster, entry, node)
        case Phase.COLLECTING:
            return f"done on {node}; its results are looked at or brought here"
    return _why_over(task, node)


def _arrived(task: Task, transfer: Transfer | None) -> str:
    """What the node has of a task's files: what it confirmed; and what is on its side but not confirmed."""
    if transfer is None:
        return f"none of its {task.file_count} files are there yet"
    share = 100 * transfer.arrived_bytes // max(1, task.byte_count)
    under_way = f", {transfer.under_way / 1e6:.1f} MB more are under way" if transfer.under_way else ""
    return f"{share} % of its files are there{under_way}"


def _why_running(cluster: Context, entry: Entry, node: str) -> str:
    if entry.unreachable_since:
        silent = cluster.clock.steady() - entry.unreachable_since
        left = cluster.settings.node_lost_after - silent
        when = f"in {span(left)}" if left > 0 else "now"
        return f"{node} has not answered for {span(silent)}; {when} it is given up, and the task goes on elsewhere"
    if entry.attempt is not None and awaits_restart(entry.task, entry.attempt):
        again = span(max(0.0, entry.task.not_before - cluster.clock()))
        return f"done on {node}, but {entry.attempt.reason}, in {again}"
    there = "waits in the queue of" if entry.task.node_code == 10 else "runs on"
    return f"{there} {node}, {entry.task.progress:.0f} % done"


def _why_over(task: Task, node: str) -> str:
    if task.outcome is Outcome.FAILED:
        return f"failed on {node}: {task.error}"
    return "canceled" if task.outcome is Outcome.CANCELED else f"completed on {node}"


async def cancel(cluster: Context, entry: Entry) -> Done:
    """Cancel a task in any phase; one that is over stays as it is, an upload is removed."""
    await cluster.control.cancel(entry, by=_OPERATOR)
    return Done(text=f"{entry.task.uuid} is {entry.task.outcome or entry.task.phase}")


async def remove(cluster: Context, entry: Entry) -> Done:
    """Remove a task with its files, here and on its node."""
    await cluster.control.remove(entry, by=_OPERATOR)
    return Done(text=f"{entry.task.uuid} is removed")


async def retry(cluster: Context, entry: Entry) -> Done:
    """Begin a task that is over again; take one that is on a node away from it and give it to another."""
    if entry.task.phase is Phase.FINISHED:
        await cluster.control.restart(entry, None)
        return Done(text=f"{entry.task.uuid} begins again")
    if entry.task.phase not in ON_NODE or entry.attempt is None:
        raise BadRequest(f"a task that is {entry.task.phase} cannot be retried")
    try:
        await cluster.holdings.whole(entry.task)
    except FilesLost as lost:
        raise BadRequest(f"{lost}, so it cannot go elsewhere") from None
    await cluster.attempts.failed(entry, Failure.MOVED)
    return Done(text=f"{entry.task.uuid} goes elsewhere")


async def prioritize(cluster: Context, entry: Entry, priority: int) -> Done:
    """Give a task another priority; higher goes first, 0 is usual."""
    if not LOWEST <= priority <= HIGHEST:
        raise BadRequest(f"a priority is between {LOWEST} and {HIGHEST}")
    await cluster.tasks.change(entry, f"priority set to {priority} by an operator", priority=priority)
    cluster.dispatcher.look_soon()
    return Done(text=f"{entry.task.uuid} has priority {priority}")


def filter_of(states: Iterable[str], *, owner: str = "", text: str = "") -> TaskFilter:
    """A filter from words: phases and outcomes. Raises BadRequest."""
    phases: list[Phase] = []
    outcome: Outcome | None = None
    for state in states:
        if state in _OUTCOMES:
            outcome = Outcome(state)
        elif state in _PHASES:
            phases.append(Phase(state))
        else:
            raise BadRequest(f"unknown state {state[:50]!r}; there are {', '.join(STATES)}")
    return TaskFilter(phases=phases, outcome=outcome, owner=owner, text=text[:200])
