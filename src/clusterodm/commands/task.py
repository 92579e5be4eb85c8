# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm task ...`: operations on tasks."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from clusterodm.admin.operations.table import COMMANDS
from clusterodm.admin.views import TaskDetail, TaskPage, TaskView, Why
from clusterodm.commands.operated import add_commands, make_command, print_done
from clusterodm.commands.remote import (
    DEFAULT_URL,
    Admin,
    Password,
    Url,
    admin,
    ago,
    print_table,
    print_text,
    run,
    screen,
)
from clusterodm.core.durations import span
from clusterodm.core.errors import BadRequest
from clusterodm.core.names import printable

task = typer.Typer(
    help="Tasks: list, show, why, cancel, retry, remove, priority, logs, download.", no_args_is_help=True
)

Uuid = Annotated[str, typer.Argument(help="Id of a task, or a unique prefix of it.")]
_POLL: Final = 1.0


def _print_page(page: TaskPage) -> None:
    rows = [
        (
            each.uuid,
            each.name[:40],
            _state(each),
            f"{each.progress:.0f} %",
            each.images,
            each.node or "-",
            ago(each.committed_at),
        )
        for each in page.tasks
    ]
    heads = ("id", "name", "state", "done>", "images>", "node", "committed")
    print_table(heads, rows, empty="No matching tasks.")
    if page.total > len(page.tasks):
        screen.print(f"{len(page.tasks)} of {page.total}", style="dim")


def _state(each: TaskView) -> Text:
    colours = {"completed": "green", "failed": "red", "canceled": "dim", "queued": "yellow", "receiving": "yellow"}
    state = str(each.outcome or each.phase)
    return Text(state, colours.get(state, "blue"))


def _print_detail(detail: TaskDetail) -> None:
    about = detail.task
    screen.print(Text(printable(about.name), "bold"), _state(about), Text(printable(about.uuid)), sep="  ")
    print_text(detail.why)
    options = " ".join(f"{each.name}={each.value}" for each in detail.options) or "-"
    facts = (
        f"{about.images} images in {about.files} files, {about.bytes:,} bytes",
        f"owner {about.owner}",
        f"priority {about.priority}",
        f"processing {span(about.processing_seconds)}",
        f"options {options}",
    )
    print_text("\n".join(map(printable, facts)))
    attempts = [(each.number, each.node, ago(each.started_at), each.reason or each.stage) for each in detail.attempts]
    print_table(("attempt>", "node", "started", "result"), attempts, empty="No attempts yet.")
    events = [(ago(event.at), event.text) for event in detail.timeline]
    print_table(("when", "what"), events, empty="")


def _print_why(why: Why) -> None:
    print_text(why.why)


task.command("list")(make_command("task list", _print_page, limit=30))
add_commands(
    task,
    "task",
    [
        ("show", _print_detail),
        ("why", _print_why),
        ("cancel", print_done),
        ("retry", print_done),
        ("remove", print_done),
        ("priority", print_done),
    ],
)


@task.command(help=COMMANDS["task logs"].summary)
def logs(
    uuid: Uuid,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the console until the task ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show only the last lines; 0: all.")] = 0,
    url: Url = DEFAULT_URL,
    password: Password = "",
) -> None:
    """Print the console of a task."""
    run(_logs(uuid, follow, lines, url, password))


async def _logs(uuid: str, follow: bool, lines: int, url: str, password: str) -> None:
    async with admin(url, password) as api:
        detail = await api.call(COMMANDS["task show"], uuid)
        line = max(0, detail.console_lines - lines) if lines else 0
        while True:
            is_over = detail.task.outcome is not None
            line += await _print_lines(api, uuid, line)
            if is_over or not follow:
                return
            await asyncio.sleep(_POLL)
            detail = await api.call(COMMANDS["task show"], uuid)


async def _print_lines(api: Admin, uuid: str, line: int) -> int:
    lines: list[str] = await api.call(COMMANDS["task logs"], uuid, line=line)
    for text in lines:
        typer.echo(printable(text.rstrip()) if sys.stdout.isatty() else text.rstrip("\n"))
    return len(lines)


@task.command()
def download(
    uuid: Uuid,
    asset: Annotated[str, typer.Argument(help="all.zip, or a file in it such as orthophoto.tif.")] = "all.zip",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default the asset's name.")
    ] = None,
    url: Url = DEFAULT_URL,
    password: Password = "",
) -> None:
    """Download the results of a task."""
    run(_download(uuid, asset, output or Path(asset.rsplit("/", 1)[-1]), url, password))


async def _download(uuid: str, asset: str, target: Path, url: str, password: str) -> None:
    part = target.with_name(target.name + ".part")
    bars = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    path = f"tasks/{quote(uuid, safe='')}/download/{quote(asset)}"
    try:
        async with admin(url, password) as api, api.stream(path) as response:
            with Progress(*bars, console=screen) as progress, part.open("wb") as file:
                bar = progress.add_task(printable(target.name), total=response.content_length)
                async for block in response.content.iter_chunked(1 << 20):
                    await asyncio.to_thread(file.write, block)
                    progress.advance(bar, len(block))
        part.rename(target)
    except OSError as error:
        raise BadRequest(f"{target} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
