# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators see and do: states, terms and origins of nodes, and an index for looking back."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NODES: tuple[sa.Column[object], ...] = (
    sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("removed", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("origin", sa.String(20), nullable=False, server_default="configured"),
    sa.Column("labels", sa.Text(), nullable=False, server_default="{}"),
    sa.Column("slots", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("lease_until", sa.Float(), nullable=False, server_default="0"),
    sa.Column("ends_at", sa.Float(), nullable=False, server_default="0"),
    sa.Column("drain_before", sa.Float(), nullable=False, server_default="0"),
)


def upgrade() -> None:
    """Add columns and indexes."""
    for column in _NODES:
        op.add_column("nodes", column)
    op.create_index("ix_attempts_node_id", "attempts", ["node_id"])
    op.create_index("ix_tasks_committed_at", "tasks", ["committed_at"])
