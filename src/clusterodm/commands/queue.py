# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm queue`: queued tasks, and why they wait."""

from __future__ import annotations

from clusterodm.admin.views import TaskView
from clusterodm.commands.operated import make_command
from clusterodm.commands.remote import print_table
from clusterodm.core.durations import span


def _print_queue(tasks: list[TaskView]) -> None:
    rows = [
        (
            each.position,
            each.uuid,
            each.name[:40],
            each.owner,
            each.priority,
            each.images,
            span(each.expected_wait),
            each.wait,
        )
        for each in tasks
    ]
    heads = ("#>", "id", "name", "owner", "priority>", "images>", "expected wait>", "why")
    print_table(heads, rows, empty="No queued tasks.")


queue = make_command("queue", _print_queue)
