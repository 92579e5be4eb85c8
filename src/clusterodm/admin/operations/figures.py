# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of the cluster, its history and its settings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median
from typing import Any, Final

from pydantic import SecretStr

from clusterodm import __version__
from clusterodm.admin.estimates import Guesses
from clusterodm.admin.operations import uploads
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import Bar, Charts, ClusterStatus, History, Hour, NodeHistory, SettingView
from clusterodm.core.durations import elapsed, span
from clusterodm.core.options import split_cluster
from clusterodm.core.retry import awaits_restart
from clusterodm.core.tasks import BY_OWNER, COMPLETED, Outcome, Phase, Stage
from clusterodm.settings import Settings, flag_name
from clusterodm.store import EndedTask, PastAttempt

_MAX_BARS: Final = 5000
_MAX_ENDED: Final = 50_000
#: Problems of one kind that are listed.
_LISTED: Final = 3
_SPANS: Final = 24
_SPAN: Final = 3600.0


async def status(cluster: OperatorPlane, guesses: Guesses | None = None) -> ClusterStatus:
    """Return the state of the cluster; `guesses` saves making them again."""
    phases = Counter(entry.task.phase for entry in cluster.tasks.active())
    ended = await cluster.store.count_ended()
    nodes = cluster.registry.nodes()
    usable = [node for node in nodes if node.online and not node.closed]
    now = cluster.clock()
    since = [entry.task.committed_at for entry in cluster.tasks.active() if entry.task.phase is Phase.QUEUED]
    problems = _problems(cluster)
    guesses = guesses or await Guesses.now(cluster)
    return ClusterStatus(
        version=__version__,
        health="degraded" if problems else "busy" if phases[Phase.QUEUED] else "healthy",
        problems=problems,
        started_at=cluster.started_at,
        nodes=len(nodes),
        nodes_online=sum(node.online for node in nodes),
        nodes_closed=sum(bool(node.closed) for node in nodes),
        slots=sum(node.slots for node in usable),
        slots_used=sum(min(node.slots, node.info.task_queue_count + len(node.reserved)) for node in usable),
        providers=len(cluster.autoscaler.fleet.providers),
        replicas=[each.name for each in cluster.replicas.members],
        leader=cluster.replicas.leader,
        machines=len(cluster.machines.alive()),
        month_cost=cluster.autoscaler.spent_this_month,
        receiving=phases[Phase.RECEIVING] + len(cluster.uploads.arrivals()),
        receiving_bytes=uploads.held_bytes(cluster),
        queued=phases[Phase.QUEUED],
        dispatching=phases[Phase.DISPATCHING],
        running=phases[Phase.RUNNING],
        collecting=phases[Phase.COLLECTING],
        completed=ended.get("completed", 0),
        failed=ended.get("failed", 0),
        canceled=ended.get("canceled", 0),
        longest_wait=max((elapsed(at, now) for at in since), default=0.0),
        expected_wait=guesses.next_one,
        held_bytes=cluster.spool.room.held,
        room_bytes=max(0, cluster.spool.room.free_bytes()),
        trash_bytes=cluster.strays.files.trash.size,
    )


def _problems(cluster: OperatorPlane) -> list[str]:
    """Return what an operator should look at, a sentence each."""
    nodes = cluster.registry.nodes()
    problems: list[str] = []
    if not nodes:
        problems += [] if cluster.autoscaler.fleet.providers else ["no node is configured"]
    elif not any(node.online for node in nodes) and not cluster.machines.alive():
        problems.append("no node is online")
    else:
        offline = [str(node.address) for node in nodes if not node.online]
        problems += [f"{name} is offline" for name in offline[:3]]
        problems += [f"{len(offline) - 3} more nodes are offline"] if len(offline) > 3 else []
    problems += _ill(cluster)
    problems += cluster.dispatcher.waits.problems()
    problems += [] if cluster.replicas.leader else ["no replica is the leader at the moment"]
    problems += [f"provider {name}: {why}" for name, why in cluster.autoscaler.troubles.items()]
    problems += [
        provider.pause.text for provider in cluster.autoscaler.fleet.providers.values() if provider.pause.remaining
    ]
    unknown = {machine.provider for machine in cluster.machines.alive()} - set(cluster.autoscaler.fleet.providers)
    problems += [f"there are machines of provider {name}, which is no longer configured" for name in sorted(unknown)]
    if orphans := cluster.reaper.orphans:
        problems.append(f"{len(orphans)} machines carry this cluster's tag but are unknown to it; they will be deleted")
    problems += _silent(cluster)
    if undelivered := sum(awaits_restart(entry.task, entry.attempt) for entry in cluster.tasks.active()):
        waiting = "a finished task waits" if undelivered == 1 else f"{undelivered} finished tasks wait"
        problems.append(f"{waiting} until the node can deliver the results; the timeline says why it cannot")
    problems += _unreachable_addresses(cluster)
    if cluster.submodels.stuck:
        problems.append(
            "split-merge jobs hold all slots: their submodels cannot run until there is another node or slot"
        )
    problems += _set_aside(cluster)
    problems += [cluster.strays.problem()] if cluster.strays.problem() else []
    if cluster.spool.room.is_low():
        problems.append("little room is left for uploads")
    return problems


