# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm devnode`: a NodeODM-API node for demos, tests and benchmarks."""

from __future__ import annotations

import asyncio
import errno
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from clusterodm.commands.ending import run_until_done
from clusterodm.core.errors import ConfigError
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.devnode.config import NodeConfig, read_config
from clusterodm.devnode.knobs import FAILURES

#: Where a node looks for a free port when it is told none.
_AUTO: Final = range(3000, 5000)


class FastPaths(StrEnum):
    """Values of --fast-paths."""

    ON = "on"
    OFF = "off"


def devnode(
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port; 0: a free one. 3001 by default.")] = None,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    slots: Annotated[
        int | None,
        typer.Option("--slots", "--parallel-queue-processing", "-q", min=1, help="Parallel tasks; 1 by default."),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Largest number of images in a task.")] = None,
    token: Annotated[str, typer.Option(help="Token that clients must send.", envvar="CLUSTERODM_DEVNODE_TOKEN")] = "",
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", "--test-seconds", min=0, help="Seconds that a task takes; 5 by default."),
    ] = None,
    fail: Annotated[str, typer.Option(help=f"Tasks fail with: {', '.join(FAILURES)}.")] = "",
    fail_chance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance of --fail for each task.")] = 1.0,
    test_fail_tasks: Annotated[bool, typer.Option("--test-fail-tasks", help="The same as --fail results.")] = False,
    hang: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that a request is never answered.")] = 0.0,
    drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that an upload's connection is cut.")] = 0.0,
    refuse: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Chance that an upload is answered with 500 and not stored.")
    ] = 0.0,
    test_drop_uploads: Annotated[bool, typer.Option("--test-drop-uploads", help="The same as --refuse 0.5.")] = False,
    slow: Annotated[float, typer.Option(min=0, help="Seconds by which every answer is delayed.")] = 0.0,
    forget: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that a running task is forgotten.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed for --fail-chance and the like, to repeat a run.")] = None,
    cleanup_tasks_after: Annotated[
        int | None, typer.Option(min=1, help="Minutes after which finished tasks are deleted; 2880 by default.")
    ] = None,
    cleanup_uploads_after: Annotated[
        int | None, typer.Option(min=1, help="Minutes after which idle uploads are deleted; 2880 by default.")
    ] = None,
    webhook: Annotated[str, typer.Option(help="URL that is called at the end of every task.")] = "",
    max_concurrency: Annotated[
        int | None, typer.Option(min=1, help="Largest max-concurrency of a task; the default of every task.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with the keys of NodeODM's; flags override it.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for its files; a temporary one by default.")] = None,
    fast_paths: Annotated[
        FastPaths,
        typer.Option(help="off: large uploads go through the web server, too.", envvar="CLUSTERODM_FAST_PATHS"),
    ] = FastPaths.ON,
) -> None:
    """Run a development node, which does no photogrammetry: results contain only what the photos' EXIF says."""
    if fail and fail not in FAILURES:
        raise typer.BadParameter(f"one of {', '.join(FAILURES)}", param_hint="--fail")
    file = read_config(config) if config is not None else NodeConfig(port=3001, test_seconds=5)
    knobs = Knobs(
        slots=slots or file.parallel_queue_processing or 1,
        max_images=max_images or file.max_images,
        token=token or file.token,
        seconds=(file.test_seconds or 0) if seconds is None else seconds,
        fail=fail or ("results" if test_fail_tasks or file.test_fail_tasks else ""),
        fail_chance=fail_chance,
        hang=hang,
        drop=drop,
        refuse=refuse or (0.5 if test_drop_uploads or file.test_drop_uploads else 0.0),
        slow=slow,
        forget=forget,
        cleanup_tasks_after=cleanup_tasks_after or file.cleanup_tasks_after,
        cleanup_uploads_after=cleanup_uploads_after or file.cleanup_uploads_after,
        webhook=webhook or file.webhook,
        max_concurrency=max_concurrency or file.max_concurrency or 0,
        seed=seed,
        fast_paths=fast_paths is FastPaths.ON,
    )
    run_until_done(_devnode(knobs, host, file.port if port is None else port, data_dir))


async def _devnode(knobs: Knobs, host: str, port: int | str, folder: Path | None) -> None:
    """Serve until a signal; then save the list of tasks, as a node does."""
    stop = asyncio.Event()
    for how in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(how, stop.set)
    ports = _AUTO if port == "auto" else [_number(port)]
    for number in ports:
        try:
            async with running_devnode(knobs, folder=folder, host=host, port=number) as (node, opened):
                typer.echo(f"development node (no photogrammetry) on http://{host}:{opened}")
                await stop.wait()
                node.dump()
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or number == ports[-1]:
                raise ConfigError(f"port {number} cannot be opened: {error}") from None


def _number(port: int | str) -> int:
    try:
        return int(port)
    except ValueError:
        raise ConfigError(f"Invalid port: {port}") from None
