# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small requests: what one costs, and how long one takes while many others are there."""

from __future__ import annotations

import socket
import statistics
import subprocess
from contextlib import ExitStack

from bench import peers
from bench.rig import Measured, call, code, init, python, small_upload, system, until
from bench.scope import QUICK, ROUNDS, SECONDS, Scope


def completed(port: int) -> str:
    """A task that is over."""
    uuid = init(port)
    small_upload(port, uuid)
    call(port, "POST", f"/task/new/commit/{uuid}")
    until(lambda: code(port, uuid) == 40)
    return uuid


def requests_cpu(measured: Measured, port: int, path: str) -> float:
    """CPU microseconds per request, keep-alive, 32 connections."""
    before = measured.cpu()
    command = ["wrk", "-c32", "-t1", f"-d{SECONDS}s", f"http://127.0.0.1:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count = int(next(line.split()[0] for line in output.splitlines() if "requests in" in line))
    assert "Non-2xx" not in output, output
    return (measured.cpu() - before) / count * 1e6


def _body(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.partition(b"\r\n\r\n")[2]


def measure_info(scope: Scope) -> None:
    """`/task/<id>/info`, and a tail of the console."""
    with ExitStack() as stack:
        ours, port, nodes = stack.enter_context(system(scope.folder, scope.large, 1))
        uuid = completed(port)
        path = f"/task/{uuid}/info"
        body = _body(port, path)
        nginx, nginx_port, www = stack.enter_context(peers.nginx(scope.folder, nodes[0]))
        haproxy, haproxy_port = stack.enter_context(peers.haproxy(scope.folder, nodes[0]))
        plain, plain_port = stack.enter_context(peers.plain(body, scope.folder, path))
        (www / "info").write_bytes(body)
        found: dict[str, list[float]] = {}
        static: list[float] = []
        tail: list[float] = []
        for _ in range(ROUNDS):
            for name, measured, at in (
                ("ours", ours, port),
                ("plain aiohttp", plain, plain_port),
                ("nginx", nginx, nginx_port),
                ("HAProxy", haproxy, haproxy_port),
            ):
                found.setdefault(name, []).append(requests_cpu(measured, at, path))
            static.append(requests_cpu(nginx, nginx_port, "/static/info"))
            tail.append(requests_cpu(ours, port, f"{path}?with_output=-10"))
        add = scope.report.add
        add("`/task/id/info`, keep-alive, 32 connections", "us", found, reach=60, original="308-354 us", digits=0)
        add("the same with a tail of the console", "us", {"ours": tail}, reach=None, digits=0)
        ratio = {"ours": [statistics.median(found["ours"]) / statistics.median(static)]}
        add("the first against nginx with the same bytes as a static file", "x", ratio, reach=None)


def measure_crowd(scope: Scope) -> None:
    """How long `/info` takes while 1,000 pollers and 50 uploads are there; they and we share this machine's cores."""
    with system(scope.folder, scope.large, 1) as (_, port, _):
        uuid = completed(port)
        command = python("-m", "bench.crowd", port, uuid, 1000, 50, 4_000_000, 5 if QUICK else 20)
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    took = sorted(map(float, lines))
    work = "`/info` with 1,000 pollers and 50 uploads at once, 99 of 100 within"
    scope.report.add(work, "ms", {"ours": [took[int(len(took) * 0.99)]]}, reach=100, digits=0)
