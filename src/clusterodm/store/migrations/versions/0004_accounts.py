# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is still to be settled with the service that knows the owners; nodes whose certificate is not verified."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns."""
    for name in ("approval_due", "billing_due"):
        op.add_column("tasks", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_tasks_billing_due",
        "tasks",
        ["billing_due"],
        sqlite_where=sa.Column("billing_due"),
        postgresql_where=sa.Column("billing_due"),
    )
    op.add_column("nodes", sa.Column("insecure", sa.Boolean(), nullable=False, server_default=sa.false()))
