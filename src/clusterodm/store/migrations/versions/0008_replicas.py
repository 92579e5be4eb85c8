# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes on one database: who is there, who leads, who sends, and which state of a task is the newer one."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add columns and tables."""
    op.add_column("tasks", sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("sender", sa.String(40), nullable=False, server_default=""))
    # what is on its way now was sent by a process that is no longer there
    op.execute("UPDATE attempts SET sender = '-' WHERE stage IN ('sending', 'committing')")
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("holder", sa.String(40), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
    )
