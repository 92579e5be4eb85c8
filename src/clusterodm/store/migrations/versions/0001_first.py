# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "tasks",
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("skip_post_processing", sa.Boolean(), nullable=False),
        sa.Column("outputs", sa.Text(), nullable=False),
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("zipurl", sa.Text(), nullable=False),
        sa.Column("date_created", sa.BigInteger(), nullable=False),
        sa.Column("submodel", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("image_count", sa.Integer(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("committed_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("charged", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("larger_than", sa.Integer(), nullable=False),
        sa.Column("more_memory_than", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("processing_time", sa.BigInteger(), nullable=False),
        sa.Column("node_code", sa.Integer(), nullable=False),
        sa.Column("webhook_due", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_tasks"),
    )
    op.create_index("ix_tasks_phase_finished_at", "tasks", ["phase", "finished_at"])
    op.create_index("ix_tasks_owner_finished_at", "tasks", ["owner", "finished_at"])
    due = sa.text("webhook_due")
    op.create_index("ix_tasks_webhook_due", "tasks", ["webhook_due"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "attempts",
        sa.Column("task", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.Column("node_uuid", sa.String(36), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("console_start", sa.BigInteger(), nullable=False),
        sa.Column("cleanup", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.uuid"], name="fk_attempts_task", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task", "number", name="pk_attempts"),
    )
    op.create_index("ix_attempts_cleanup", "attempts", ["cleanup"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("task", sa.String(36), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.uuid"], name="fk_events_task", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_task_id", "events", ["task", "id"])
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_nodes_address", "nodes", ["host", "port"], unique=True)
    op.create_table(
        "meta",
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
