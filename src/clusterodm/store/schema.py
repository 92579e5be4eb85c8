# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables. Column names are those of the records in `core`, so that one mapping serves all."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
)

from clusterodm.store.rows import decode_json


class Json(TypeDecorator[Any]):
    """A JSON value in a text column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Encode on the way in."""
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Decode on the way out; what is no JSON does not keep other rows from being read."""
        return decode_json(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tasks = Table(
    "tasks",
    metadata,
    Column("uuid", String(36), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("phase", String(20), nullable=False),
    Column("name", Text, nullable=False),
    Column("options", Json, nullable=False),
    Column("skip_post_processing", Boolean, nullable=False),
    Column("outputs", Json, nullable=False),
    Column("webhook", Text, nullable=False),
    Column("zipurl", Text, nullable=False),
    Column("date_created", BigInteger, nullable=False),
    Column("submodel", Boolean, nullable=False),
    Column("job", String(36), nullable=False, server_default=""),
    Column("job_attempt", Integer, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False),
    Column("share", Float, nullable=False, server_default="1"),
    Column("concurrency", Integer, nullable=False, server_default="-1"),
    Column("file_count", Integer, nullable=False),
    Column("image_count", Integer, nullable=False),
    Column("counted_files", Integer, nullable=False, server_default="0"),
    Column("byte_count", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("committed_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("outcome", String(20)),
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("larger_than", Integer, nullable=False),
    Column("more_memory_than", BigInteger, nullable=False),
    Column("alone", Boolean, nullable=False, server_default=false()),
    Column("avoid", Json, nullable=False, server_default="[]"),
    Column("progress", Float, nullable=False),
    Column("processing_time", BigInteger, nullable=False),
    Column("node_code", Integer, nullable=False),
    Column("webhook_due", Boolean, nullable=False),
    Column("approval_due", Boolean, nullable=False, server_default=false()),
    Column("billing_due", Boolean, nullable=False, server_default=false()),
    Column("expected_memory", BigInteger, nullable=False, server_default="0"),
    Column("results_in", String(200), nullable=False, server_default=""),
    Column("added_options", Json, nullable=False, server_default="[]"),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Index(None, "phase", "finished_at"),
    Index(None, "owner", "finished_at"),
    Index(None, "committed_at"),
    Index(
        "ix_tasks_webhook_due",
        "webhook_due",
        sqlite_where=Column("webhook_due"),
        postgresql_where=Column("webhook_due"),
    ),
    Index(
        "ix_tasks_job",
        "job",
        sqlite_where=Column("job") != "",
        postgresql_where=Column("job") != "",
    ),
    Index(
        "ix_tasks_billing_due",
        "billing_due",
        sqlite_where=Column("billing_due"),
        postgresql_where=Column("billing_due"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("task", String(36), ForeignKey("tasks.uuid", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("node_id", Integer, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("node_uuid", String(36), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("console_start", BigInteger, nullable=False),
    Column("cleanup", String(20), nullable=False),
    Column("sender", String(40), nullable=False, server_default=""),
    Column("expected_images", Integer, nullable=False, server_default="-1"),
    Index(None, "cleanup"),
    Index(None, "node_id"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("task", String(36), ForeignKey("tasks.uuid", ondelete="CASCADE"), primary_key=True),
    Column("files", Json, nullable=False),
    Column("zipurl", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("task", String(36), ForeignKey("tasks.uuid", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "task", "id"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("token", Text, nullable=False),
    Column("tls", Boolean, nullable=False),
    Column("insecure", Boolean, nullable=False, server_default=false()),
    Column("locked", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("removed", Boolean, nullable=False, server_default=false()),
    Column("origin", String(20), nullable=False, server_default="configured"),
    Column("labels", Json, nullable=False, server_default="{}"),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float, nullable=False, server_default="0"),
    Column("ends_at", Float, nullable=False, server_default="0"),
    Column("drain_before", Float, nullable=False, server_default="0"),
    Index("uq_nodes_address", "host", "port", unique=True),
    sqlite_autoincrement=True,
)

machines = Table(
    "machines",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("provider", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("size", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("spot", Boolean, nullable=False),
    Column("max_images", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("price", Float, nullable=False),
    Column("task", String(36), nullable=False),
    Column("provider_id", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("node_id", Integer, nullable=False),
    Column("volumes", Json, nullable=False),
    Column("ordered_at", Float, nullable=False),
    Column("booting_at", Float, nullable=False),
    Column("ready_at", Float, nullable=False),
    Column("idle_since", Float, nullable=False),
    Column("gone_at", Float, nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Index(None, "state", "gone_at"),
)

machine_events = Table(
    "machine_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("machine", String(100), ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("state", String(20), nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "machine", "id"),
)

peaks = Table(
    "peaks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("images", Integer, nullable=False),
    Column("megapixels", Float, nullable=False),
    Column("options", Text, nullable=False),
    Column("memory", BigInteger, nullable=False),
    Column("enough", Boolean, nullable=False),
)

costs = Table(
    "costs",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("machine", String(100), primary_key=True),
    Column("task", String(36), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("amount", Float, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", String(40), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

locks = Table(
    "locks",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("holder", String(40), nullable=False),
    Column("until", Float, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("value", Json, nullable=False),
)
