# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One connection of a client: statements one after another, in transactions."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.postgres.sql import Statement, settings
from clusterodm.testing.simulation.postgres.tables import Blocked, Transaction, row_values
from clusterodm.testing.simulation.postgres.wire import (
    Fields,
    PostgresError,
    data_row,
    decode,
    error,
    message,
    parameter_description,
    row_description,
)
from clusterodm.testing.simulation.transport import Endpoint

if TYPE_CHECKING:
    from clusterodm.testing.simulation.postgres.server import Postgres

#: Seconds that a statement takes, and a commit, which waits for a disk that is sometimes busy.
_STATEMENT: Final = 0.0003
_COMMIT: Final = 0.002
_BUSY: Final = 0.05
_BUSY_CHANCE: Final = 0.02
#: Seconds after which a transaction that waits looks for a deadlock.
_DEADLOCK: Final = 1.0
#: Settings that a client may choose, with their defaults: seconds, 0 for none.
_SETTINGS: Final = {
    "lock_timeout": 0.0,
    "statement_timeout": 0.0,
    "idle_in_transaction_session_timeout": 0.0,
    "tcp_keepalives_idle": 7200.0,
    "tcp_keepalives_interval": 75.0,
    "tcp_keepalives_count": 9.0,
}
#: Settings that change nothing here.
_IGNORED: Final = ("user", "database", "client_encoding", "application_name", "jit")
_ABORTED: Final = PostgresError(
    "25P02", "current transaction is aborted, commands ignored until end of transaction block"
)
_TERMINATED: Final = PostgresError("57P01", "terminating connection due to administrator command", "FATAL")
_IDLE: Final = PostgresError("25P03", "terminating connection due to idle-in-transaction timeout", "FATAL")
_CANCELED: Final = PostgresError("57014", "canceling statement due to user request")


@dataclass
class _Portal:
    """A statement with its parameters; its rows once it was executed."""

    statement: Statement
    values: list[Any]
    rows: deque[Any] | None = None
    count: int = 0


