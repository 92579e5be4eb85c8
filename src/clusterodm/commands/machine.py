# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm machine ...`: what operators do with machines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from clusterodm.admin.views import CostView, Done, MachineDetail, MachinePlan, MachineView
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

machine = typer.Typer(help="Machines: list, gone, show, plan, costs, keep, release, delete.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A machine's id, or the end of it.")]


@machine.command("list")
def list_(url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Machines that there are."""
    run(_list("machines", url, password, json))


@machine.command()
def gone(url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Machines that were, last one first."""
    run(_list("machines/gone", url, password, json))


async def _list(path: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get(path, list[MachineView])
    if json:
        print_json(found)
        return
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
        for each in found
    ]
    print_table(("machine", "state", "size", "provider", "ordered", "cost>", "tasks>", "why"), rows, empty="None.")


@machine.command()
def show(name: Name, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """A machine and its history: each state that it entered, when and why."""
    run(_show(name, url, password, json))


async def _show(name: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        detail = await api.get(f"machines/{name}", MachineDetail)
    if json:
        print_json(detail)
        return
    about = detail.machine
    place = f"{about.size} in {about.location} ({about.provider})"
    facts = (about.id, about.state, place, f"cost {about.cost:.2f}", f"node {about.node or '-'}")
    screen.print("  ".join(facts), highlight=False, markup=False)
    rows = [(ago(event.at), event.state, escape(event.text)) for event in detail.history]
    print_table(("when", "state", "why"), rows, empty="No history.")


@machine.command()
def plan(
    images: Annotated[int, typer.Argument(min=0, help="How many images a task has.")],
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """What would be created for a task, at what price, and why."""
    run(_plan(images, url, password, json))


async def _plan(images: int, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("machines/plan", MachinePlan, images=images)
    if json:
        print_json(found)
        return
    screen.print(f"{found.why}", highlight=False, markup=False)
    screen.print(found.document, highlight=False, markup=False)


@machine.command()
def costs(
    month: Annotated[str, typer.Option(help="As 2026-11; this month by default.")] = "",
    by: Annotated[str, typer.Option(help="owner, task or machine.")] = "owner",
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """What machines have cost."""
    run(_costs(month, by, url, password, json))


async def _costs(month: str, by: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("machines/costs", list[CostView], month=month, by=by)
    if json:
        print_json(found)
        return
    rows = [(each.key or "(nothing to do)", span(each.hours * 3600), f"{each.amount:.2f}") for each in found]
    print_table((by, "time>", "cost>"), rows, empty="Nothing.")


def _order(verb: Literal["keep", "release"], text: str) -> Any:
    def command(name: Name, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
        run(_carry_out(f"machines/{name}/{verb}", url, password, json))

    command.__doc__ = text
    return command


machine.command("keep")(_order("keep", "Have a machine stay though it has nothing to do."))
machine.command("release")(_order("release", "Let a machine go again when it has nothing to do."))


@machine.command()
def delete(name: Name, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Delete a machine now; its tasks go on elsewhere."""
    run(_carry_out(f"machines/{name}/delete", url, password, json))


async def _carry_out(path: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        done = await api.send("POST", path, Done)
    print_json(done) if json else screen.print(done.text, highlight=False)
