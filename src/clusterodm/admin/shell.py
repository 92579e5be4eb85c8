# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin shell: lines over TCP, for telnet and nc, in the words of the original."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from clusterodm import __version__
from clusterodm.admin import machines, nodes, tasks, uploads
from clusterodm.admin.guard import same
from clusterodm.admin.lines import Lines
from clusterodm.admin.logins import Logins
from clusterodm.admin.views import TaskView
from clusterodm.cluster.context import Context
from clusterodm.core import answers
from clusterodm.core.errors import BadRequest, ClusterError
from clusterodm.core.machines import Machine
from clusterodm.core.names import printable
from clusterodm.store import TaskFilter

_log = structlog.get_logger("shell")

_MAX_SESSIONS: Final = 50
#: Seconds in which a session must log in: those that only sit there take the place of operators.
_LOGIN_TIME: Final = 60.0
_LINES: Final = 20
_ADDED: Final = "NODE ADD <host> <port> [token], or NODE ADD <url> [token]"


class Command(msgspec.Struct, frozen=True):
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


def _node(cluster: Context, words: list[str]) -> Any:
    if len(words) != 1:
        raise Invalid("one node number is needed; NODE LIST shows them")
    return nodes.by_number(cluster, _number(words[0], "a node"))


async def _task(cluster: Context, words: list[str], *, more: int = 0) -> Any:
    if not 1 <= len(words) <= 1 + more:
        raise Invalid("one task id is needed; its beginning is enough")
    return await tasks.find(cluster, words[0])


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
    return _pretty(nodes.view(cluster, _node(cluster, words)))


async def node_list(cluster: Context, words: list[str]) -> list[str]:
    return [nodes.line(view) for view in nodes.listing(cluster)]


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
    return nodes.line(nodes.best_for(cluster, _number(words[0], "the count of images")))


# Tasks


async def route_info(cluster: Context, words: list[str]) -> str:
    entry = await _task(cluster, words)
    attempt = entry.attempt
    if attempt is None:
        raise BadRequest("the task has no node yet")
    node = cluster.registry.get(attempt.node_id)
    name = str(node.address) if node else attempt.node_name
    return _pretty({"node": name, "nodeUuid": attempt.node_uuid, "attempt": attempt.number})


async def route_list(cluster: Context, words: list[str]) -> list[str]:
    page = await tasks.page(cluster, TaskFilter(), limit=_count(words))
    return [f"{task.uuid} --> {task.node}" for task in page.tasks if task.node]


async def task_list(cluster: Context, words: list[str]) -> list[str]:
    page = await tasks.page(cluster, TaskFilter(), limit=_count(words))
    return [_task_line(task) for task in page.tasks] + [f"{len(page.tasks)} of {page.total}"]


def _count(words: list[str]) -> int:
    if len(words) > 1:
        raise Invalid("at most one count is taken")
    return max(1, min(tasks.MAX_PAGE, _number(words[0], "a count"))) if words else _LINES


def _task_line(task: TaskView) -> str:
    state = str(task.outcome or task.phase)
    where = f" on {task.node}" if task.node else ""
    place = f" (position {task.position})" if task.position else ""
    return f"{task.uuid} [{state}]{place} {task.progress:.0f}% {task.images} images{where} {task.name[:60]!r}"


async def task_info(cluster: Context, words: list[str]) -> str:
    return _pretty((await tasks.show(cluster, await _task(cluster, words))).task)


async def task_output(cluster: Context, words: list[str]) -> list[str]:
    entry = await _task(cluster, words, more=1)
    count = _number(words[1], "a count of lines") if len(words) > 1 else _LINES
    return await tasks.output(cluster, entry, -max(1, min(count, 10_000)))


async def task_cancel(cluster: Context, words: list[str]) -> str:
    await tasks.cancel(cluster, await _task(cluster, words))
    return "OK"


