# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands, as processes, as people use them."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from pathlib import Path
from typing import Any

from clusterodm.devnode.photos import make_photos
from tests.processes import free_port
from tests.support import Rig, eventually


async def run(*arguments: Any, seconds: float = 60, **environ: str) -> tuple[int, str]:
    """Run `clusterodm ...`; its exit status and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clusterodm",
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | environ,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode()


async def test_submit_sends_waits_and_fetches(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node()
    await cluster.start(token="hush-client")
    make_photos(tmp_path / "photos", 3)
    out = tmp_path / "out"
    code, text = await run(
        "submit", tmp_path / "photos", "--url", cluster.cluster.url, "-o", "dsm", "-o", "orthophoto-resolution=3",
        "--name", "mine", "--output", out, CLUSTERODM_TOKEN="hush-client",
    )  # fmt: skip
    assert code == 0, text
    assert "hush-client" not in text
    assert (out / "report" / "report.html").is_file()
    task = next(iter(cluster.nodes[0].tasks.values()))
    assert task.name == "mine"
    own = [each for each in task.options if each["name"] in ("dsm", "orthophoto-resolution")]
    assert own == [{"name": "orthophoto-resolution", "value": 3}, {"name": "dsm", "value": True}] or own == [
        {"name": "dsm", "value": True},
        {"name": "orthophoto-resolution", "value": 3},
    ]


async def test_submit_goes_on_after_the_cluster_was_away_and_sends_nothing_twice(cluster: Rig, tmp_path: Path) -> None:
    tried = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()
        tried.set()

    await cluster.add_node()
    photos = make_photos(tmp_path / "photos", 3)
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as dead_server, asyncio.TaskGroup() as group:
        port = dead_server.sockets[0].getsockname()[1]
        work = group.create_task(run("submit", *photos, "--url", f"http://127.0.0.1:{port}", "--wait"))
        await tried.wait()
        dead_server.close()
        await cluster.start(port=port)
    code, text = work.result()
    assert code == 0, text
    assert "retrying in" in text
    assert next(iter(cluster.nodes[0].tasks.values())).images_count == 3


async def test_submit_says_why_a_task_failed(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(fail="dataset")
    await cluster.start()
    make_photos(tmp_path / "photos", 1)
    code, text = await run("submit", tmp_path / "photos", "--url", cluster.cluster.url, "--wait")
    assert code == 1
    assert "the task failed: Cannot process dataset" in text
    assert "Traceback" not in text


async def test_submit_explains_wrong_calls(tmp_path: Path) -> None:
    assert (await run("submit"))[0] == 2
    code, text = await run("submit", tmp_path / "nothing", "--url", "http://127.0.0.1:1")
    assert (code, text.strip()) == (2, f"clusterodm: {tmp_path / 'nothing'} does not exist")


async def test_ctrl_c_offers_to_cancel_and_says_how_to_go_on(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(seconds=60)
    await cluster.start()
    make_photos(tmp_path / "photos", 1)
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clusterodm", "submit", str(tmp_path / "photos"), "--url", cluster.cluster.url, "--wait",
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    screen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(master, lambda: _read(master, screen, loop))
    await eventually(lambda: cluster.nodes[0].busy() and b"Development node" in screen)
    process.send_signal(signal.SIGINT)
    await eventually(lambda: b"Cancel the task?" in screen)
    os.write(master, b"y\n")
    assert await asyncio.wait_for(process.wait(), 20) == 130
    await eventually(lambda: b"canceled" in screen)
    await eventually(lambda: next(iter(cluster.nodes[0].tasks.values())).code == 50)
    loop.remove_reader(master)
    os.close(master)


def _read(master: int, screen: bytearray, loop: asyncio.AbstractEventLoop) -> None:
    try:
        screen.extend(os.read(master, 65536))
    except OSError:
        loop.remove_reader(master)


async def test_the_demo_runs_to_its_end_and_stops_without_viewers(tmp_path: Path) -> None:
    code, text = await run("demo", "--seconds", 0.5, "--count", 4, "--output", tmp_path / "out")
    assert code == 0, text
    assert "done: results in" in text
    assert (tmp_path / "out" / "camera_positions.geojson").is_file()


async def test_a_development_node_runs_as_a_command(cluster: Rig, tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clusterodm", "devnode", "--port", str(port), "--seconds", "0", "--slots", "3",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert b"no photogrammetry" in await process.stdout.readline()
    cluster.ports.append(port)
    api = await cluster.start()
    await api.ends(await api.create())
    assert (await api.get("/info"))["maxParallelTasks"] == 3
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0  # as a real node


async def test_help_and_version_are_quick_to_have() -> None:
    assert (await run("--version"))[1].startswith("clusterodm 0.")
    for command in ("serve", "submit", "devnode", "demo"):
        code, text = await run(command, "--help")
        assert code == 0
        assert "Options:" in text
