# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""kill -9 in each phase: what was accepted goes on by itself."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, web

from tests.processes import Program, program
from tests.support import Rig, eventually, images


async def both(rig: Rig, **settings: Any) -> Program:
    """A program that uses the rig's nodes."""
    nodes = ",".join(f"127.0.0.1:{port}" for port in rig.ports)
    return await rig.stack.enter_async_context(program(rig.folder, **({"node": nodes} if nodes else {}), **settings))


async def test_killed_while_receiving_uploads_go_on_and_whole_files_are_kept(cluster: Rig) -> None:
    await cluster.add_node()
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.init(name="kept")
    await api.upload(uuid, a__jpg=b"whole")
    _reader, writer = await asyncio.open_connection("127.0.0.1", cluster_program.port)
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="images"; filename="b.jpg"\r\n\r\n' + "half" * 100_000
    writer.write(f"{head}Content-Length: 999999\r\n\r\n{part}".encode())
    parts = cluster.folder / "data" / "spool" / uuid / "parts"
    await eventually(lambda: parts.exists() and list(parts.iterdir()))
    await cluster_program.end()
    writer.close()
    await cluster_program.start()
    await api.upload(uuid, b__jpg=b"again")
    await api.commit(uuid)
    info = await api.ends(uuid)
    assert (info["name"], info["imagesCount"]) == ("kept", 2)


async def test_killed_while_queued_the_task_waits_on(cluster: Rig) -> None:
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.create(3, name="queued")
    await cluster_program.end()
    node = await cluster.add_node()
    cluster_program.settings["node"] = f"127.0.0.1:{cluster.ports[0]}"
    await cluster_program.start()
    assert await api.code(uuid) in (10, 20, 40)
    await api.ends(uuid)
    assert node.commits == [uuid]


async def test_killed_while_sending_nothing_is_sent_twice_into_one_attempt(cluster: Rig) -> None:
    node = await cluster.add_node()
    cluster_program = await both(cluster, **{"upload-max-speed": 400_000, "parallel-uploads": 1})
    api = await cluster_program.start()
    uuid = await api.init()
    await api.post(f"/task/new/upload/{uuid}", images({f"{n}.jpg": b"%d" % n * 300_000 for n in range(4)}))
    await api.commit(uuid)

    async def some_have_arrived() -> bool:
        return 0 < len(node.held(uuid)) < 4

    await eventually(some_have_arrived)
    await cluster_program.end()
    cluster_program.settings["upload-max-speed"] = 0
    await cluster_program.start()
    assert (await api.ends(uuid))["imagesCount"] == 4
    assert len(node.commits) == 1
    assert node.commits != [uuid]
    assert node.tasks[node.commits[0]].images_count == 4


async def test_killed_around_the_commit_to_the_node_the_task_runs_once(cluster: Rig) -> None:
    node = await cluster.add_node(slow=0.15, seconds=0.5)
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.create(1)
    await eventually(lambda: node.commits)
    await cluster_program.end()
    await cluster_program.start()
    await api.ends(uuid)
    assert node.commits == [uuid]


async def test_killed_while_running_it_is_followed_again_and_console_lines_only_grow(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=2.0)
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.create(8)

    async def lines() -> list[str]:
        console_lines: list[str] = await api.get(f"/task/{uuid}/output")
        return console_lines

    async def has_lines() -> bool:
        return len(await lines()) >= 3

    await eventually(has_lines)
    before = await lines()
    await cluster_program.end()
    await cluster_program.start()
    assert (await lines())[: len(before)] == before
    await api.ends(uuid)
    after = await lines()
    assert after == node.tasks[uuid].output
    assert node.commits == [uuid]


