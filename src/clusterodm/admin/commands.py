# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands of the admin shell, one table: words, parameters, functions. Words and shapes are those of the original."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from clusterodm.admin import machines, nodes, original, tasks, uploads
from clusterodm.cluster.context import Context
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import BadRequest, NodeNotFound, TaskNotFound
from clusterodm.core.machines import Machine

_LINES: Final = 20
#: Console lines that are answered with at most; the next ones are asked for by their number.
MAX_OUTPUT: Final = 10_000
_ADDED: Final = "NODE ADD <host> <port> [token], or NODE ADD <url> [token]"


class ShellCommand(msgspec.Struct, frozen=True):
    """One row of the table: its parameters, what it does, and how."""

    parameters: str
    meaning: str
    run: Callable[[Context, list[str]], Awaitable[str | list[str]]]


class Invalid(BadRequest):
    """A command that there is not, or with the wrong parameters."""


def _number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Invalid(f"{what} is a number, not {text[:50]!r}") from None


def _node(cluster: Context, words: list[str]) -> Node:
    if len(words) != 1:
        raise Invalid("one node number is needed; NODE LIST shows them")
    return nodes.by_number(cluster, _number(words[0], "a node"))


def _shown_node(cluster: Context, words: list[str]) -> Node:
    """A node that is only looked at: there the original calls a number that is none's INVALID."""
    try:
        return _node(cluster, words)
    except NodeNotFound as error:
        raise Invalid(str(error)) from None


async def _task(cluster: Context, words: list[str], *, more: int = 0) -> Entry:
    if not 1 <= len(words) <= 1 + more:
        raise Invalid("one task id is needed; its beginning is enough")
    try:
        return await tasks.find(cluster, words[0])
    except TaskNotFound as error:
        raise Invalid(str(error)) from None


# Nodes


async def node_add(cluster: Context, words: list[str]) -> str:
    host, *rest = words or [""]
    whole = ":" in host and not (rest and rest[0].isdecimal())
    if not whole and not 1 <= len(rest) <= 2:
        raise Invalid(_ADDED)
    port = 0 if whole else _number(rest.pop(0), "a port")
    if len(rest) > 1:
        raise Invalid(_ADDED)
    await nodes.add(cluster, host, port, rest[0] if rest else "")
    return "OK"


async def node_del(cluster: Context, words: list[str]) -> list[str]:
    done = await nodes.remove(cluster, _node(cluster, words))
    return ["OK"] if ";" not in done.text else [done.text, "OK"]


async def node_info(cluster: Context, words: list[str]) -> str:
    return _pretty(original.node_info(cluster, _shown_node(cluster, words)))


async def node_list(cluster: Context, words: list[str]) -> list[str]:
    return _listed(nodes.line(view) for view in nodes.listing(cluster))


async def node_lock(cluster: Context, words: list[str]) -> str:
    await nodes.lock(cluster, _node(cluster, words))
    return "OK"


async def node_unlock(cluster: Context, words: list[str]) -> str:
    await nodes.unlock(cluster, _node(cluster, words))
    return "OK"


async def node_drain(cluster: Context, words: list[str]) -> str:
    view = await nodes.drain(cluster, _node(cluster, words))
    return "OK, it can be switched off" if view.drained else f"OK, {len(view.tasks)} tasks finish there first"


async def node_update(cluster: Context, words: list[str]) -> str:
    nodes.update(cluster)
    return "OK"


async def node_best(cluster: Context, words: list[str]) -> str:
    if len(words) != 1:
        raise Invalid("NODE BEST <images>")
    images = _number(words[0], "the count of images")
    try:
        return nodes.line(nodes.best_for(cluster, images))
    except BadRequest as error:
        return f"No best node available: {error}"


# Tasks


async def route_info(cluster: Context, words: list[str]) -> str:
    route = original.route(cluster, await _task(cluster, words))
    if route is None:
        raise Invalid("the task has no node yet")
    return _pretty(route)


