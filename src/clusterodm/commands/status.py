# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm status`: the cluster at a glance."""

from __future__ import annotations

import typer

from clusterodm.admin.views import ClusterStatus
from clusterodm.commands.remote import (
    DEFAULT_URL,
    AsJson,
    Password,
    Url,
    admin,
    ago,
    print_json,
    print_table,
    run,
    screen,
)
from clusterodm.core.durations import span


def status(url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """The cluster at a glance; exit code 1 when something is wrong."""
    run(_status(url, password, json))


async def _status(url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("status", ClusterStatus)
    if json:
        print_json(found)
    else:
        _print(found)
    if found.health == "trouble":
        raise typer.Exit(1)


def _print(found: ClusterStatus) -> None:
    colour = {"well": "green", "busy": "blue"}.get(found.health, "red")
    screen.print(
        f"[bold {colour}]{found.health}[/]  ClusterODM {found.version}, started {ago(found.started_at)}",
        highlight=False,
    )
    for problem in found.problems:
        screen.print(f"  [red]![/] {problem}", highlight=False)

    def leading(name: str) -> str:
        return f"{name} (leads)" if name == found.leader else name

    trash = f", {found.trash_bytes / 1e9:.1f} GB in the trash" if found.trash_bytes else ""
    rows = [
        ("nodes", f"{found.nodes_online} of {found.nodes} online, {found.nodes_closed} get nothing new"),
        ("slots", f"{found.slots_used} of {found.slots} used"),
        (
            "tasks",
            f"{found.receiving} uploading, {found.queued} waiting, {found.dispatching} on their way, "
            f"{found.running} running, {found.collecting} being collected",
        ),
        ("ended", f"{found.completed} completed, {found.failed} failed, {found.canceled} canceled"),
        ("wait", f"longest now {span(found.longest_wait)}, expected for a new task {span(found.expected_wait)}"),
        *(
            [("machines", f"{found.machines} of {found.providers} providers, {found.month_cost:.2f} this month")]
            if found.providers
            else []
        ),
        *([("replicas", ", ".join(map(leading, found.replicas)))] if len(found.replicas) > 1 else []),
        ("disk", f"{found.held_bytes / 1e9:.1f} GB of held files, room for {found.room_bytes / 1e9:.1f} GB{trash}"),
    ]
    print_table(("", ""), rows, empty="")
