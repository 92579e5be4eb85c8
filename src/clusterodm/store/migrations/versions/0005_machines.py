# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines that we create, and what they cost."""

import sqlalchemy as sa
from alembic import op

from clusterodm.store.schema import Json

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add tables."""
    op.create_table(
        "machines",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("spot", sa.Boolean(), nullable=False),
        sa.Column("max_images", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("price", sa.Float(), nullable=False),
        sa.Column("task", sa.String(36), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("volumes", Json(), nullable=False),
        sa.Column("ordered_at", sa.Float(), nullable=False),
        sa.Column("booting_at", sa.Float(), nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=False),
        sa.Column("idle_since", sa.Float(), nullable=False),
        sa.Column("gone_at", sa.Float(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_index("ix_machines_state_gone_at", "machines", ["state", "gone_at"])
    op.create_table(
        "costs",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("machine", sa.String(100), primary_key=True),
        sa.Column("task", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("amount", sa.Float(), nullable=False),
    )
