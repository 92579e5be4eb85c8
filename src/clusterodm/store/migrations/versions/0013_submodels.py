# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which split-merge job a task is a submodel of."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add columns and an index; take over the submodels of jobs with tokens, which their owner's name tells."""
    op.add_column("tasks", sa.Column("job", sa.String(36), nullable=False, server_default=""))
    op.add_column("tasks", sa.Column("job_attempt", sa.Integer(), nullable=False, server_default="0"))
    # owner#uuid, and owner#uuid#uuid for a submodel of a submodel: the job is the last 36 characters
    op.execute("UPDATE tasks SET job = substr(owner, length(owner) - 35) WHERE owner LIKE '%#%'")
    op.execute(
        "UPDATE tasks SET job_attempt = coalesce("
        "(SELECT of_job.attempts FROM tasks AS of_job WHERE of_job.uuid = tasks.job), 0) WHERE job <> ''"
    )
    has_job = sa.column("job") != ""
    op.create_index("ix_tasks_job", "tasks", ["job"], sqlite_where=has_job, postgresql_where=has_job)
