# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations in the shell: words become parameters, results become lines. Words and shapes are those of the original,
which scripts parse."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from clusterodm.admin.operations import machines, nodes, tasks, uploads
from clusterodm.admin.operations.operation import Operation, Verb
from clusterodm.admin.operations.parameters import AnyMachineId, MachineId, NewNode, NodeId, TaskId, UploadId
from clusterodm.admin.operations.table import VERBS
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import Done, MachineDetail, MachinePlan, MachineView, NodeView, TaskView, UploadPage
from clusterodm.core.errors import BadRequest, NodeNotFound, TaskNotFound
from clusterodm.http import answers

#: Uploads that a list has unless a count is given.
_COUNT: Final = 20
#: Console lines in one answer; the next ones are asked for by their number.
MAX_OUTPUT: Final = 10_000
OTHERS: Final = (("HELP", "Show this list"), ("!!", "Repeat the last command"), ("QUIT", "Close the session"))


class Invalid(BadRequest):
    """Wrong parameters of a command."""


async def carry_out(cluster: OperatorPlane, operation: Operation, words: list[str]) -> str | list[str]:
    """Carry out a command; return its answer. Raises ClusterError for what has no answer of its own."""
    verb = operation.verb or Verb("")
    try:
        subject, parameters = await _arguments(cluster, operation, verb, words)
        result = await operation.run(cluster, *subject, **parameters)
    except Invalid as error:
        return f"INVALID: {error}"
    except (NodeNotFound, TaskNotFound) as error:
        return f"{verb.unknown}: {error}"
    except BadRequest as error:
        return verb.failure.format(answers.text(error))
    return _ANSWERS.get(verb.words, _answer)(result)


# Parameters


async def _arguments(
    cluster: OperatorPlane, operation: Operation, verb: Verb, words: list[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the subject, if the operation has one, and its parameters."""
    if operation.parameters is NewNode:
        return [], _new_node(verb, words)
    required, limit = verb.usage.count("<"), len(re.findall("[<[]", verb.usage))
    if verb.usage and not required <= len(words) <= limit:
        raise _usage(verb)
    words = words[:limit]
    find = _SUBJECTS.get(operation.subject)
    subject = [find(cluster, words.pop(0))] if find else []
    subject = [await each if inspect.isawaitable(each) else each for each in subject]
    names = operation.parameters.__struct_fields__
    parameters = {name: _number(word) for name, word in zip(names, words, strict=False)}
    return subject, {"limit": _COUNT} | parameters if "limit" in names else parameters


def _usage(verb: Verb) -> Invalid:
    return Invalid(f"usage: {verb.words} {verb.usage}")


def _new_node(verb: Verb, words: list[str]) -> dict[str, Any]:
    """Read `host port [token]`, or `url [token]`."""
    host, *rest = words or [""]
    is_url = ":" in host and not (rest and rest[0].isdecimal())
    if not is_url and not rest:
        raise _usage(verb)
    port = 0 if is_url else _number(rest.pop(0))
    if len(rest) > 1:
        raise _usage(verb)
    return {"host": host, "port": port, "token": rest[0] if rest else ""}


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise Invalid(f"{word[:50]!r} is not a number") from None


#: How a word names the subject of an operation.
_SUBJECTS: Final[dict[type[Any], Callable[[OperatorPlane, str], Any]]] = {
    NodeId: lambda cluster, word: nodes.by_number(cluster, _number(word)),
    TaskId: tasks.find,
    MachineId: machines.find,
    AnyMachineId: lambda cluster, word: word,
    UploadId: lambda cluster, word: word,
}


# Answers


def _ok(result: Any) -> str:
    return "OK"


def _success(result: Done) -> str:
    return _pretty({"success": True})


def _lines(lines: Iterable[str]) -> list[str]:
    """End a list with an empty line, as the original does."""
    return [*lines, ""]


def _answer(result: Any) -> str:
    """Answer with what has happened, or all of the result."""
    return f"OK, {result.text}" if isinstance(result, Done) else _pretty(result)


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _removed(done: Done) -> list[str]:
    return ["OK"] if ";" not in done.text else [done.text, "OK"]


def _drained(node: NodeView) -> str:
    return "OK, it can be switched off" if node.drained else f"OK, {len(node.tasks)} tasks are still running there"


def _queue(queue: list[TaskView]) -> list[str]:
    lines = [
        f"{each.position}) {each.uuid} {each.images} images, priority {each.priority}: {each.wait}" for each in queue
    ]
    return _lines(lines or ["no queued tasks"])


def _uploads(page: UploadPage) -> list[str]:
    return _lines([*map(uploads.line, page.uploads), f"{len(page.uploads)} of {page.total}"])


def _machines(views: list[MachineView]) -> list[str]:
    return _lines([*map(machines.line, views)] or ["no machines"])


def _machine(detail: MachineDetail) -> list[str]:
    history = (f"{_time(event.at)}  {event.state}: {event.text}" for event in detail.history)
    return _lines([machines.line(detail.machine), *history])


def _plan(plan: MachinePlan) -> list[str]:
    return [plan.why, *plan.document.splitlines()]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


#: Answers that are not made from the type of the result.
_ANSWERS: Final[dict[str, Callable[[Any], str | list[str]]]] = {
    "NODE ADD": _ok,
    "NODE DEL": _removed,
    "NODE LIST": lambda views: _lines(map(nodes.line, views)),
    "NODE LOCK": _ok,
    "NODE UNLOCK": _ok,
    "NODE DRAIN": _drained,
    "NODE UPDATE": _ok,
    "NODE BEST": nodes.line,
    "ROUTE LIST": lambda routes: _lines([_pretty(routes)]),
    "TASK LIST": lambda listed: _lines([_pretty(listed)]),
    "TASK OUTPUT": lambda lines: lines[:MAX_OUTPUT] or [""],
    "TASK CANCEL": _success,
    "TASK REMOVE": _success,
    "TASK WHY": lambda result: result.why,
    "TASK TIMELINE": lambda events: _lines(f"{_time(event.at)}  {event.text}" for event in events),
    "TASK PRIORITY": _ok,
    "QUEUE LIST": _queue,
    "UPLOAD LIST": _uploads,
    "MACHINE LIST": _machines,
    "MACHINE SHOW": _machine,
    "MACHINE KEEP": _ok,
    "MACHINE RELEASE": _ok,
    "ASR VIEWCMD": _plan,
}


def help_rows() -> list[tuple[str, str]]:
    """Return each command with what it does."""
    rows = [
        (f"{verb.words} {verb.usage}".strip(), verb.meaning or operation.summary.rstrip("."))
        for operation in VERBS.values()
        if (verb := operation.verb) is not None
    ]
    return [*rows, *OTHERS]


def help_lines() -> list[str]:
    """Return one line for each command."""
    return [command.ljust(34) + meaning for command, meaning in help_rows()]