async def route_list(cluster: Context, words: list[str]) -> list[str]:
    return _listed([_pretty(await original.routes(cluster, _node_or_all(cluster, words)))])


async def task_list(cluster: Context, words: list[str]) -> list[str]:
    return _listed([_pretty(await original.task_list(cluster, _node_or_all(cluster, words)))])


def _node_or_all(cluster: Context, words: list[str]) -> Node | None:
    return _shown_node(cluster, words) if words else None


async def task_info(cluster: Context, words: list[str]) -> str:
    return _pretty(await original.task_details(cluster, await _task(cluster, words)))


async def task_output(cluster: Context, words: list[str]) -> list[str]:
    entry = await _task(cluster, words, more=1)
    line = _number(words[1], "a line") if len(words) > 1 else 0
    return (await tasks.output(cluster, entry, line))[:MAX_OUTPUT] or [""]


async def task_cancel(cluster: Context, words: list[str]) -> str:
    await tasks.cancel(cluster, await _task(cluster, words))
    return _pretty({"success": True})


async def task_remove(cluster: Context, words: list[str]) -> str:
    await tasks.remove(cluster, await _task(cluster, words))
    return _pretty({"success": True})


async def task_retry(cluster: Context, words: list[str]) -> str:
    done = await tasks.retry(cluster, await _task(cluster, words))
    return f"OK, {done.text}"


async def task_why(cluster: Context, words: list[str]) -> str:
    return (await tasks.why(cluster, await _task(cluster, words))).why


async def task_timeline(cluster: Context, words: list[str]) -> list[str]:
    events = await tasks.timeline(cluster, await _task(cluster, words))
    return _listed(f"{_clock(event.at)}  {event.text}" for event in events)


async def task_priority(cluster: Context, words: list[str]) -> str:
    if len(words) != 2:
        raise Invalid("TASK PRIORITY <task> <n>")
    await tasks.prioritize(cluster, await _task(cluster, words[:1]), _number(words[1], "a priority"))
    return "OK"


async def queue_list(cluster: Context, words: list[str]) -> list[str]:
    lines = [
        f"{task.position}) {task.uuid} {task.images} images, priority {task.priority}: {task.wait}"
        for task in await tasks.queue(cluster)
    ]
    return _listed(lines or ["nothing waits"])


async def upload_list(cluster: Context, words: list[str]) -> list[str]:
    page = uploads.page(cluster, limit=_count(words))
    return _listed([*(uploads.line(upload) for upload in page.uploads), f"{len(page.uploads)} of {page.total}"])


def _count(words: list[str]) -> int:
    if len(words) > 1:
        raise Invalid("at most one count is taken")
    return max(1, min(uploads.MAX_PAGE, _number(words[0], "a count"))) if words else _LINES


async def upload_drop(cluster: Context, words: list[str]) -> str:
    if len(words) != 1:
        raise Invalid("one upload id is needed; its beginning is enough")
    return f"OK, {(await uploads.drop(cluster, words[0])).text}"


# Machines


async def asr_viewcmd(cluster: Context, words: list[str]) -> list[str]:
    if len(words) != 1:
        raise Invalid("ASR VIEWCMD <images>")
    plan = machines.plan_for(cluster, _number(words[0], "the count of images"))
    return [plan.why, *plan.document.splitlines()]


async def machine_list(cluster: Context, words: list[str]) -> list[str]:
    return _listed([machines.line(machine) for machine in machines.listing(cluster)] or ["there is no machine"])


async def machine_show(cluster: Context, words: list[str]) -> list[str]:
    if len(words) != 1:
        raise Invalid("a machine is named by its id, or the end of it")
    detail = await machines.show(cluster, words[0])
    history = (f"{_clock(event.at)}  {event.state}: {event.text}" for event in detail.history)
    return _listed([machines.line(detail.machine), *history])


async def machine_keep(cluster: Context, words: list[str]) -> str:
    await machines.keep(cluster, _machine(cluster, words))
    return "OK"


async def machine_release(cluster: Context, words: list[str]) -> str:
    await machines.release(cluster, _machine(cluster, words))
    return "OK"


