# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's verbs for nodes and for single values."""

from __future__ import annotations

from typing import Any, Unpack

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from clusterodm.core.changes import NodeChanges
from clusterodm.core.errors import DataFolderError
from clusterodm.core.nodes import NodeAddress, NodeRecord
from clusterodm.store import schema
from clusterodm.store.database import Database, columns, down, plain
from clusterodm.store.rows import MalformedJson, Row, as_node, explain, readable_nodes, salvaged_node


class NodeVerbs(Database):
    """Nodes and single values."""

    async def nodes(self) -> list[NodeRecord]:
        """Return all nodes by number, including removed ones."""
        rows = (await self._read(select(schema.nodes).order_by(schema.nodes.c.id))).mappings().all()
        return [node for row in rows if (node := self._node(row)) is not None]

    def _node(self, row: Row) -> NodeRecord | None:
        """Return the node of a row. An unreadable one accepts no tasks; its running ones are tracked if possible."""
        try:
            return as_node(row)
        except msgspec.ValidationError as error:
            self.aside.add("nodes", row["id"], explain(row, NodeRecord, error))
        try:
            return salvaged_node(row)
        except msgspec.ValidationError:
            return None

    async def add_node(self, record: NodeRecord) -> NodeRecord:
        """Store a node (its id is chosen here). One that is known by its place gets the new address and the new
        terms, and is no longer removed; whether it is locked or drains stays as it was."""
        values = {**msgspec.structs.asdict(record.address), **columns(record, schema.nodes)}
        values.pop("id")
        unchanged = ("host", "port", "locked", "draining")
        changed = {key: value for key, value in values.items() if key not in unchanged}
        async with self._transaction() as connection:
            await _write_alike(connection, record.address)
            statement = self._insert(schema.nodes).values(values)
            await connection.execute(statement.on_conflict_do_update(index_elements=["host", "port"], set_=changed))
            condition = (schema.nodes.c.host == record.address.host) & (schema.nodes.c.port == record.address.port)
            await self._tell(connection, "nodes")
            return as_node((await connection.execute(select(schema.nodes).where(condition))).mappings().one())

    async def change_node(self, node_id: int, **changes: Unpack[NodeChanges]) -> None:
        """Update columns of a node."""
        row = {key: plain(value) for key, value in changes.items()}
        async with self._transaction() as connection:
            await connection.execute(update(schema.nodes).where(schema.nodes.c.id == node_id).values(row))
            await self._tell(connection, "nodes")

    async def delete_node(self, node_id: int) -> None:
        """Delete a node even if it is referred to; its id is never reused."""
        async with self._transaction() as connection:
            await connection.execute(delete(schema.nodes).where(schema.nodes.c.id == node_id))
            await self._tell(connection, "nodes")

    async def forget_nodes(self) -> list[int]:
        """Delete removed nodes that no attempt refers to; return their ids."""
        table = schema.nodes.c
        used = select(schema.attempts.c.node_id)
        unused = table.removed & table.id.not_in(used)
        async with self._transaction() as connection:
            ids = list((await connection.execute(select(table.id).where(unused))).scalars())
            if ids:
                await connection.execute(delete(schema.nodes).where(table.id.in_(ids)))
                await self._tell(connection, "nodes")
        return ids

    async def value(self, key: str) -> Any:
        """Return a single value, None if it was never stored."""
        query = select(schema.meta.c.value).where(schema.meta.c.key == key)
        value = (await self._read(query)).scalar_one_or_none()
        if isinstance(value, MalformedJson):
            self.aside.add("meta", key, "malformed JSON")
            return None
        return value

    async def keep_value(self, key: str, value: Any) -> None:
        """Store a single JSON value under `key`."""
        async with self._transaction() as connection:
            statement = self._insert(schema.meta).values(key=key, value=value)
            await connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
            await self._tell(connection, "value", key)

    async def first_value(self, key: str, value: Any) -> Any:
        """Store a value unless there is one under that key already; return the stored one."""
        async with self._transaction() as connection:
            statement = self._insert(schema.meta).values(key=key, value=value)
            await connection.execute(statement.on_conflict_do_nothing(index_elements=["key"]))
            query = select(schema.meta.c.value).where(schema.meta.c.key == key)
            stored = (await connection.execute(query)).scalar_one()
        if isinstance(stored, MalformedJson):
            raise DataFolderError(f"the database is damaged: its value {key!r} cannot be read; restore a copy")
        return stored


async def ask_nodes(url: str) -> list[NodeRecord]:
    """Return the nodes of a database that another process works on, without changing it. Raises StoreDown."""
    engine = create_async_engine(url)
    shown = select(schema.nodes).where(schema.nodes.c.removed.is_(False)).order_by(schema.nodes.c.id)
    try:
        async with engine.connect() as connection:
            return readable_nodes((await connection.execute(shown)).mappings())
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise down(error) from None
    finally:
        await engine.dispose()


async def _write_alike(connection: AsyncConnection, address: NodeAddress) -> None:
    """Where the node at this place is kept with another way to write its host, have it written as here."""
    table = schema.nodes.c
    rows = (await connection.execute(select(table.id, table.host).where(table.port == address.port))).all()
    alike = [row for row in rows if NodeAddress(host=row.host, port=address.port).place == address.place]
    if alike and all(row.host != address.host for row in alike):
        change = update(schema.nodes).where(table.id == alike[0].id).values(host=address.host)
        await connection.execute(change)