class Session:
    """A backend process."""

    def __init__(
        self,
        server: Postgres,
        number: int,
        secret: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chance: random.Random,
    ) -> None:
        self.number = number
        self.secret = secret
        self._server = server
        self._reader = reader
        self._writer = writer
        self._chance = chance
        self._settings = dict(_SETTINGS)
        self._chosen = asyncio.Event()
        self._statements: dict[str, Statement] = {}
        self._portals: dict[str, _Portal] = {}
        self._transaction: Transaction | None = None
        #: True in a block that BEGIN opened.
        self._block = False
        self._skipping = False
        self._channels: dict[str, None] = {}
        self._heard: deque[tuple[int, str, str]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._last_words: PostgresError | None = None

    # From outside

    def hear(self, origin: int, channel: str, payload: str) -> None:
        """Take a notification; the client gets it between two transactions."""
        if channel in self._channels:
            self._heard.append((origin, channel, payload))
            if self._transaction is None:
                self._tell()

    def cancel(self) -> None:
        """Cancel the statement that waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(_CANCELED)

    def terminate(self, why: PostgresError = _TERMINATED) -> None:
        """End it."""
        self._last_words = why
        if self._task is not None:
            self._task.cancel()

    # The client's side

    async def run(self, parameters: dict[str, str]) -> None:
        """Serve until the connection ends."""
        self._task = asyncio.current_task()
        keepalive = asyncio.get_running_loop().create_task(self._keep_alive())
        try:
            self._set(parameters)
            self._greet()
            while True:
                kind, body = await self._next()
                if kind == b"X":
                    return
                await self._handle(kind, Fields(body))
        except PostgresError as failure:
            self._writer.write(error(failure))
        except asyncio.CancelledError:
            if self._last_words is None:
                raise
            self._writer.write(error(self._last_words))
        finally:
            keepalive.cancel()
            if self._transaction is not None:
                self._server.tables.end(self._transaction)

    async def _next(self) -> tuple[bytes, bytes]:
        idle = self._settings["idle_in_transaction_session_timeout"] if self._block else 0.0
        try:
            async with asyncio.timeout(idle or None):
                head = await self._reader.readexactly(5)
        except TimeoutError:
            raise _IDLE from None
        return head[:1], await self._reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)

    def _set(self, parameters: dict[str, str]) -> None:
        for name, value in parameters.items():
            if name in _SETTINGS:
                unit = 1.0 if name.startswith("tcp_") else 0.001
                self._settings[name] = float(value) * unit
                self._chosen.set()
            elif name not in _IGNORED:
                raise RealWorldError(f"the model of PostgreSQL does not know the setting {name}")

    def _greet(self) -> None:
        known = {"server_version": "15.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
        known |= {"integer_datetimes": "on", "TimeZone": "UTC", "DateStyle": "ISO, MDY"}
        statuses = [message(b"S", f"{name}\0{value}\0".encode()) for name, value in known.items()]
        key = message(b"K", struct.pack("!ii", self.number, self.secret))
        self._writer.write(message(b"R", struct.pack("!i", 0)) + b"".join(statuses) + key + self._ready())

    def _ready(self) -> bytes:
        failed = self._transaction is not None and self._transaction.failed
        return message(b"Z", b"E" if failed else b"T" if self._block else b"I")

    async def _handle(self, kind: bytes, fields: Fields) -> None:
        if self._skipping and kind != b"S":
            return
        handlers = {b"P": self._parse, b"B": self._bind, b"D": self._describe, b"C": self._close}
        try:
            if kind in handlers:
                handlers[kind](fields)
            elif kind == b"E":
                await self._execute(fields.text(), fields.long())
            elif kind in (b"Q", b"S"):
                self._skipping = False
                if kind == b"Q":
                    await self._simple(fields.text())
                await self._sync()
            elif kind != b"H":
                raise RealWorldError(f"the model of PostgreSQL does not know the message {kind!r}")
        except PostgresError as failure:
            self._fail(failure)
            if kind == b"Q":
                await self._sync()
            else:
                self._skipping = True

    def _fail(self, failure: PostgresError) -> None:
        """Report an error, and give up the transaction."""
        self._writer.write(error(failure))
        if self._transaction is not None:
            self._transaction.failed = True
            self._server.tables.end(self._transaction)

    async def _sync(self) -> None:
        """End the implicit transaction, if there is one, and be ready for the next statement."""
        if not self._block:
            self._portals.clear()
            if self._transaction is not None:
                await self._end(commits=not self._transaction.failed)
        if self._transaction is None:
            self._tell()
        self._writer.write(self._ready())
        await self._writer.drain()

    def _tell(self) -> None:
        while self._heard:
            origin, channel, payload = self._heard.popleft()
            body = struct.pack("!i", origin) + f"{channel}\0{payload}\0".encode()
            self._writer.write(message(b"A", body))

    # Statements

    def _parse(self, fields: Fields) -> None:
        name, source = fields.text(), fields.text()
        self._require_whole()
        self._statements[name] = self._prepared(source)
        self._writer.write(message(b"1"))

    def _prepared(self, source: str) -> Statement:
        return Statement("empty", "") if not source.strip(" ;") else self._server.tables.prepare(source)

    def _require_whole(self) -> None:
        if self._transaction is not None and self._transaction.failed:
            raise _ABORTED

    def _bind(self, fields: Fields) -> None:
        portal, name = fields.text(), fields.text()
        statement = self._statements[name]
        fields.formats()
        contents = [fields.value() for _ in range(fields.short())]
        kinds = zip(statement.parameters, contents, strict=True)
        values = [None if content is None else decode(kind, content) for kind, content in kinds]
        self._portals[portal] = _Portal(statement, values)
        self._writer.write(message(b"2"))

    def _describe(self, fields: Fields) -> None:
        kind, name = fields.text_kind(), fields.text()
        if kind == "S":
            statement = self._statements[name]
            self._writer.write(parameter_description(statement.parameters))
        else:
            statement = self._portals[name].statement
        self._writer.write(row_description(statement.columns))

    def _close(self, fields: Fields) -> None:
        kind, name = fields.text_kind(), fields.text()
        (self._statements if kind == "S" else self._portals).pop(name, None)
        self._writer.write(message(b"3"))

    async def _execute(self, name: str, most: int) -> None:
        portal = self._portals[name]
        statement = portal.statement
        if statement.kind == "empty":
            self._writer.write(message(b"I"))
            return
        if portal.rows is None:
            rows, portal.count = await self._run(statement, portal.values)
            portal.rows = deque(rows)
        sent = 0
        while portal.rows and (not most or sent < most):
            row = row_values(portal.rows.popleft(), statement.columns)
            self._writer.write(data_row(row, statement.columns))
            sent += 1
        if portal.rows:
            self._writer.write(message(b"s"))
        else:
            self._writer.write(message(b"C", f"{statement.tag(portal.count)}\0".encode()))

    async def _simple(self, source: str) -> None:
        """Execute SQL without parameters: mostly what is about transactions and channels."""
        words = source.strip(" ;").split()
        verb = words[0].upper() if words else ""
        if verb == "BEGIN":
            if words[1:] and words[1:] != ["ISOLATION", "LEVEL", "READ", "COMMITTED"]:
                raise RealWorldError(f"the model of PostgreSQL does not know this SQL: {source}")
            self._block = True
            self._transaction = self._transaction or Transaction()
        elif verb in ("COMMIT", "ROLLBACK"):
            commits = verb == "COMMIT" and not (self._transaction is not None and self._transaction.failed)
            await self._end(commits=commits)
            verb = "COMMIT" if commits else "ROLLBACK"
        elif words:
            await self._show(source)
            return
        self._writer.write(message(b"C", f"{verb}\0".encode()) if words else message(b"I"))

    def _channel(self, statement: Statement) -> None:
        if self._block:
            raise RealWorldError("the model of PostgreSQL knows LISTEN outside of transactions only")
        if statement.text.startswith("LISTEN "):
            self._channels[statement.table] = None
        elif statement.table == "*":
            self._channels.clear()
        else:
            self._channels.pop(statement.table, None)

    async def _show(self, source: str) -> None:
        statement = self._prepared(source)
        rows, count = await self._run(statement, [])
        if statement.columns:
            self._writer.write(row_description(statement.columns, 0))
        for row in rows:
            self._writer.write(data_row(row, statement.columns, as_text=True))
        self._writer.write(message(b"C", f"{statement.tag(count)}\0".encode()))

    async def _run(self, statement: Statement, values: list[Any]) -> tuple[list[Any], int]:
        self._require_whole()
        await asyncio.sleep(self._chance.expovariate(1.0 / _STATEMENT))
        if statement.kind == "set":
            self._set(chosen := settings(statement))
            return [tuple(chosen.values())], 1
        if statement.kind == "channel":
            self._channel(statement)
            return [], 0
        self._transaction = transaction = self._transaction or Transaction()
        begun = asyncio.get_running_loop().time()
        while True:
            try:
                return self._server.tables.execute(transaction, statement, values)
            except Blocked as blocked:
                await self._wait(transaction, blocked.holders, begun)

    async def _wait(self, transaction: Transaction, holders: tuple[Transaction, ...], begun: float) -> None:
        """Wait until one of the transactions has ended. Raises PostgresError."""
        loop = asyncio.get_running_loop()
        wait = self._waiting = loop.create_future()
        transaction.waits_for = holders
        for holder in holders:
            holder.waiting.append(wait)
        try:
            while not wait.done():
                pause = _DEADLOCK
                for name in ("lock_timeout", "statement_timeout"):
                    if limit := self._settings[name]:
                        if loop.time() >= begun + limit:
                            state = "55P03" if name == "lock_timeout" else "57014"
                            raise PostgresError(state, f"canceling statement due to {name.replace('_', ' ')}")
                        pause = min(pause, begun + limit - loop.time())
                await asyncio.wait([wait], timeout=pause)
                if not wait.done() and transaction.waits_for_itself():
                    raise PostgresError("40P01", "deadlock detected")
            wait.result()
        finally:
            transaction.waits_for = ()
            self._waiting = None
            if not wait.done():
                wait.cancel()

    async def _end(self, *, commits: bool) -> None:
        transaction, self._block = self._transaction, False
        self._portals.clear()
        if transaction is None:
            return
        if commits and transaction.log:
            pace = _BUSY if self._chance.random() < _BUSY_CHANCE else _COMMIT
            await asyncio.sleep(self._chance.expovariate(1.0 / pace))
        self._transaction = None
        if not commits:
            self._server.tables.end(transaction)
            return
        self._server.tables.commit(transaction)
        for channel, payload in transaction.notifications:
            self._server.notify(self, channel, payload)

    async def _keep_alive(self) -> None:
        """End the connection of a client whose host does not answer any more."""
        loop, endpoint = asyncio.get_running_loop(), self._writer.transport
        assert isinstance(endpoint, Endpoint), "simulated"  # noqa: S101 - see Simulation
        answered, missed = loop.time(), 0
        while not endpoint.is_closing():
            name = "tcp_keepalives_interval" if missed else "tcp_keepalives_idle"
            await self._pause(name)
            if loop.time() - answered < self._settings["tcp_keepalives_idle"]:
                continue  # it was chosen meanwhile
            if endpoint.probe():
                answered, missed = loop.time(), 0
            elif (missed := missed + 1) > self._settings["tcp_keepalives_count"]:
                endpoint.lost(TimeoutError("Connection timed out"), notify=False)

    async def _pause(self, name: str) -> None:
        """Wait for the seconds of a setting, or until settings change."""
        self._chosen.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings[name]):
                await self._chosen.wait()