async def test_killed_before_the_webhook_was_taken_it_is_called_after_the_restart(cluster: Rig) -> None:
    calls: list[Any] = []
    accepting = asyncio.Event()

    async def hook(request: web.Request) -> web.Response:
        calls.append(await request.json())
        return web.Response(status=200 if accepting.is_set() else 503)

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await cluster.add_node()
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.create(webhook=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
    await eventually(lambda: calls)
    await cluster_program.end()
    calls.clear()
    accepting.set()
    await cluster_program.start()
    await eventually(lambda: calls)
    assert calls[0]["uuid"] == uuid
    assert await api.code(uuid) == 40


async def test_a_cancel_interrupted_by_a_kill_reaches_the_node_after_the_restart(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=60)
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    uuid = await api.create()
    await eventually(lambda: node.tasks.get(uuid) and node.tasks[uuid].code == 20)
    await eventually(lambda: _code_is(api, uuid, 20))
    node.knobs.hang = 1.0
    await api.post("/task/cancel", {"uuid": uuid})
    await cluster_program.end()
    assert node.tasks[uuid].code == 20
    node.knobs.hang = 0.0
    await cluster_program.start()
    assert await api.code(uuid) == 50
    await eventually(lambda: node.tasks[uuid].code == 50)


async def _code_is(api: Any, uuid: str, code: int) -> bool:
    return bool(await api.code(uuid) == code)


@pytest.mark.parametrize("seed", range(3))
async def test_killed_again_and_again_no_task_is_lost_and_none_runs_twice_to_its_end(cluster: Rig, seed: int) -> None:
    for _ in range(2):
        await cluster.add_node(seconds=0.3, seed=seed)
    cluster_program = await both(cluster)
    api = await cluster_program.start()
    accepted: list[str] = []
    for round_number in range(4):
        for _ in range(3):
            accepted.append(await api.create(2))
        await asyncio.sleep(0.1 * (seed + round_number))  # the moment of death is what this test varies
        await cluster_program.end()
        await cluster_program.start()
    for uuid in accepted:
        await api.ends(uuid, seconds=40)
    finished = [task.uuid for node in cluster.nodes for task in node.tasks.values() if task.code == 40]
    assert len(finished) == len(set(finished)) == len(accepted)


async def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with program(tmp_path) as first, program(tmp_path) as second:
        await first.start()
        process = await second.spawn()
        assert await process.wait() == 2
        assert "is used by another clusterodm" in second.log.read_text()
        assert "version" in await first.api.get("/info")


async def test_sigterm_lets_a_request_end_and_exits_with_zero(tmp_path: Path) -> None:
    async with program(tmp_path, **{"shutdown-grace": 10}) as running:
        api = await running.start()
        uuid = await api.init()
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = (
            b'--b\r\nContent-Disposition: form-data; name="images"; filename="b.jpg"\r\n\r\n'
            + b"rest" * 100_000
            + b"\r\n--b--\r\n"
        )
        head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-11])
        await writer.drain()
        parts = tmp_path / "data" / "spool" / uuid
        await eventually(parts.exists)
        ending = asyncio.create_task(running.end(signal.SIGTERM))  # noqa: TID251 - awaited below

        async def refused() -> bool:
            try:
                await api.get("/info")
            except (ClientError, OSError):
                return True
            return False

        await eventually(refused)
        writer.write(body[-11:])
        await writer.drain()
        assert await ending == 0
        assert (tmp_path / "data" / "spool" / uuid / "files" / "b.jpg").read_bytes() == b"rest" * 100_000
        writer.close()


async def test_a_folder_that_cannot_be_written_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    async with program(tmp_path) as broken:
        process = await broken.spawn()
        assert await process.wait() == 2
        assert "data folder" in broken.log.read_text()
        assert (tmp_path / "data").read_text() == "a file"


async def test_a_port_that_is_taken_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    async with program(tmp_path / "1") as first, program(tmp_path / "2") as second:
        await first.start()
        second.settings["port"] = first.port
        process = await second.spawn()
        assert await process.wait() == 2
        assert f":{first.port} cannot be opened" in second.log.read_text()
