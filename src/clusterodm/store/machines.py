# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for machines and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from clusterodm.core.changes import MachineChanges
from clusterodm.core.errors import StaleMachine
from clusterodm.core.machines import Machine, MachineEvent, State, require_transition
from clusterodm.core.sizing import Peak
from clusterodm.store import schema
from clusterodm.store.database import Database, columns, plain
from clusterodm.store.rows import Row, as_record, explain, salvaged


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a machine in a month for one task; task and owner are empty for idle time."""

    month: str
    machine: str
    task: str
    owner: str
    seconds: float
    amount: float


class MachineVerbs(Database):
    """Machines and costs."""

    async def add_machine(self, machine: Machine) -> None:
        """Store the intent to launch a machine, and begin its history."""
        async with self._transaction() as connection:
            await connection.execute(insert(schema.machines).values(columns(machine, schema.machines)))
            await _add_event(connection, machine.id, machine.ordered_at, machine.state, machine.reason)
            await self._tell(connection, "machines")

    async def advance_machine(
        self, machine: Machine, to: State, *, at: float, **changes: Unpack[MachineChanges]
    ) -> None:
        """Move a machine to another state, with a line in its history. Raises StaleMachine if its stored state has
        changed since `machine` was read."""
        require_transition(machine.state, to)
        row = {key: plain(value) for key, value in changes.items()} | {"state": str(to)}
        condition = (schema.machines.c.id == machine.id) & (schema.machines.c.state == str(machine.state))
        async with self._transaction() as connection:
            if (await connection.execute(update(schema.machines).where(condition).values(row))).rowcount != 1:
                raise StaleMachine(f"machine {machine.id} is no longer {machine.state}")
            await _add_event(connection, machine.id, at, to, changes.get("reason", ""))
            await self._tell(connection, "machines")

    async def change_machine(self, machine: Machine, **changes: Unpack[MachineChanges]) -> None:
        """Update columns of a machine in any state but GONE. Raises StaleMachine if it is gone."""
        row = {key: plain(value) for key, value in changes.items()}
        condition = (schema.machines.c.id == machine.id) & (schema.machines.c.state != str(State.GONE))
        async with self._transaction() as connection:
            if (await connection.execute(update(schema.machines).where(condition).values(row))).rowcount != 1:
                raise StaleMachine(f"machine {machine.id} is gone")
            await self._tell(connection, "machines")

    async def machine_events(self, machine_id: str) -> list[MachineEvent]:
        """Return the history of a machine, oldest line first; empty for an unknown one."""
        table = schema.machine_events
        query = select(table).where(table.c.machine == machine_id).order_by(table.c.id)
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, MachineEvent, "machine_events", "id")

    async def machines_alive(self) -> list[Machine]:
        """Return all machines that are not gone, oldest first."""
        table = schema.machines
        query = select(table).where(table.c.state != str(State.GONE)).order_by(table.c.ordered_at, table.c.id)
        rows = (await self._read(query)).mappings().all()
        return [machine for row in rows if (machine := self._machine(row)) is not None]

    async def machines_gone(self, *, limit: int) -> list[Machine]:
        """Return machines that are gone, latest first."""
        table = schema.machines
        query = select(table).where(table.c.state == str(State.GONE)).order_by(table.c.gone_at.desc()).limit(limit)
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, Machine, "machines", "id")

    def _machine(self, row: Row) -> Machine | None:
        """Return the machine of a row. An unreadable one is salvaged and kept: unknown, it would be deleted as an
        orphan together with its tasks."""
        try:
            return as_record(row, Machine)
        except msgspec.ValidationError as error:
            self.aside.add("machines", row["id"], explain(row, Machine, error))
        try:
            machine = salvaged(row, Machine, state=State.READY, provider="", size="", location="", max_images=0)
        except msgspec.ValidationError:
            return None
        return msgspec.structs.replace(machine, kept=True)

    async def forget_machines(self, before: float, *, month: str) -> None:
        """Delete machines that were gone before a time, and costs before a month."""
        table = schema.machines
        async with self._transaction() as connection:
            expired = (table.c.state == str(State.GONE)) & (table.c.gone_at < before)
            await connection.execute(delete(table).where(expired))
            await connection.execute(delete(schema.costs).where(schema.costs.c.month < month))

    async def peaks(self, *, limit: int) -> list[Peak]:
        """Return what recent tasks used, oldest first."""
        table = schema.peaks
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        rows = (await self._read(query)).mappings().all()
        return self.aside.records(rows, Peak, "peaks", "id")[::-1]

    async def add_peaks(self, peaks: Iterable[Peak], *, keep: int) -> None:
        """Store what tasks used; keep the last `keep`."""
        table = schema.peaks
        async with self._transaction() as connection:
            for peak in peaks:
                await connection.execute(insert(table).values(msgspec.structs.asdict(peak)))
            last = select(func.max(table.c.id)).scalar_subquery()
            await connection.execute(delete(table).where(table.c.id <= last - keep))

    async def charge(self, costs: Iterable[Cost]) -> None:
        """Add to the costs of machines."""
        table = schema.costs
        async with self._transaction() as connection:
            for cost in costs:
                statement = self._insert(table).values(msgspec.structs.asdict(cost))
                more = {"seconds": table.c.seconds + cost.seconds, "amount": table.c.amount + cost.amount}
                key = ["month", "machine", "task"]
                await connection.execute(statement.on_conflict_do_update(index_elements=key, set_=more))

    async def spent(self, month: str) -> float:
        """Return the total cost of a month (as "2026-11")."""
        table = schema.costs.c
        query = select(func.coalesce(func.sum(table.amount), 0.0)).where(table.month == month)
        return float((await self._read(query)).scalar_one())

    async def costs(self, month: str, by: str) -> list[tuple[str, float, float]]:
        """Return (key, hours, amount) of a month by "owner", "task" or "machine", most expensive first; at most
        1000."""
        table = schema.costs.c
        key = {"owner": table.owner, "task": table.task, "machine": table.machine}[by]
        amount = func.sum(table.amount)
        query = select(key, func.sum(table.seconds), amount).where(table.month == month).group_by(key)
        rows = (await self._read(query.order_by(amount.desc(), key).limit(1000))).all()
        return [(str(row[0]), float(row[1]) / 3600, float(row[2])) for row in rows]


async def _add_event(connection: AsyncConnection, machine_id: str, at: float, state: State, text: str) -> None:
    row = {"machine": machine_id, "at": at, "state": str(state), "text": text}
    await connection.execute(insert(schema.machine_events).values(row))
