# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was accepted of each task, by name and size; and how many images its node must count."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add a table and a column."""
    op.create_table(
        "manifests",
        sa.Column("task", sa.String(36), sa.ForeignKey("tasks.uuid", ondelete="CASCADE"), primary_key=True),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("zipurl", sa.Text(), nullable=False),
    )
    op.add_column("attempts", sa.Column("expected_images", sa.Integer(), nullable=False, server_default="-1"))
