# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for the usage of owners, one row for each with recent usage."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from clusterodm.core.fairness import NEGLIGIBLE, Account, length, payer
from clusterodm.core.tasks import ON_NODE, Attempt, Stage, Task
from clusterodm.store import schema
from clusterodm.store.database import Database


class UsageVerbs(Database):
    """Accounts of owners."""

    async def accounts(self) -> list[Account]:
        """Return the accounts of all owners."""
        rows = (await self._read(select(schema.usage))).mappings().all()
        return self.aside.records(rows, Account, "usage", "owner")

    async def drop_accounts(self, now: float) -> None:
        """Delete accounts with negligible usage."""
        table = schema.usage
        idle = [account for account in await self.accounts() if account.remaining(now) < NEGLIGIBLE]
        async with self._transaction() as connection:
            for account in idle:
                condition = (table.c.owner == account.owner) & (table.c.at == account.at)
                await connection.execute(delete(table).where(condition))

    async def _charge(self, connection: AsyncConnection, task: Task, attempt: Attempt | None) -> None:
        """Charge the owner of a task that leaves its node, in the same transaction, so that it is charged exactly
        once."""
        if task.phase not in ON_NODE or attempt is None or attempt.stage is not Stage.ENDED:
            return
        table, owner, at = schema.usage, payer(task.owner), attempt.ended_at
        new = self._insert(table).values(owner=owner, seconds=0.0, at=at)
        await connection.execute(new.on_conflict_do_nothing(index_elements=["owner"]))
        query = select(table).where(table.c.owner == owner).with_for_update()
        rows = (await connection.execute(query)).mappings().all()
        [account] = self.aside.records(rows, Account, "usage", "owner") or [Account(owner, 0.0, at)]
        account = account.charged(length(attempt.started_at, at), at)
        change = update(table).where(table.c.owner == owner)
        await connection.execute(change.values(seconds=account.seconds, at=account.at))
