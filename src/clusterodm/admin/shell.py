# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin shell: lines over TCP, for telnet and nc, in the words of the original."""

from __future__ import annotations

import asyncio
import shlex
from typing import Final

import structlog

from clusterodm import __version__
from clusterodm.admin.guard import same
from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.table import VERBS
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.text import LineReader
from clusterodm.admin.verbs import carry_out, help_lines
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError
from clusterodm.core.names import printable
from clusterodm.http import answers
from clusterodm.http.logins import Logins, TooManyGuesses

_log = structlog.get_logger("shell")

_MAX_SESSIONS: Final = 50
#: Lines of the greeting, in the words of the original.
_HELP: Final = "HELP for help"
_LOG_IN: Final = "LOGIN <LOGIN> to log-in"
#: Seconds within which a session must log in, so that idle ones cannot take all sessions.
_LOGIN_TIME: Final = 60.0


class Shell:
    """Serves sessions."""

    def __init__(self, cluster: OperatorPlane) -> None:
        self._cluster = cluster
        self._password = cluster.settings.admin_pass.get_secret_value()
        self._sessions = 0
        self._logins = Logins(cluster.clock.steady)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one session to its end; an error ends this session alone."""
        if self._sessions >= _MAX_SESSIONS:
            writer.close()
            return
        self._sessions += 1
        try:
            await self._session(LineReader(reader), writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._sessions -= 1
            writer.close()

    async def _session(self, lines: LineReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        first = _LOG_IN if self._password else _HELP
        await _say(writer, [f"Welcome {host}:{port} {PROGRAM}:{__version__}", first, "QUIT to quit"])
        if self._password:
            async with asyncio.timeout(_LOGIN_TIME):
                if not await self._login(lines, writer):
                    return
        last = ""
        while (line := await self._ask(lines, writer, "#> ")) is not None:
            line = last if line == "!!" else line
            last = line
            await _say(writer, await self.answer(line))

    async def _login(self, lines: LineReader, writer: asyncio.StreamWriter) -> bool:
        """Return True if the first line is a valid login; any other command closes the session unanswered."""
        while (line := await self._ask(lines, writer, "$> ")) == "":
            pass
        verb, _, password = (line or "").partition(" ")
        if verb.upper() != "LOGIN":
            return False
        answer = await self._judge(password.strip(), writer.get_extra_info("peername"))
        await _say(writer, [answer, _HELP] if answer == "OK" else [answer])
        return answer == "OK"

    async def _ask(self, lines: LineReader, writer: asyncio.StreamWriter, prompt: str) -> str | None:
        """Return the next line; None at the end, or after QUIT."""
        writer.write(prompt.encode())
        await writer.drain()
        line = await lines.next()
        if line is not None and line.upper() in ("QUIT", "EXIT"):
            await _say(writer, ["Bye!"])
            return None
        return line

    async def _judge(self, password: str, peer: tuple[str, int] | None) -> str:
        """Check a password; return the answer."""
        address = peer[0] if peer else None

        async def attempt() -> bool:
            if not (right := same(password, self._password)):
                _log.warning("wrong password", address=address)
            return right

        try:
            return "OK" if await self._logins.check(address, attempt) else "FAIL"
        except TooManyGuesses as error:
            return f"FAIL: {error}"

    async def answer(self, line: str) -> list[str]:
        """Carry out a line; return the answer."""
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        if not words:
            return []
        if words[0].upper() == "HELP":
            return help_lines()
        name = " ".join(words[:2]).upper()
        operation = VERBS.get(name)
        if operation is None:
            return [f"INVALID: unknown command {name[:60]}; HELP lists all"]
        answer = await self._carry_out(operation, words[2:])
        return [answer] if isinstance(answer, str) else answer

    async def _carry_out(self, operation: Operation, words: list[str]) -> str | list[str]:
        try:
            return await carry_out(self._cluster, operation, words)
        except ClusterError as error:
            return f"FAIL: {answers.text(error)}"
        except Exception as error:  # noqa: BLE001 - one of the three edges: an admin command
            _log.error("command failed", operation=operation.name, error=type(error).__name__, exc_info=error)
            return f"FAIL: {answers.BUG}"


async def _say(writer: asyncio.StreamWriter, lines: list[str]) -> None:
    for text in lines:
        for line in text.split("\n"):
            writer.write(printable(line).encode(errors="replace") + b"\r\n")
    await writer.drain()
