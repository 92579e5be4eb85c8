# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm machine ...`: operations on machines."""

from __future__ import annotations

import typer

from clusterodm.admin.views import CostView, MachineDetail, MachinePlan, MachineView
from clusterodm.commands.operated import add_commands, print_done
from clusterodm.commands.remote import ago, print_table, print_text
from clusterodm.core.durations import span

machine = typer.Typer(help="Machines: list, gone, show, plan, costs, keep, release, delete.", no_args_is_help=True)


def _print_list(machines: list[MachineView]) -> None:
    rows = [
        (
            each.id,
            f"{each.state}{' (kept)' if each.kept else ''}",
            f"{each.size} in {each.location}{' (spot)' if each.spot else ''}",
            each.provider,
            ago(each.ordered_at),
            f"{each.cost:.2f}",
            len(each.tasks),
            each.reason,
        )
        for each in machines
    ]
    heads = ("machine", "state", "size", "provider", "ordered", "cost>", "tasks>", "why")
    print_table(heads, rows, empty="No machines.")


def _print_detail(detail: MachineDetail) -> None:
    about = detail.machine
    place = f"{about.size} in {about.location} ({about.provider})"
    print_text("  ".join((about.id, about.state, place, f"cost {about.cost:.2f}", f"node {about.node or '-'}")))
    rows = [(ago(event.at), event.state, event.text) for event in detail.history]
    print_table(("when", "state", "why"), rows, empty="No history.")


def _print_plan(plan: MachinePlan) -> None:
    print_text(plan.why)
    print_text(plan.document)


def _print_costs(costs: list[CostView]) -> None:
    rows = [(each.key or "(idle)", span(each.hours * 3600), f"{each.amount:.2f}") for each in costs]
    print_table(("for", "time>", "cost>"), rows, empty="No costs.")


add_commands(
    machine,
    "machine",
    [
        ("list", _print_list),
        ("gone", _print_list),
        ("show", _print_detail),
        ("plan", _print_plan),
        ("costs", _print_costs),
        ("keep", print_done),
        ("release", print_done),
        ("delete", print_done),
    ],
)
