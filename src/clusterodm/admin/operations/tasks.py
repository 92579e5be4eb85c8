# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations on tasks."""

from __future__ import annotations

import asyncio
import zipfile
from typing import Final

import msgspec

from clusterodm.admin.estimates import Guesses
from clusterodm.admin.operations.parameters import HIGHEST, LOWEST, MAX_PAGE, OUTCOMES, PHASES, STATES
from clusterodm.admin.plane import OperatorPlane
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
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.durations import span
from clusterodm.core.errors import BadRequest, FilesLost, TaskNotFound
from clusterodm.core.names import is_image
from clusterodm.core.options import added_options
from clusterodm.core.retry import Failure, awaits_restart
from clusterodm.core.tasks import ON_NODE, Attempt, Outcome, Phase, Stage, Task, has_results, shown_code
from clusterodm.nodeodm import Transfer
from clusterodm.store import TaskFilter

#: Files that are listed of a task.
_MAX_FILES: Final = 1000
_OPERATOR: Final = "an operator"


def entry_view(entry: Entry, guesses: Guesses) -> TaskView:
    """Return the summary of a task."""
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


async def find(cluster: OperatorPlane, uuid: str) -> Entry:
    """Return the task with this id or unique prefix of it, of any owner, unless it was removed. Raises TaskNotFound."""
    prefix = uuid.strip().lower()
    entry = await cluster.tasks.find(prefix)
    if entry is None and 4 <= len(prefix) < 36:
        candidates = await cluster.store.find_tasks(TaskFilter(text=prefix), limit=3)
        matches = [task for task in candidates if task.uuid.startswith(prefix)]
        if len(matches) > 1:
            raise BadRequest(f"several tasks begin with {prefix}")
        entry = await cluster.tasks.find(matches[0].uuid) if matches else None
    if entry is None or entry.task.phase is Phase.REMOVED:
        raise TaskNotFound(f"{uuid[:100]} not found")
    return entry


async def page(
    cluster: OperatorPlane, *, state: str = "", owner: str = "", text: str = "", limit: int = 50, offset: int = 0
) -> TaskPage:
    """Return a page of the tasks that match a filter, and their total number. Raises BadRequest."""
    matching = _filter(state, owner=owner, text=text)
    entries = await latest(cluster, matching, limit=limit, offset=offset)
    guesses = await Guesses.now(cluster)
    views = [entry_view(entry, guesses) for entry in entries]
    return TaskPage(tasks=views, total=await cluster.store.count_tasks(matching))


def _filter(states: str, *, owner: str, text: str) -> TaskFilter:
    phases: list[Phase] = []
    outcome: Outcome | None = None
    for state in filter(None, states.split(",")):
        if state in OUTCOMES:
            outcome = Outcome(state)
        elif state in PHASES:
            phases.append(Phase(state))
        else:
            raise BadRequest(f"unknown state {state[:50]!r}; known are {', '.join(STATES)}")
    return TaskFilter(phases=phases, outcome=outcome, owner=owner, text=text[:200])


async def latest(cluster: OperatorPlane, matching: TaskFilter, *, limit: int, offset: int = 0) -> list[Entry]:
    """Return tasks, latest commit first. Memory is newer than the store and wins."""
    stored = await cluster.store.find_tasks(matching, limit=min(limit, MAX_PAGE), offset=offset)
    attempts = await cluster.store.last_attempts(task.uuid for task in stored)
    return [cluster.tasks.get(task.uuid) or Entry(task, attempts.get(task.uuid)) for task in stored]


async def queue(cluster: OperatorPlane) -> list[TaskView]:
    """List queued tasks, next first."""
    guesses = await Guesses.now(cluster)
    waiting = (cluster.tasks.get(turn.task.uuid) for turn in guesses.turns)
    return [entry_view(entry, guesses) for entry in waiting if entry is not None]


async def active(cluster: OperatorPlane) -> list[TaskView]:
    """List unfinished tasks that are not queued: those on nodes first, then those that receive files."""
    guesses = await Guesses.now(cluster)
    entries = [entry for entry in cluster.tasks.active() if entry.task.phase is not Phase.QUEUED]
    entries.sort(key=lambda entry: (entry.task.phase is Phase.RECEIVING, -entry.task.committed_at, entry.task.uuid))
    return [entry_view(entry, guesses) for entry in entries]


async def show(cluster: OperatorPlane, entry: Entry) -> TaskDetail:
    """Show everything known about a task."""
    task, uuid = entry.task, entry.task.uuid
    guesses = await Guesses.now(cluster)
    held = await cluster.spool.listing(uuid)
    archive = cluster.results.archive(uuid)
    shown = entry_view(entry, guesses)
    if task.phase is Phase.RECEIVING:  # counted at the commit
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


async def timeline(cluster: OperatorPlane, entry: Entry) -> list[EventView]:
    """Return the timeline of a task, oldest event first."""
    return [EventView(at=event.at, text=event.text) for event in await cluster.store.timeline(entry.task.uuid)]


