# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What failed attempts taught: a node to oneself, nodes to avoid; and files as nodes count them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add columns."""
    op.add_column("tasks", sa.Column("counted_files", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("tasks", sa.Column("alone", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("avoid", sa.Text(), nullable=False, server_default="[]"))
    op.execute("UPDATE tasks SET counted_files = file_count")
