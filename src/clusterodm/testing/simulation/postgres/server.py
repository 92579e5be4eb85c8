# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server as an actor: killed, restarted, and asked to end connections."""

from __future__ import annotations

import asyncio
import itertools
import struct
from typing import Final

from clusterodm.testing.simulation.history import History
from clusterodm.testing.simulation.hosts import Host, Program
from clusterodm.testing.simulation.postgres.session import Session
from clusterodm.testing.simulation.postgres.tables import Tables
from clusterodm.testing.simulation.postgres.wire import CANCEL, TLS, VERSION, PostgresError, error
from clusterodm.testing.simulation.world import Simulation

PORT: Final = 5432
#: Seconds for which a server that was killed replays its log and refuses connections, at most.
_RECOVERY: Final = 2.0
_STARTING: Final = PostgresError("57P03", "the database system is starting up", "FATAL")


class Postgres(Program):
    """A server whose tables survive it."""

    def __init__(self, simulation: Simulation, host: Host, history: History) -> None:
        super().__init__(host, history)
        self._chance = simulation.chance(f"postgres {host.name}")
        self.tables = Tables(lambda: host.wall(simulation.loop.time()))
        self.sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        self._recovers_until = 0.0
        self._loop = simulation.loop

    @property
    def kind(self) -> str:
        """What the history calls it."""
        return "database"

    def url(self, database: str = "clusterodm") -> str:
        """Return the URL for SQLAlchemy."""
        return f"postgresql+asyncpg://clusterodm:none@{self.host.address}:{PORT}/{database}?ssl=disable"

    def kill(self) -> None:
        """Stop it at once: what is not committed is gone."""
        if self.alive and self._process is not None:
            self._process.kill()
            self._gone()
            self._recovers_until = self._loop.time() + self._chance.uniform(0.1, _RECOVERY)
            self._history.add(self.name, "database killed")

    async def stop(self) -> None:
        """End it in order: all sessions are told."""
        if self.alive and self._process is not None:
            self._history.add(self.name, "database stops")
            self.terminate_all()
            self._stop.set()
            await self._process.ended.wait()
            self._gone()

    def terminate_all(self) -> None:
        """End all connections, as an administrator does."""
        for session in list(self.sessions.values()):
            session.terminate()

    def _gone(self) -> None:
        self.tables.crash()
        self.sessions.clear()

    def notify(self, session: Session, channel: str, payload: str) -> None:
        """Tell all sessions that listen."""
        for each in self.sessions.values():
            each.hear(session.number, channel, payload)

    async def _main(self, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "0.0.0.0", PORT)  # noqa: S104 - of its simulated host
        await stop.wait()
        server.close()
        await asyncio.sleep(0.1)  # the last words are on their way

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            parameters = await self._greet(reader, writer)
            if parameters is None:
                return
            if self._loop.time() < self._recovers_until:
                writer.write(error(_STARTING))
                return
            number = next(self._numbers)
            secret = self._chance.getrandbits(31)
            session = self.sessions[number] = Session(self, number, secret, reader, writer, self._chance)
            try:
                await session.run(parameters)
            finally:
                self.sessions.pop(number, None)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            return
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str] | None:
        """Return the parameters of a new session; None if nothing more is wanted."""
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            body = await reader.readexactly(length - 8)
            if code == TLS:
                writer.write(b"N")
            elif code == CANCEL:
                number, secret = struct.unpack("!ii", body)
                session = self.sessions.get(number)
                if session is not None and session.secret == secret:
                    session.cancel()
                return None
            elif code == VERSION:
                words = [word.decode() for word in body.split(b"\0") if word]
                return dict(zip(words[::2], words[1::2], strict=True))
            else:
                raise ConnectionError(f"protocol {code}")