async def machine_delete(cluster: Context, words: list[str]) -> str:
    return f"OK, {(await machines.delete(cluster, _machine(cluster, words))).text}"


def _machine(cluster: Context, words: list[str]) -> Machine:
    if len(words) != 1:
        raise Invalid("a machine is named by its id, or the end of it")
    return machines.find(cluster, words[0])


def _listed(lines: Iterable[str]) -> list[str]:
    """A list ends with an empty line, as in the original."""
    return [*lines, ""]


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


COMMANDS: Final[dict[str, ShellCommand]] = {
    "NODE ADD": ShellCommand("<host> <port> [token]", "Take a node in; a URL may stand for host and port", node_add),
    "NODE DEL": ShellCommand("<number>", "Take a node out; its tasks finish there", node_del),
    "NODE INFO": ShellCommand("<number>", "All that is known of a node", node_info),
    "NODE LIST": ShellCommand("", "All nodes", node_list),
    "NODE LOCK": ShellCommand("<number>", "Give a node nothing new", node_lock),
    "NODE UNLOCK": ShellCommand("<number>", "Give a node work again", node_unlock),
    "NODE DRAIN": ShellCommand("<number>", "Empty a node, so that it can be switched off", node_drain),
    "NODE UPDATE": ShellCommand("", "Ask all nodes at once", node_update),
    "NODE BEST": ShellCommand("<images>", "The node that a task of so many images would go to", node_best),
    "ROUTE INFO": ShellCommand("<task>", "The node that has a task", route_info),
    "ROUTE LIST": ShellCommand("[node number]", "Tasks and their nodes, or those of one node", route_list),
    "TASK LIST": ShellCommand("[node number]", "Tasks, latest first, or those of one node", task_list),
    "TASK INFO": ShellCommand("<task>", "All that is known of a task", task_info),
    "TASK OUTPUT": ShellCommand("<task> [line]", "A task's console from this line on; -20: the last 20", task_output),
    "TASK CANCEL": ShellCommand("<task>", "Cancel a task", task_cancel),
    "TASK REMOVE": ShellCommand("<task>", "Remove a task with its files", task_remove),
    "TASK RETRY": ShellCommand("<task>", "Begin a task again, or give it to another node", task_retry),
    "TASK WHY": ShellCommand("<task>", "Why a task is as it is", task_why),
    "TASK TIMELINE": ShellCommand("<task>", "What happened to a task", task_timeline),
    "TASK PRIORITY": ShellCommand("<task> <n>", "Higher goes first; 0 is usual", task_priority),
    "QUEUE LIST": ShellCommand("", "Tasks that wait, next first, and why", queue_list),
    "UPLOAD LIST": ShellCommand("[count]", "Uploads that are not committed, longest idle first", upload_list),
    "UPLOAD DROP": ShellCommand("<upload>", "Drop an upload with its files", upload_drop),
    "MACHINE LIST": ShellCommand("", "Machines that were created on demand", machine_list),
    "MACHINE SHOW": ShellCommand("<machine>", "A machine and its history, also one that is gone", machine_show),
    "MACHINE KEEP": ShellCommand("<machine>", "Have a machine stay though it has nothing to do", machine_keep),
    "MACHINE RELEASE": ShellCommand("<machine>", "Let a machine go again when it has nothing to do", machine_release),
    "MACHINE DELETE": ShellCommand("<machine>", "Delete a machine now; its tasks go elsewhere", machine_delete),
    "ASR VIEWCMD": ShellCommand("<images>", "How a machine for so many images would be made", asr_viewcmd),
}
OTHERS: Final = (("HELP", "This list"), ("!!", "The last command again"), ("QUIT", "Close the session"))


def help_lines() -> list[str]:
    """One line for each command."""
    rows = [(f"{name} {command.parameters}", command.meaning) for name, command in COMMANDS.items()]
    return [name.ljust(34) + meaning for name, meaning in [*rows, *OTHERS]]
