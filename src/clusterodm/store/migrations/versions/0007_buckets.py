# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results that are in a bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add a column."""
    op.add_column("tasks", sa.Column("results_in", sa.String(200), nullable=False, server_default=""))
