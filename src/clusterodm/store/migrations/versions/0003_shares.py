# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a token allows its owner, kept with each task."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns."""
    op.add_column("tasks", sa.Column("share", sa.Float(), nullable=False, server_default="1"))
    op.add_column("tasks", sa.Column("concurrency", sa.Integer(), nullable=False, server_default="-1"))
