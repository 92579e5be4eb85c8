# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm queue`: what waits, and why."""

from __future__ import annotations

from rich.markup import escape

from clusterodm.admin.views import TaskView
from clusterodm.commands.remote import DEFAULT_URL, AsJson, Password, Url, admin, print_json, print_table, run
from clusterodm.core.durations import span


def queue(url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Tasks that wait, next first, and why."""
    run(_queue(url, password, json))


async def _queue(url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("queue", list[TaskView])
    if json:
        print_json(found)
        return
    rows = [
        (
            each.position,
            each.uuid,
            escape(each.name[:40]),
            escape(each.owner),
            each.priority,
            each.images,
            span(each.expected_wait),
            escape(each.wait),
        )
        for each in found
    ]
    heads = ("#>", "id", "name", "owner", "priority>", "images>", "expected wait>", "why")
    print_table(heads, rows, empty="Nothing waits.")
