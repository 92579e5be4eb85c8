# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm task ...`: what operators do with tasks."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from clusterodm.admin.views import Done, TaskDetail, TaskPage, TaskView, Why
from clusterodm.commands.remote import (
    DEFAULT_URL,
    Admin,
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
from clusterodm.core.errors import BadRequest
from clusterodm.core.names import printable

task = typer.Typer(
    help="Tasks: list, show, why, cancel, retry, remove, priority, logs, download.", no_args_is_help=True
)

Uuid = Annotated[str, typer.Argument(help="Id of a task; its beginning is enough when that is unique.")]
_POLL: Final = 1.0


@task.command("list")
def list_(
    state: Annotated[str, typer.Option(help="Phases and outcomes, separated by commas.")] = "",
    text: Annotated[str, typer.Option(help="A part of the name.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 30,
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """Tasks, latest commit first."""
    run(_list(state, text, limit, url, password, json))


async def _list(state: str, text: str, limit: int, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        page = await api.get("tasks", TaskPage, state=state, text=text, limit=limit)
    if json:
        print_json(page)
        return
    print_tasks(page.tasks, empty="No task is like that.")
    if page.total > len(page.tasks):
        screen.print(f"{len(page.tasks)} of {page.total}", style="dim")


def print_tasks(tasks: list[TaskView], *, empty: str) -> None:
    """Tasks as a table."""
    rows = [
        (
            each.uuid,
            escape(each.name[:40]),
            _state(each),
            f"{each.progress:.0f} %",
            each.images,
            each.node or "-",
            ago(each.committed_at),
        )
        for each in tasks
    ]
    print_table(("id", "name", "state", "done>", "images>", "node", "committed"), rows, empty=empty)


def _state(each: TaskView) -> str:
    colours = {"completed": "green", "failed": "red", "canceled": "dim", "queued": "yellow", "receiving": "yellow"}
    state = str(each.outcome or each.phase)
    return f"[{colours.get(state, 'blue')}]{state}[/]"


@task.command()
def show(uuid: Uuid, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """All that is known of a task."""
    run(_show(uuid, url, password, json))


async def _show(uuid: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        detail = await api.get(f"tasks/{uuid}", TaskDetail)
    if json:
        print_json(detail)
        return
    about = detail.task
    screen.print(f"[bold]{escape(about.name)}[/]  {_state(about)}  {about.uuid}", highlight=False)
    screen.print(detail.why, highlight=False, markup=False)
    options = " ".join(f"{each.name}={each.value}" for each in detail.options) or "-"
    facts = (
        f"{about.images} images in {about.files} files, {about.bytes:,} bytes",
        f"owner {about.owner}",
        f"priority {about.priority}",
        f"processing {span(about.processing_seconds)}",
        f"options {options}",
    )
    screen.print("\n".join(facts), highlight=False, markup=False)
    tries = [
        (each.number, each.node, ago(each.started_at), escape(each.reason or each.stage)) for each in detail.attempts
    ]
    print_table(("attempt>", "node", "started", "how it went"), tries, empty="No attempt yet.")
    events = [(ago(event.at), escape(event.text)) for event in detail.timeline]
    print_table(("when", "what"), events, empty="")


@task.command()
def why(uuid: Uuid, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Why a task is as it is."""
    run(_why(uuid, url, password, json))


async def _why(uuid: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get(f"tasks/{uuid}/why", Why)
    print_json(found) if json else screen.print(found.why, highlight=False, markup=False)


def _order(method: str, verb: str, text: str) -> Any:
    def command(uuid: Uuid, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
        run(_carry_out(method, f"tasks/{uuid}{verb}", None, url, password, json))

    command.__doc__ = text
    return command


async def _carry_out(method: str, path: str, body: Any, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        done = await api.send(method, path, Done, body)
    print_json(done) if json else screen.print(done.text, highlight=False, markup=False)


task.command("cancel")(_order("POST", "/cancel", "Cancel a task."))
task.command("retry")(_order("POST", "/retry", "Begin a task again, or give it to another node."))
task.command("remove")(_order("DELETE", "", "Remove a task with its files, here and on its node."))


@task.command()
def priority(
    uuid: Uuid,
    value: Annotated[int, typer.Argument(min=-1000, max=1000, help="Higher goes first; 0 is usual.")],
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """Give a task another priority."""
    run(_carry_out("POST", f"tasks/{uuid}/priority", {"priority": value}, url, password, json))


@task.command()
def logs(
    uuid: Uuid,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is over.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Only the last ones; 0: all.")] = 0,
    url: Url = DEFAULT_URL,
    password: Password = "",
) -> None:
    """A task's console."""
    run(_logs(uuid, follow, lines, url, password))


async def _logs(uuid: str, follow: bool, lines: int, url: str, password: str) -> None:
    async with admin(url, password) as api:
        detail = await api.get(f"tasks/{uuid}", TaskDetail)
        line = max(0, detail.console_lines - lines) if lines else 0
        while True:
            over = detail.task.outcome is not None
            line += await _print_lines(api, uuid, line)
            if over or not follow:
                return
            await asyncio.sleep(_POLL)
            detail = await api.get(f"tasks/{uuid}", TaskDetail)


async def _print_lines(api: Admin, uuid: str, line: int) -> int:
    found = await api.get(f"tasks/{uuid}/output", list[str], line=line)
    for text in found:
        typer.echo(printable(text.rstrip()) if sys.stdout.isatty() else text.rstrip("\n"))
    return len(found)


@task.command()
def download(
    uuid: Uuid,
    asset: Annotated[str, typer.Argument(help="all.zip, or one file out of it such as orthophoto.tif.")] = "all.zip",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; the asset's name by default.")
    ] = None,
    url: Url = DEFAULT_URL,
    password: Password = "",
) -> None:
    """A task's results."""
    run(_download(uuid, asset, output or Path(asset.rsplit("/", 1)[-1]), url, password))


async def _download(uuid: str, asset: str, target: Path, url: str, password: str) -> None:
    part = target.with_name(target.name + ".part")
    bars = (TextColumn(target.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        async with admin(url, password) as api, api.stream(f"tasks/{uuid}/download/{asset}") as response:
            with Progress(*bars, console=screen) as shown, part.open("wb") as file:
                bar = shown.add_task("", total=response.content_length)
                async for block in response.content.iter_chunked(1 << 20):
                    await asyncio.to_thread(file.write, block)
                    shown.advance(bar, len(block))
        part.rename(target)
    except OSError as error:
        raise BadRequest(f"{target} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
