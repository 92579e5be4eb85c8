# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm submit`: send photos to a node or cluster, show the progress, fetch the results."""

from __future__ import annotations

import asyncio
import os
import uuid as uuid_module
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from clusterodm.commands.client import Remote, unpack
from clusterodm.commands.ending import run_until_done
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError, ConfigError
from clusterodm.core.names import printable
from clusterodm.core.nodes import NodeAddress, parse_address
from clusterodm.core.tasks import CANCELED_CODE, COMPLETED_CODE, FAILED_CODE
from clusterodm.nodeodm import Snapshot

_POLL: Final = 1.0
_NAMES: Final = {
    10: "queued",
    20: "running",
    FAILED_CODE: "failed",
    COMPLETED_CODE: "completed",
    CANCELED_CODE: "canceled",
}


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A task and where to send it."""

    address: NodeAddress
    uuid: str
    files: list[Path]
    name: str = ""
    options: list[dict[str, Any]] = []
    parallel: int = 4
    wait: bool = True
    output: Path | None = None


def submit(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Folders and files: photos, GCP files, ...", show_default=False)
    ] = None,
    url: Annotated[
        str, typer.Option("--url", help="Node or cluster, such as http://host:3000.", envvar="CLUSTERODM_URL")
    ] = "http://localhost:3000",
    token: Annotated[
        str, typer.Option(help="Token that it requires.", envvar="CLUSTERODM_TOKEN", show_envvar=True)
    ] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Task option as name=value; can be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the task.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the task until it ends.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to unpack the results into; implies --wait.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Parallel uploads.")] = 4,
    resume: Annotated[str, typer.Option(help="Continue the task of an earlier submit.", metavar="UUID")] = "",
) -> None:
    """Send photos to a node or cluster, follow the task, fetch the results."""
    if not images and not resume:
        raise typer.BadParameter("name at least one photo or folder", param_hint="IMAGES")
    address = parse_address(url if "//" in url else f"http://{url}")
    work = Submission(
        address=msgspec.structs.replace(address, token=token or address.token),
        uuid=resume or str(uuid_module.uuid4()),
        files=find_files(images or []),
        name=name,
        options=read_options(option or []),
        parallel=parallel,
        wait=wait or output is not None,
        output=output,
    )
    screen = Console(stderr=False)
    try:
        run_until_done(carry_out(work, screen))
    except SystemExit as end:
        if end.code == 130:
            run_until_done(_interrupted(work, screen))
        raise


def find_files(images: Iterable[Path]) -> list[Path]:
    """Return all files, those of folders one level deep. Raises ConfigError for a missing one."""
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if not inside:
                raise ConfigError(f"there are no files in {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path} does not exist")
    return files


def read_options(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Parse `name=value`, or `name` alone for true. Raises ConfigError."""
    options = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not name.strip():
            raise ConfigError(f"invalid option {text!r}: it must look like name=value")
        options.append({"name": name.strip().lstrip("-"), "value": value if equals else True})
    return options


async def carry_out(work: Submission, screen: Console) -> Snapshot | None:
    """Send, follow and fetch a task. Raises ClusterError if it does not complete."""
    async with aiohttp.ClientSession(headers={"User-Agent": PROGRAM}) as session:
        remote = Remote(session, work.address)
        remote.on_trouble = lambda line: screen.print(printable(line), style="yellow", highlight=False, markup=False)
        if work.files and not await _committed(remote, work.uuid):
            await _send(remote, work, screen)
        screen.print(printable(f"task {work.uuid} on {work.address.url}"), highlight=False, markup=False)
        if not work.wait:
            return None
        snapshot = await _follow(remote, work, screen)
        if snapshot.status.code != COMPLETED_CODE:
            why = snapshot.status.error_message or "no reason was given"
            raise ClusterError(printable(f"the task {_NAMES[snapshot.status.code]}: {why}"))
        if work.output is not None:
            await _fetch(remote, work, work.output, screen)
        return snapshot


async def _committed(remote: Remote, uuid: str) -> bool:
    """Return True if an earlier submit got as far as the commit."""
    return await remote.known(uuid)


async def _send(remote: Remote, work: Submission, screen: Console) -> None:
    await remote.init(work.uuid, work.name or _default_name(work.files), work.options)
    total = sum(path.stat().st_size for path in work.files)
    bars = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*bars, console=screen) as progress:
        bar = progress.add_task(f"sending {len(work.files)} files", total=total)
        waiting = iter(work.files)

        async def lane() -> None:
            for path in waiting:
                await remote.upload(work.uuid, path, lambda count: progress.advance(bar, count))

        async with asyncio.TaskGroup() as group:
            for _ in range(work.parallel):
                group.create_task(lane())
    await remote.commit(work.uuid)


def _default_name(files: list[Path]) -> str:
    return files[0].resolve().parent.name


async def _follow(remote: Remote, work: Submission, screen: Console) -> Snapshot:
    line = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=screen,
    ) as progress:
        bar = progress.add_task("queued", total=100)
        while True:
            snapshot = await remote.look(work.uuid, line)
            line += len(snapshot.output)
            _print_console(progress, snapshot)
            progress.update(bar, description=_NAMES.get(snapshot.status.code, "?"), completed=snapshot.progress)
            if snapshot.status.code >= FAILED_CODE:
                return snapshot
            await asyncio.sleep(_POLL)


def _print_console(progress: Progress, snapshot: Snapshot) -> None:
    for text in snapshot.output:
        progress.console.print(printable(text.rstrip()), style="dim", markup=False, highlight=False)


async def _fetch(remote: Remote, work: Submission, folder: Path, screen: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "all.zip"
    bars = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*bars, console=screen) as progress:
        bar: TaskID = progress.add_task("fetching results", total=None)
        await remote.download(work.uuid, archive, lambda have, total: progress.update(bar, completed=have, total=total))
    names = await asyncio.to_thread(unpack, archive, folder)
    screen.print(printable(f"{len(names)} files in {folder}{os.sep}"), highlight=False, markup=False)


async def _interrupted(work: Submission, screen: Console) -> None:
    """Offer to cancel the task after Ctrl-C; otherwise it continues."""
    async with aiohttp.ClientSession(headers={"User-Agent": PROGRAM}) as session:
        remote = Remote(session, work.address, patience=0)
        with suppress(ClusterError):
            if (
                await remote.known(work.uuid)
                and screen.is_terminal
                and typer.confirm("\nCancel the task?", default=False)
            ):
                await remote.cancel(work.uuid)
                screen.print("canceled")
                return
    files = " ".join(str(path) for path in work.files[:1]) + (" ..." if len(work.files) > 1 else "")
    screen.print()
    command = f"clusterodm submit --url {work.address.url} --resume {work.uuid} --wait {files}"
    screen.print(printable(f"continue with: {command}"), highlight=False, markup=False)
