# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The field's terms for what is stored, and the history of machines."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Rename stored values and a table; begin the history of machines with the state that each is in."""
    op.execute("UPDATE attempts SET stage = 'prefetching' WHERE stage = 'ahead'")
    op.execute("UPDATE attempts SET reason = 'discarded' WHERE reason = 'taken back'")
    op.execute("UPDATE machines SET state = 'draining' WHERE state = 'leaving'")
    op.rename_table("leases", "locks")
    op.create_table(
        "machine_events",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column(
            "machine",
            sa.String(100),
            sa.ForeignKey("machines.id", ondelete="CASCADE", name="fk_machine_events_machine"),
            nullable=False,
        ),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_index("ix_machine_events_machine_id", "machine_events", ["machine", "id"])
    op.execute(
        "INSERT INTO machine_events (machine, at, state, text) SELECT id, CASE state WHEN 'gone' THEN gone_at"
        " WHEN 'ready' THEN ready_at WHEN 'booting' THEN booting_at ELSE ordered_at END, state, reason FROM machines"
    )
