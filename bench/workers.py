# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One process against several on one host: reads, uploads and whole small tasks.

    python -m bench.workers

wrk, the clients and the cluster share the machine's cores, so what counts are the ratios within one run.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tests.postgres import Server, running_postgres

from bench.rig import Measured, answers, call, cluster, code, free_ports, init, python, small_upload, started, until

ROUNDS = 3
SECONDS = 4
TASKS = 60
UPLOADS = 16
MB = 1 << 20
KINDS = ("1 process, SQLite", "1 process, PostgreSQL", "2 workers", "4 workers")


@contextmanager
def one(kind: str, folder: Path, server: Server) -> Iterator[tuple[int, Measured]]:
    """A cluster of that kind with a node; its port."""
    with ExitStack() as stack:
        port, node = free_ports(1), free_ports(2) + 1
        flags = ["--port", node, "--seconds", 0, "--slots", 100, "--data-dir", folder / "node"]
        stack.enter_context(started(*python("-m", "clusterodm", "devnode", *flags), ready=answers(node)))
        settings: dict[str, object] = {}
        if "SQLite" not in kind:
            settings = {"database-url": server.new_database(), "workers": int(kind[0])}
        yield port, stack.enter_context(cluster(folder / "data", port, [node], **settings))


def reads(port: int, measured: Measured, uuid: str) -> tuple[float, float]:
    """(requests a second, CPU microseconds a request) of /task/id/info with 32 connections."""
    before = measured.cpu()
    url = f"http://127.0.0.1:{port}/task/{uuid}/info"
    out = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{SECONDS}s", url], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+) requests in", out)
    assert found is not None
    count = int(found[1])
    return count / SECONDS, (measured.cpu() - before) / count * 1e6


def uploads(port: int) -> float:
    """MB a second over 8 connections."""
    body = b"x" * (32 * MB)
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="%d.jpg"\r\n\r\n'
    uuid = init(port)

    def send(number: int) -> None:
        content = head % number + body + b"\r\n--b--\r\n"
        call(port, "POST", f"/task/new/upload/{uuid}", content, Content_Type="multipart/form-data; boundary=b")

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(UPLOADS)))
    return UPLOADS * 32 / (time.monotonic() - began)


def tasks(port: int) -> float:
    """Whole small tasks a second, 8 at a time."""

    def whole(_: int) -> None:
        uuid = init(port)
        small_upload(port, uuid)
        call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: code(port, uuid) == 40, pause=0.05)

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(whole, range(TASKS)))
    return TASKS / (time.monotonic() - began)


def main() -> None:
    """Print a table of medians."""
    found: dict[str, list[tuple[float, float, float, float]]] = {kind: [] for kind in KINDS}
    with running_postgres() as server:
        for _ in range(ROUNDS):
            for kind in KINDS:
                with tempfile.TemporaryDirectory() as folder, one(kind, Path(folder), server) as (port, measured):
                    until(lambda port=port: call(port, "GET", "/info").get("maxParallelTasks", 0) > 1)  # type: ignore[misc]
                    uuid = init(port)
                    small_upload(port, uuid)
                    call(port, "POST", f"/task/new/commit/{uuid}")
                    rate, cost = reads(port, measured, uuid)
                    found[kind].append((rate, cost, uploads(port), tasks(port)))
    print(f"{os.cpu_count()} cores, medians of {ROUNDS}\n")
    print("| | reads/s | CPU us a read | uploads MB/s | small tasks/s |")
    print("|---|---|---|---|---|")
    for kind, rows in found.items():
        rate, cost, speed, done = (median(column) for column in zip(*rows, strict=True))
        print(f"| {kind} | {rate:.0f} | {cost:.0f} | {speed:.0f} | {done:.1f} |")


if __name__ == "__main__":
    main()
