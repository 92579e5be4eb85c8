# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""1 GB in, on to a node, back through us, and out of our own results."""

from __future__ import annotations

import asyncio
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.rig import call, code, init, system, until
from bench.scope import GB, ROUNDS, Scope
from clusterodm.aio import Clock
from clusterodm.core.nodes import make_address
from clusterodm.nodeodm import RateLimit, Transfers, Trust


def upload_all(port: int, uuid: str, files: list[Path], *, speed: int = 0) -> None:
    """Send files over ten connections, by sendfile, so that the sender costs next to nothing."""

    async def send() -> None:
        transfers = Transfers(Trust(), RateLimit(speed, Clock()), connections=10, most=1, urgent=True)
        transfer = transfers.to(make_address("127.0.0.1", port), uuid)
        for file in files:
            transfer.add(file, file.stat().st_size)
        transfer.end()
        await transfer.run()
        transfers.close()

    asyncio.run(send())


def pour(port: int, uuid: str, files: list[Path]) -> None:
    """The same to somebody whose answers are not a node's: ten connections, whatever is answered."""

    def lane(mine: list[Path]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for path in mine:
                head = (
                    f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Length: {path.stat().st_size}\r\n\r\n"
                )
                connection.sendall(head.encode())
                with path.open("rb") as file:
                    connection.sendfile(file)
                answer = connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lane, [files[number::10] for number in range(10)]))


def download_all(port: int, path: str) -> None:
    """Read a body and forget it."""
    buffer = bytearray(1 << 20)
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while count := connection.recv_into(buffer):
            total += count
    assert total > GB, total


def measure_bulk(scope: Scope) -> None:
    """All four. One more round than counts: the first touches fresh memory."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ("ingest", "forward", "through", "kept")}

    def note(work: str, name: str, cpu: float) -> None:
        found[work].setdefault(name, []).append(cpu)

    with ExitStack() as stack:
        ours, port, nodes = stack.enter_context(system(scope.folder, scope.large, 1))
        keeper, keeper_port, _ = stack.enter_context(system(scope.folder / "keeper", scope.large, 1, results="keep"))
        nginx, nginx_port, www = stack.enter_context(peers.nginx(scope.folder, nodes[0]))
        haproxy, haproxy_port = stack.enter_context(peers.haproxy(scope.folder, nodes[0]))
        shutil.copyfile(scope.large, www / "large")
        kept = _kept(keeper_port, scope)
        for _ in range(ROUNDS + 1):
            note("ingest", "bare loop", peers.bare_ingest(scope.folder, scope.photos))
            note("ingest", "nginx", nginx.busy(lambda: pour(nginx_port, "x", scope.photos)))
            for each in (www.parent / "body").iterdir():
                each.unlink()
            uuid = init(port)
            note("ingest", "ours", ours.busy(lambda uuid=uuid: upload_all(port, uuid, scope.photos)))  # type: ignore[misc]

            def run(uuid: str = uuid) -> None:
                call(port, "POST", f"/task/new/commit/{uuid}")
                until(lambda: code(port, uuid) == 40, pause=0.1)

            note("forward", "ours", ours.busy(run))
            note("forward", "bare loop", peers.bare_send(scope.photos))
            path = f"/task/{uuid}/download/all.zip"
            for name, measured, at in (
                ("ours", ours, port),
                ("nginx", nginx, nginx_port),
                ("HAProxy", haproxy, haproxy_port),
            ):
                note("through", name, measured.busy(lambda at=at, path=path: download_all(at, path)))  # type: ignore[misc]
            note("kept", "ours", keeper.busy(lambda: download_all(keeper_port, kept)))
            note("kept", "nginx", nginx.busy(lambda: download_all(nginx_port, "/static/large")))
            call(port, "POST", "/task/remove", f"uuid={uuid}".encode())
    for work, title, reach, original in (
        ("ingest", "Ingest of 1 GB in 25 files, 10 connections", 1.0, "2.8-3.8 CPU-s"),
        ("forward", "Forward of 1 GB from disk to a node", 0.25, "0.70-0.75 CPU-s"),
        ("through", "Download of 1 GB through the cluster", 0.40, "1.9-2.4 CPU-s"),
        ("kept", "Download of 1 GB of kept results", 0.30, ""),
    ):
        values = {name: [cpu * 1e9 / GB for cpu in all_of[1:]] for name, all_of in found[work].items()}
        scope.report.add(title, "CPU-s", values, reach=reach, original=original)


def _kept(port: int, scope: Scope) -> str:
    """The path of results that a cluster keeps."""
    uuid = init(port)
    upload_all(port, uuid, scope.photos[:1])
    call(port, "POST", f"/task/new/commit/{uuid}")
    until(lambda: code(port, uuid) == 40, pause=0.1)
    return f"/task/{uuid}/download/all.zip"