def _set_aside(cluster: OperatorPlane) -> list[str]:
    """Return rows of the database that cannot be read."""
    aside = cluster.store.aside
    tasks = [f"task {uuid} is set aside, its record cannot be read: {task.why}" for uuid, task in aside.tasks.items()]
    rows = [f"row {key} of {table} cannot be read: {why}" for (table, key), why in aside.others.items()]
    more = len(tasks) + len(rows) - _LISTED
    return [*tasks, *rows][:_LISTED] + ([f"{more} more rows cannot be read: clusterodm doctor"] if more > 0 else [])


def _ill(cluster: OperatorPlane) -> list[str]:
    """Return nodes that are set aside because tasks fail there, with their error messages."""
    now, lines = cluster.clock(), []
    for node_id, health in cluster.registry.health.ill().items():
        if (node := cluster.registry.get(node_id)) is not None and not node.record.removed:
            remaining = health.until - now
            status = (
                f"is set aside for another {span(remaining)}"
                if remaining > 0
                else "was set aside and is being tried again"
            )
            lines.append(f"{node.address} {status}, tasks fail there: {health.words}")
    more = len(lines) - _LISTED
    return lines[:_LISTED] + ([f"{more} more nodes are set aside, tasks fail there"] if more > 0 else [])


def _silent(cluster: OperatorPlane) -> list[str]:
    """Name the nodes with running tasks that do not answer, those with most tasks first."""
    nodes = Counter(
        entry.attempt.node_name for entry in cluster.tasks.active() if entry.unreachable_since and entry.attempt
    )
    lines = [f"{name} does not answer; running tasks on it: {count}" for name, count in nodes.most_common(_LISTED)]
    rest = len(nodes) - len(lines)
    return [*lines, *([f"{rest} more nodes with running tasks do not answer"] if rest else [])]


def _unreachable_addresses(cluster: OperatorPlane) -> list[str]:
    """Return why split-merge jobs cannot send their submodels to the cluster, once for each address."""
    active = [entry.task for entry in cluster.tasks.active() if entry.task.phase is not Phase.RECEIVING]
    addresses = {split_cluster(task.options) for task in active} | {cluster.settings.public_address}
    return [trouble for each in sorted(addresses - {""}) if (trouble := cluster.callbacks.address_trouble(each))]


async def history(cluster: OperatorPlane, *, hours: float) -> History:
    """Return the attempts on all nodes in the last hours."""
    until = cluster.clock()
    since = until - hours * 3600
    past = await cluster.store.attempts_since(since, limit=_MAX_BARS)
    lanes: defaultdict[str, list[Bar]] = defaultdict(list)
    for attempt in past:
        lanes[attempt.node_name].append(_bar(attempt))
    for node in cluster.registry.nodes():
        lanes[str(node.address)] = lanes[str(node.address)]
    histories = [NodeHistory(node=name, bars=lanes[name][::-1]) for name in sorted(lanes)]
    return History(since=since, until=until, complete=len(past) < _MAX_BARS, lanes=histories)


def _bar(past: PastAttempt) -> Bar:
    ended_at = past.ended_at or past.finished_at
    if past.stage != Stage.ENDED:
        state = str(past.outcome) if past.phase is Phase.FINISHED else "running"
    elif past.reason in (COMPLETED, BY_OWNER):
        state = "completed" if past.reason == COMPLETED else "canceled"
    else:
        state = "failed" if past.outcome is Outcome.FAILED and past.number == past.attempts else "lost"
    return Bar(
        task=past.task,
        name=past.name,
        attempt=past.number,
        images=past.image_count,
        started_at=past.started_at,
        ended_at=ended_at and max(ended_at, past.started_at),
        state=state,
        reason=past.reason,
    )


async def charts(cluster: OperatorPlane) -> Charts:
    """Return hourly figures of the last 24 hours; the last one is the current hour."""
    now = cluster.clock()
    first = now - now % _SPAN - (_SPANS - 1) * _SPAN
    ended: defaultdict[int, list[EndedTask]] = defaultdict(list)
    for task in await cluster.store.ended_tasks(first, limit=_MAX_ENDED):
        ended[int((task.finished_at - first) // _SPAN)].append(task)
    return Charts(seconds=_SPAN, hours=[_hour(first + place * _SPAN, ended[place]) for place in range(_SPANS)])


def _hour(at: float, tasks: Iterable[EndedTask]) -> Hour:
    tasks = list(tasks)
    outcomes = Counter(task.outcome for task in tasks)
    waited = [elapsed(task.committed_at, task.first_started) for task in tasks if task.first_started]
    return Hour(
        at=at,
        completed=outcomes[Outcome.COMPLETED],
        failed=outcomes[Outcome.FAILED],
        canceled=outcomes[Outcome.CANCELED],
        images=sum(task.image_count for task in tasks if task.outcome is Outcome.COMPLETED),
        wait=median(waited) if waited else None,
    )


def settings(cluster: OperatorPlane) -> list[SettingView]:
    """List all settings; secrets are masked."""
    return [
        SettingView(
            name=flag_name(name),
            value=_shown(getattr(cluster.settings, name)),
            default=_shown(field.get_default(call_default_factory=True)),
            description=field.description or "",
            secret=isinstance(getattr(cluster.settings, name), SecretStr),
        )
        for name, field in Settings.model_fields.items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, list):
        return ", ".join(map(_without_token, value))
    return _without_token(str(value)) if not isinstance(value, bool) else str(value).lower()


def _without_token(text: str) -> str:
    """A node's address may carry its token."""
    address, mark, _ = text.partition("token=")
    return f"{address}{mark}***" if mark else text
