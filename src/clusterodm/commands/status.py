# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm status`: the state of the cluster."""

from __future__ import annotations

from rich.text import Text

from clusterodm.admin.views import ClusterStatus
from clusterodm.commands.operated import make_command
from clusterodm.commands.remote import ago, print_table, screen
from clusterodm.core.durations import span
from clusterodm.core.names import printable


def _print(cluster: ClusterStatus) -> None:
    colour = {"healthy": "green", "busy": "blue"}.get(cluster.health, "red")
    about = printable(f"ClusterODM {cluster.version}, started {ago(cluster.started_at)}")
    screen.print(Text(printable(cluster.health), f"bold {colour}"), Text(about), sep="  ")
    for problem in cluster.problems:
        screen.print(Text("  !", "red"), Text(printable(problem)))

    def marked(name: str) -> str:
        return f"{name} (leader)" if name == cluster.leader else name

    trash = f", {cluster.trash_bytes / 1e9:.1f} GB in the trash" if cluster.trash_bytes else ""
    rows = [
        ("nodes", f"{cluster.nodes_online} of {cluster.nodes} online, {cluster.nodes_closed} not accepting tasks"),
        ("slots", f"{cluster.slots_used} of {cluster.slots} used"),
        (
            "tasks",
            f"{cluster.receiving} uploading, {cluster.queued} queued, {cluster.dispatching} being sent, "
            f"{cluster.running} running, {cluster.collecting} being collected",
        ),
        ("finished", f"{cluster.completed} completed, {cluster.failed} failed, {cluster.canceled} canceled"),
        ("wait", f"longest {span(cluster.longest_wait)}, expected for a new task {span(cluster.expected_wait)}"),
        *(
            [
                (
                    "machines",
                    f"{cluster.machines} of {cluster.providers} providers, {cluster.month_cost:.2f} this month",
                )
            ]
            if cluster.providers
            else []
        ),
        *([("replicas", ", ".join(map(marked, cluster.replicas)))] if len(cluster.replicas) > 1 else []),
        ("disk", f"{cluster.held_bytes / 1e9:.1f} GB of held files, room for {cluster.room_bytes / 1e9:.1f} GB{trash}"),
    ]
    print_table(("", ""), rows, empty="")


status = make_command(
    "status",
    _print,
    text="Show the state of the cluster; exit code 1 if there are problems.",
    fails=lambda cluster: cluster.health == "degraded",
)