async def task_remove(cluster: Context, words: list[str]) -> str:
    await tasks.remove(cluster, await _task(cluster, words))
    return "OK"


async def task_retry(cluster: Context, words: list[str]) -> str:
    done = await tasks.retry(cluster, await _task(cluster, words))
    return f"OK, {done.text}"


async def task_why(cluster: Context, words: list[str]) -> str:
    return (await tasks.why(cluster, await _task(cluster, words))).why


async def task_timeline(cluster: Context, words: list[str]) -> list[str]:
    events = await tasks.timeline(cluster, await _task(cluster, words))
    return [f"{_clock(event.at)}  {event.text}" for event in events]


async def task_priority(cluster: Context, words: list[str]) -> str:
    if len(words) != 2:
        raise Invalid("TASK PRIORITY <task> <n>")
    await tasks.prioritize(cluster, await tasks.find(cluster, words[0]), _number(words[1], "a priority"))
    return "OK"


async def queue_list(cluster: Context, words: list[str]) -> list[str]:
    lines = [
        f"{task.position}) {task.uuid} {task.images} images, priority {task.priority}: {task.wait}"
        for task in await tasks.queue(cluster)
    ]
    return lines or ["nothing waits"]


async def upload_list(cluster: Context, words: list[str]) -> list[str]:
    page = uploads.page(cluster, limit=_count(words))
    return [uploads.line(upload) for upload in page.uploads] + [f"{len(page.uploads)} of {page.total}"]


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
    return [machines.line(machine) for machine in machines.listing(cluster)] or ["there is no machine"]


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


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


COMMANDS: Final[dict[str, Command]] = {
    "NODE ADD": Command("<host> <port> [token]", "Take a node in; a URL may stand for host and port", node_add),
    "NODE DEL": Command("<number>", "Take a node out; its tasks finish there", node_del),
    "NODE INFO": Command("<number>", "All that is known of a node", node_info),
    "NODE LIST": Command("", "All nodes", node_list),
    "NODE LOCK": Command("<number>", "Give a node nothing new", node_lock),
    "NODE UNLOCK": Command("<number>", "Give a node work again", node_unlock),
    "NODE DRAIN": Command("<number>", "Empty a node, so that it can be switched off", node_drain),
    "NODE UPDATE": Command("", "Ask all nodes at once", node_update),
    "NODE BEST": Command("<images>", "The node that a task of so many images would go to", node_best),
    "ROUTE INFO": Command("<task>", "The node that has a task", route_info),
    "ROUTE LIST": Command("[count]", "Tasks and their nodes", route_list),
    "TASK LIST": Command("[count]", "Tasks, latest first", task_list),
    "TASK INFO": Command("<task>", "All that is known of a task", task_info),
    "TASK OUTPUT": Command("<task> [lines]", "The end of a task's console", task_output),
    "TASK CANCEL": Command("<task>", "Cancel a task", task_cancel),
    "TASK REMOVE": Command("<task>", "Remove a task with its files", task_remove),
    "TASK RETRY": Command("<task>", "Begin a task again, or give it to another node", task_retry),
    "TASK WHY": Command("<task>", "Why a task is as it is", task_why),
    "TASK TIMELINE": Command("<task>", "What happened to a task", task_timeline),
    "TASK PRIORITY": Command("<task> <n>", "Higher goes first; 0 is usual", task_priority),
    "QUEUE LIST": Command("", "Tasks that wait, next first, and why", queue_list),
    "UPLOAD LIST": Command("[count]", "Uploads that are not committed, longest idle first", upload_list),
    "UPLOAD DROP": Command("<upload>", "Drop an upload with its files", upload_drop),
    "MACHINE LIST": Command("", "Machines that were created on demand", machine_list),
    "MACHINE KEEP": Command("<machine>", "Have a machine stay though it has nothing to do", machine_keep),
    "MACHINE RELEASE": Command("<machine>", "Let a machine go again when it has nothing to do", machine_release),
    "MACHINE DELETE": Command("<machine>", "Delete a machine now; its tasks go elsewhere", machine_delete),
    "ASR VIEWCMD": Command("<images>", "How a machine for so many images would be made", asr_viewcmd),
}
OTHERS: Final = (("HELP", "This list"), ("!!", "The last command again"), ("QUIT", "Close the session"))


