# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin shell: lines over TCP, for telnet and nc, in the words of the original."""

from __future__ import annotations

import asyncio
import shlex
from typing import Final

import structlog

from clusterodm import __version__
from clusterodm.admin.commands import COMMANDS, Invalid, help_lines
from clusterodm.admin.guard import same
from clusterodm.admin.logins import Logins
from clusterodm.admin.text import LineReader
from clusterodm.cluster.context import Context
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError
from clusterodm.core.names import printable
from clusterodm.http import answers

_log = structlog.get_logger("shell")

_MAX_SESSIONS: Final = 50
#: LineReader of the greeting, in the words of the original.
_HELP: Final = "HELP for help"
_LOG_IN: Final = "LOGIN <LOGIN> to log-in"
#: Seconds in which a session must log in: those that only sit there take the place of operators.
_LOGIN_TIME: Final = 60.0


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
        """Whether the first line is a login; anything else closes the session unanswered."""
        while (line := await self._ask(lines, writer, "$> ")) == "":
            pass
        verb, _, password = (line or "").partition(" ")
        if verb.upper() != "LOGIN":
            return False
        answer = await self._judge(password.strip(), writer.get_extra_info("peername"))
        await _say(writer, [answer, _HELP] if answer == "OK" else [answer])
        return answer == "OK"

    async def _ask(self, lines: LineReader, writer: asyncio.StreamWriter, prompt: str) -> str | None:
        """The next line; None when there is none, or it takes leave."""
        writer.write(prompt.encode())
        await writer.drain()
        line = await lines.next()
        if line is not None and line.upper() in ("QUIT", "EXIT"):
            await _say(writer, ["Bye!"])
            return None
        return line

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
