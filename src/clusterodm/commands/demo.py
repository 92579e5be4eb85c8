# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm demo`: a task from upload to results on this machine, in a minute."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import uuid as uuid_module
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clusterodm.commands.ending import run_until_done
from clusterodm.commands.submit import Submission, carry_out, find_files
from clusterodm.core.durations import elapsed
from clusterodm.core.errors import ClusterError
from clusterodm.core.names import printable
from clusterodm.core.nodes import parse_address
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.devnode.photos import make_photos
from clusterodm.observe import configure_logging
from clusterodm.server.app import Cluster, running_cluster
from clusterodm.settings import load_settings

_NODES: Final = 2
_EXPECTED: Final = ("README.txt", "camera_positions.geojson", "contact_sheet.jpg", "report/report.html")


def demo(
    images: Annotated[Path | None, typer.Option(help="Folder of photos; generated ones by default.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-results"),
    count: Annotated[int, typer.Option(min=1, max=1000, help="Photos to generate.")] = 16,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds that a node takes for a task.")] = 6.0,
    port: Annotated[int, typer.Option("--port", "-p", help="Port of the cluster; 0: a free one.")] = 0,
) -> None:
    """Start a cluster with two development nodes, process photos, check the results; keep running in a terminal."""
    configure_logging("warn")
    run_until_done(_demo(images, output, count, seconds, port))


async def _demo(images: Path | None, output: Path, count: int, seconds: float, port: int) -> None:
    screen = Console(soft_wrap=True)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clusterodm-demo-")))
        ports = [(await stack.enter_async_context(running_devnode(Knobs(seconds=seconds))))[1] for _ in range(_NODES)]
        admin_ports = free_ports(2)
        flags = {
            "port": port,
            "host": "127.0.0.1",
            "data_dir": scratch / "data",
            "node": [f"127.0.0.1:{number}" for number in ports],
            "task_poll_interval": 0.5,
            "admin_cli_port": admin_ports[0],
            "admin_web_port": admin_ports[1],
        }
        cluster = await stack.enter_async_context(running_cluster(load_settings(flags, environ={})))
        screen.print(
            f"[bold]cluster[/] on {cluster.url} with two development nodes (no photogrammetry)", highlight=False
        )
        files = (
            find_files([images.expanduser()])
            if images
            else await asyncio.to_thread(make_photos, scratch / "photos", count)
        )
        uuid = await _submit(cluster, files, output, screen)
        _check(output, len(files))
        await _summarize(cluster, uuid, ports, output, screen)
        if sys.stdin.isatty() and sys.stdout.isatty():
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
            await stop.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


async def _submit(cluster: Cluster, files: list[Path], output: Path, screen: Console) -> str:
    uuid = str(uuid_module.uuid4())
    await carry_out(
        Submission(address=parse_address(cluster.url), uuid=uuid, files=files, name="demo", output=output), screen
    )
    return uuid


def _check(output: Path, count: int) -> None:
    """Check that the results are complete and of these photos. Raises ClusterError."""
    missing = [name for name in _EXPECTED if not (output / name).is_file()]
    if missing:
        raise ClusterError(f"the results lack {', '.join(missing)}")
    positions = msgspec.json.decode((output / "camera_positions.geojson").read_bytes())["features"]
    if not 0 < len(positions) <= count:
        raise ClusterError(f"{len(positions)} camera positions for {count} files")


async def _summarize(cluster: Cluster, uuid: str, ports: list[int], output: Path, screen: Console) -> None:
    table = Table(title="Timeline", show_header=False, title_justify="left")
    events = await cluster.context.store.timeline(uuid)
    for event in events:
        table.add_row(f"+{elapsed(events[0].at, event.at):.2f} s", Text(printable(event.text)))
    screen.print(table)
    screen.print(
        f"[green]done[/]: results in {escape(str(output))}/ (open report/report.html there)\n"
        f"  the page        {cluster.admin_url}/   (for operators: nodes, queue, this task)\n"
        f"  the shell       nc 127.0.0.1 {cluster.shell_port}   (HELP lists its commands)\n"
        f"  a node's page   {cluster.url}/   (for users, through the cluster)\n"
        f"  the nodes       {', '.join(f'http://127.0.0.1:{port}' for port in ports)}\n"
        f"  your own photos clusterodm submit FOLDER --url {cluster.url} --output results\n"
        f"  any client      PyODM, CloudODM or WebODM with {cluster.url}",
        highlight=False,
    )
    if sys.stdin.isatty():
        screen.print("The cluster keeps running; stop it with Ctrl-C.")
