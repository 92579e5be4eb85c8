# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm devnode`: a NodeODM-API node for demos, tests and benchmarks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from clusterodm.commands.ending import run_until_done
from clusterodm.core.errors import ConfigError
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.devnode.node import FAILURES


def devnode(
    port: Annotated[int, typer.Option("--port", "-p", help="Port; 0: a free one.")] = 3001,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    slots: Annotated[int, typer.Option(min=1, help="Tasks at the same time.")] = 1,
    max_images: Annotated[int | None, typer.Option(min=1, help="Images that one task may have.")] = None,
    token: Annotated[str, typer.Option(help="Token that clients must send.", envvar="CLUSTERODM_DEVNODE_TOKEN")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="Time that a task takes.")] = 5.0,
    fail: Annotated[str, typer.Option(help=f"Tasks fail with: {', '.join(FAILURES)}.")] = "",
    fail_chance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance of --fail for each task.")] = 1.0,
    hang: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that a request is never answered.")] = 0.0,
    drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that an upload's connection is cut.")] = 0.0,
    slow: Annotated[float, typer.Option(min=0, help="Seconds that every answer is late.")] = 0.0,
    forget: Annotated[float, typer.Option(min=0.0, max=1.0, help="Chance that a running task is forgotten.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the chances, to repeat a run.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file as NodeODM takes it: port, token, maxImages, parallelQueueProcessing."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for its files; a temporary one by default.")] = None,
) -> None:
    """Run a development node. It does no photogrammetry: results show only what the photos' EXIF says."""
    if fail and fail not in FAILURES:
        raise typer.BadParameter(f"one of {', '.join(FAILURES)}", param_hint="--fail")
    knobs = Knobs(
        slots=slots,
        max_images=max_images,
        token=token,
        seconds=seconds,
        fail=fail,
        fail_chance=fail_chance,
        hang=hang,
        drop=drop,
        slow=slow,
        forget=forget,
        seed=seed,
    )
    if config is not None:
        said = _read(config)
        knobs.token, knobs.max_images, knobs.slots = said.token, said.max_images, said.slots
        port = said.port
    run_until_done(_devnode(knobs, host, port, data_dir))


class _NodeConfig(msgspec.Struct, rename="camel"):
    """What there is of NodeODM's configuration here."""

    port: int = 3000
    token: str = ""
    max_images: int | None = None
    slots: int = msgspec.field(default=1, name="parallelQueueProcessing")


def _read(path: Path) -> _NodeConfig:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_NodeConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be used: {error}") from None


async def _devnode(knobs: Knobs, host: str, port: int, folder: Path | None) -> None:
    try:
        async with running_devnode(knobs, folder=folder, host=host, port=port) as (_, opened):
            typer.echo(f"development node (no photogrammetry) on http://{host}:{opened}")
            await asyncio.Event().wait()
    except* OSError as group:
        raise ConfigError(f"port {port} cannot be opened: {group.exceptions[0]}") from None