def help_lines() -> list[str]:
    """One line for each command."""
    rows = [(f"{name} {command.parameters}", command.meaning) for name, command in COMMANDS.items()]
    return [name.ljust(34) + meaning for name, meaning in [*rows, *OTHERS]]


class Shell:
    """Serves sessions."""

    def __init__(self, cluster: Context) -> None:
        self._cluster = cluster
        self._password = cluster.settings.admin_pass.get_secret_value()
        self._sessions = 0
        self._logins = Logins()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One session, to its end. An error of it ends it alone."""
        if self._sessions >= _MAX_SESSIONS:
            writer.close()
            return
        self._sessions += 1
        try:
            await self._session(Lines(reader), writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._sessions -= 1
            writer.close()

    async def _session(self, lines: Lines, writer: asyncio.StreamWriter) -> None:
        await _say(writer, [f"ClusterODM {__version__}", "HELP for help, QUIT to leave", ""])
        if self._password:
            async with asyncio.timeout(_LOGIN_TIME):
                if not await self._login(lines, writer):
                    return
        last = ""
        while True:
            writer.write(b"#> ")
            await writer.drain()
            line = await lines.next()
            if line is None or line.upper() in ("QUIT", "EXIT"):
                return
            line = last if line == "!!" else line
            last = line
            await _say(writer, await self.answer(line))

    async def _login(self, lines: Lines, writer: asyncio.StreamWriter) -> bool:
        while True:
            writer.write(b"$> ")
            await writer.drain()
            line = await lines.next()
            if line is None or line.upper() == "QUIT":
                return False
            verb, _, password = line.partition(" ")
            if verb.upper() == "LOGIN":
                answer = await self._judge(password.strip(), writer.get_extra_info("peername"))
                await _say(writer, [answer])
                return answer == "OK"
            await _say(writer, ["LOGIN <password>" if verb.upper() == "HELP" else "INVALID: LOGIN <password> first"])

    async def _judge(self, password: str, peer: tuple[str, int] | None) -> str:
        """What a password is answered with."""
        address = peer[0] if peer else None
        seconds = self._logins.refused(address)
        if not seconds:
            if same(password, self._password):
                return "OK"
            _log.warning("wrong password", address=address)
            seconds = await self._logins.wrong(address)
        return f"FAIL: too many wrong passwords, try again in {seconds} s" if seconds else "FAIL"

    async def answer(self, line: str) -> list[str]:
        """What a line is answered with."""
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        if not words:
            return []
        if words[0].upper() == "HELP":
            return help_lines()
        name = " ".join(words[:2]).upper()
        if name not in COMMANDS:
            return [f"INVALID: {name[:60]} is not a command; HELP lists them"]
        said = await self._carry_out(name, words[2:])
        return [said] if isinstance(said, str) else said

    async def _carry_out(self, name: str, words: list[str]) -> str | list[str]:
        try:
            return await COMMANDS[name].run(self._cluster, words)
        except Invalid as error:
            return f"INVALID: {error}"
        except ClusterError as error:
            return f"FAIL: {answers.text(error)}"
        except Exception as error:  # noqa: BLE001 - one of the three edges: an admin command
            _log.error("a command failed", command=name, error=type(error).__name__, exc_info=error)
            return f"FAIL: {answers.BUG}"


async def _say(writer: asyncio.StreamWriter, lines: list[str]) -> None:
    for text in lines:
        for line in text.split("\n"):
            writer.write(printable(line).encode(errors="replace") + b"\r\n")
    await writer.drain()