async def output(cluster: OperatorPlane, entry: Entry, line: int = 0) -> list[str]:
    """Return console lines from number `line`; negative: counted from the end."""
    return msgspec.json.decode(await cluster.consoles.read(entry.task.uuid, line), type=list[str])


async def why(cluster: OperatorPlane, entry: Entry) -> Why:
    """Explain the state of a task."""
    guesses = await Guesses.now(cluster)
    return Why(uuid=entry.task.uuid, phase=entry.task.phase, why=_why(cluster, entry, guesses))


def _why(cluster: OperatorPlane, entry: Entry, guesses: Guesses) -> str:
    task, node = entry.task, entry.attempt.node_name if entry.attempt else "a node"
    is_prefetching = entry.attempt is not None and entry.attempt.stage is Stage.PREFETCHING
    prefetch = f"; its files are prefetched to {node}" if is_prefetching else ""
    match task.phase:
        case Phase.RECEIVING:
            return f"not committed by its client yet{prefetch}"
        case Phase.QUEUED:
            position, expected = guesses.of(task.uuid)
            estimate = f", about {span(expected)} left" if expected else ""
            place = f"position {position} of {len(guesses.turns)}{estimate}"
            turn = f"; {guesses.turns[position - 1].why}" if position else ""
            return f"waiting: {entry.wait or 'not scheduled yet'} ({place}{turn}){prefetch}"
        case Phase.DISPATCHING:
            transfer = cluster.dispatcher.sending.get(task.uuid)
            return f"being sent to {node}, {_arrived(task, transfer)}"
        case Phase.RUNNING:
            return _why_running(cluster, entry, node)
        case Phase.COLLECTING:
            return f"done on {node}; its results are being checked or fetched"
    return _why_over(task, node)


def _arrived(task: Task, transfer: Transfer | None) -> str:
    """Return how much of a task's files the node has confirmed, and how much is under way."""
    if transfer is None:
        return f"none of its {task.file_count} files have arrived yet"
    share = 100 * transfer.arrived_bytes // max(1, task.byte_count)
    under_way = f", {transfer.under_way / 1e6:.1f} MB under way" if transfer.under_way else ""
    return f"{share} % of its files have arrived{under_way}"


def _why_running(cluster: OperatorPlane, entry: Entry, node: str) -> str:
    if entry.unreachable_since:
        silent = cluster.clock.steady() - entry.unreachable_since
        remaining = cluster.settings.node_lost_after - silent
        when = f"in {span(remaining)}" if remaining > 0 else "now"
        return (
            f"{node} has not answered for {span(silent)}; {when} it counts as lost, and the task is retried elsewhere"
        )
    if entry.attempt is not None and awaits_restart(entry.task, entry.attempt):
        again = span(max(0.0, entry.task.not_before - cluster.clock()))
        return f"done on {node}, but {entry.attempt.reason}, in {again}"
    state = "queued on" if entry.task.node_code == 10 else "running on"
    return f"{state} {node}, {entry.task.progress:.0f} % done"


def _why_over(task: Task, node: str) -> str:
    if task.outcome is Outcome.FAILED:
        return f"failed on {node}: {task.error}"
    return "canceled" if task.outcome is Outcome.CANCELED else f"completed on {node}"


async def cancel(cluster: OperatorPlane, entry: Entry) -> Done:
    """Cancel a task in any phase; a finished one does not change, an upload is removed."""
    await cluster.control.cancel(entry, by=_OPERATOR)
    return Done(text=f"{entry.task.uuid} is {entry.task.outcome or entry.task.phase}")


async def remove(cluster: OperatorPlane, entry: Entry) -> Done:
    """Remove a task with its files, here and on its node."""
    await cluster.control.remove(entry, by=_OPERATOR)
    return Done(text=f"{entry.task.uuid} removed")


async def retry(cluster: OperatorPlane, entry: Entry) -> Done:
    """Restart a finished task; move one that is on a node to another node. Raises BadRequest."""
    if entry.task.phase is Phase.FINISHED:
        await cluster.control.restart(entry, None)
        return Done(text=f"{entry.task.uuid} restarted")
    if entry.task.phase not in ON_NODE or entry.attempt is None:
        raise BadRequest(f"a task in phase {entry.task.phase} cannot be retried")
    try:
        await cluster.holdings.whole(entry.task)
    except FilesLost as lost:
        raise BadRequest(f"{lost}, so it cannot be moved") from None
    await cluster.attempts.failed(entry, Failure.MOVED)
    return Done(text=f"{entry.task.uuid} moves to another node")


async def prioritize(cluster: OperatorPlane, entry: Entry, priority: int) -> Done:
    """Set the priority of a task; higher goes first, the default is 0. Raises BadRequest."""
    if not LOWEST <= priority <= HIGHEST:
        raise BadRequest(f"the priority must be between {LOWEST} and {HIGHEST}")
    await cluster.tasks.change(entry, f"priority set to {priority} by an operator", priority=priority)
    cluster.dispatcher.look_soon()
    return Done(text=f"{entry.task.uuid} has priority {priority}")
