"""Measure everything in one run, print ratios, write docs/performance.md.

python -m bench [--quick]
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rig import Measured, answers, call, cluster, code, init, python, small_upload, started, until
from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Outcome, Phase, Task
from clusterodm.nodeodm import RateLimit, Transfer, Trust
from clusterodm.store import Store

QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 3
GB = 200_000_000 if QUICK else 1_000_000_000
FILES = 25
SECONDS = 2 if QUICK else 5
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
uwsgi_temp_path {folder}; scgi_temp_path {folder};
server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ root {folder}/www;
default_type application/json; }} }} }}
"""

WHY = """
## What the ingest costs

Sampled (`perf record -e cpu-clock`), two thirds are the kernel's two copies, out of the socket and into fresh pages of
the page cache, which the bare loop pays too and which vary from round to round with where those pages come from. An
eighth is the search for the boundary. Large bodies of known length on plain connections are received straight into the
blocks that are written (`proxy/body.py`); over HTTPS, chunked or small, the server's own parser copies each byte twice
more, which costs a fifth. Blocks of 256 KB cost a fifth more than those of 512 KB, in hops to the threads that write.
Nothing is written on the event loop: a disk that hangs would then hang every poller.
"""


@dataclass
class Report:
    """Rows of the table, the peak memory of each cluster that was measured, and the file that nodes deliver."""

    large: Path
    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def add(self, what: str, found: str, wanted: str, fine: bool) -> None:
        """One line, printed at once."""
        self.rows.append((what, found, wanted, fine))
        print(f"{'ok  ' if fine else 'MISS'} {what}: {found} (wanted {wanted})", flush=True)


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in range(20_000, 60_000, 500):
        try:
            for number in range(count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


@contextmanager
def nodes(large: Path, count: int, hung: int = 0) -> Iterator[list[int]]:
    """`count` cheap nodes in one process."""
    first = free_ports(count)
    command = python("-m", "bench.node", first, count, large, hung)
    with started(*command, ready=answers(first)):
        yield list(range(first, first + count))


@contextmanager
def system(
    folder: Path, count: int, report: Report, hung: int = 0, **settings: object
) -> Iterator[tuple[Measured, int, list[int]]]:
    """Nodes and a cluster in front of them."""
    with nodes(report.large, count, hung) as ports:
        port = free_ports(1)
        with cluster(folder / "data", port, ports, **settings) as measured:
            until(lambda: call(port, "GET", "/info")["engineVersion"] == "bench")
            yield measured, port, ports
            report.peaks.append(measured.peak_mb())


# Small requests


def requests_cpu(measured: Measured, port: int, path: str) -> float:
    """CPU microseconds per request, keep-alive, 32 connections."""
    before = measured.cpu()
    command = ["wrk", "-c32", "-t1", f"-d{SECONDS}s", f"http://127.0.0.1:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count = int(next(line.split()[0] for line in output.splitlines() if "requests in" in line))
    assert "Non-2xx" not in output, output
    return (measured.cpu() - before) / count * 1e6


def measure_info(folder: Path, report: Report) -> None:
    """`/task/<id>/info` against a plain handler and nginx with the same bytes."""
    with ExitStack() as stack:
        measured, port, _ = stack.enter_context(system(folder, 1, report))
        uuid = init(port)
        small_upload(port, uuid)
        call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: code(port, uuid) == 40)
        path = f"/task/{uuid}/info"
        body = folder / "www" / "task" / uuid / "info"
        body.parent.mkdir(parents=True)
        body.write_bytes(_body(port, path))
        plain_port, nginx_port = free_ports(2), 0
        plain = stack.enter_context(
            started(*python("-m", "bench.peers", plain_port, body), ready=answers(plain_port, path))
        )
        nginx_port = free_ports(1)
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=nginx_port))
        nginx = stack.enter_context(
            started("nginx", "-c", str(config), "-e", "/dev/null", ready=answers(nginx_port, path))
        )
        ours, theirs, fastest = [], [], []
        for _ in range(ROUNDS):  # in turns, so that all three see the same machine
            ours.append(requests_cpu(measured, port, path))
            theirs.append(requests_cpu(plain, plain_port, path))
            fastest.append(requests_cpu(nginx, nginx_port, path))
    mine, handler, static = map(statistics.median, (ours, theirs, fastest))
    report.add(
        "`/task/id/info`, CPU per request against a plain aiohttp handler",
        f"{mine / handler:.2f}x ({mine:.0f} us; plain {handler:.0f} us; nginx, a static file, {static:.0f} us)",
        "<= 1.6x",
        mine / handler <= 1.6,
    )


def _body(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.partition(b"\r\n\r\n")[2]


# Bulk


def upload_all(port: int, uuid: str, files: list[Path]) -> None:
    """Send files over 10 connections, by sendfile, so that the sender costs next to nothing."""

    async def send() -> None:
        with ThreadPoolExecutor(10) as threads:
            node = make_address("127.0.0.1", port)
            transfer = Transfer(
                node,
                uuid,
                connections=10,
                urgent=True,
                limit=RateLimit(0),
                executor=threads,
                tls=Trust().context(node),
            )
            for file in files:
                transfer.add(file)
            transfer.end()
            await transfer.run()

    asyncio.run(send())


def download_all(port: int, path: str) -> int:
    """Read a body and forget it; its size."""
    buffer = bytearray(1 << 20)
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while count := connection.recv_into(buffer):
            total += count
    return total


def bare_ingest(folder: Path, files: list[Path]) -> float:
    """CPU seconds of the least that a program can do: read a socket into one buffer, write it to a file."""

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for path in files:
                with path.open("rb") as file:
                    connection.sendfile(file)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send, server.getsockname()[1])
        connection, _ = server.accept()
        buffer = bytearray(256 << 10)
        view = memoryview(buffer)
        before = time.thread_time()
        with connection, tempfile.TemporaryFile(dir=folder) as target:
            while count := connection.recv_into(buffer):
                target.write(view[:count])
        sending.result()
        return time.thread_time() - before


def measure_bulk(folder: Path, report: Report) -> None:
    """1 GB in, on to a node, and back through us. One more round than counts: the first touches fresh memory."""
    files = [folder / "photos" / f"{number}.jpg" for number in range(FILES)]
    ingest: list[float] = []
    forward: list[float] = []
    through: list[float] = []
    bare: list[float] = []
    with system(folder, 1, report) as (measured, port, _):
        for _ in range(ROUNDS + 1):
            bare.append(bare_ingest(folder, files))
            uuid = init(port)
            ingest.append(_cpu(measured, lambda uuid=uuid: upload_all(port, uuid, files)))  # type: ignore[misc]

            def run(uuid: str = uuid) -> None:
                call(port, "POST", f"/task/new/commit/{uuid}")
                until(lambda: code(port, uuid) == 40, pause=0.1)

            forward.append(_cpu(measured, run))
            path = f"/task/{uuid}/download/all.zip"
            through.append(_cpu(measured, lambda path=path: _whole(port, path)))  # type: ignore[misc]
            call(port, "POST", "/task/remove", f"uuid={uuid}".encode())
    per_gb = 1e9 / GB
    for what, found, wanted in (
        ("Ingest of 1 GB in 25 files over 10 connections", ingest, 1.0),
        ("Forward of 1 GB from disk to a node", forward, 0.3),
        ("Download of 1 GB through us", through, 0.6),
    ):
        cost = statistics.median(found[1:]) * per_gb
        report.add(what, f"{cost:.2f} CPU-s", f"<= {wanted} CPU-s", cost <= wanted)

    ratio = statistics.median(ingest[1:]) / statistics.median(bare[1:])
    cost = statistics.median(bare[1:]) * per_gb
    report.add(
        "The same ingest against a bare loop from socket to file", f"{ratio:.2f}x (bare {cost:.2f} CPU-s)", "-", True
    )


def _whole(port: int, path: str) -> None:
    assert download_all(port, path) > GB


def _cpu(measured: Measured, work: Callable[[], object]) -> float:
    before = measured.cpu()
    work()
    return measured.cpu() - before


def measure_crowd(folder: Path, report: Report) -> None:
    """How long `/info` takes while 1,000 pollers and 50 uploads are there; they and we share this machine's cores."""
    with system(folder, 1, report) as (_, port, _):
        uuid = init(port)
        small_upload(port, uuid)
        call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: code(port, uuid) == 40)
        command = python("-m", "bench.crowd", port, uuid, 1000, 50, 4_000_000, 5 if QUICK else 20)
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    took = sorted(map(float, lines))
    tail = took[int(len(took) * 0.99)]
    report.add(
        "`/info` with 1,000 pollers and 50 uploads at once",
        f"median {statistics.median(took):.0f} ms, 99 of 100 within {tail:.0f} ms, worst {took[-1]:.0f} ms",
        "<= 100 ms",
        tail <= 100,
    )


# Many nodes and tasks


def first_byte(port: int, node_ports: list[int]) -> float:
    """Seconds from a commit to the first byte at a node."""
    uuid = init(port)
    small_upload(port, uuid)
    begun = time.monotonic()
    call(port, "POST", f"/task/new/commit/{uuid}")
    until(lambda: code(port, uuid) == 40)
    seen = [call(node, "GET", f"/seen/{uuid}") for node in node_ports[:1]]
    return float(min(at for at in seen if at)) - begun


def measure_hung(folder: Path, report: Report) -> None:
    """Commit to first byte with 1 of 20 nodes hung, against all well; both run at once and are asked in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        systems = [stack.enter_context(system(folder / f"hung{hung}", 20, report, hung)) for hung in (0, 1)]
        for _ in range(10 if QUICK else 100):
            for times, (_, port, node_ports) in zip(found, systems, strict=True):
                times.append(first_byte(port, node_ports))
    well, hung = map(statistics.median, found)
    report.add(
        "Commit to first byte at a node, 1 of 20 nodes hung against none",
        f"{hung / well:.2f}x ({hung * 1000:.1f} ms against {well * 1000:.1f} ms)",
        "as without it (<= 1.2x)",
        hung / well <= 1.2,
    )


async def _fill(folder: Path, count: int) -> None:
    """Finished tasks, as a year leaves them behind."""
    folder.mkdir(parents=True, exist_ok=True)
    store = await Store.open(f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
    now = time.time()
    for number in range(count):
        task = Task(
            uuid=f"{number:08x}-0000-4000-8000-000000000000",
            owner="local",
            phase=Phase.FINISHED,
            outcome=Outcome.COMPLETED,
            committed_at=now - count + number,
            finished_at=now - count + number,
            options=[{"name": "dsm", "value": True}] * 5,
        )
        await store.add_task(task, "made for a benchmark")
    await store.close()


def commit_cpu(measured: Measured, port: int) -> float:
    """CPU milliseconds per task from its commit to its end."""
    uuids = [init(port) for _ in range(50)]
    for uuid in uuids:
        small_upload(port, uuid)

    def commit_all() -> None:
        for uuid in uuids:
            call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: all(code(port, uuid) == 40 for uuid in reversed(uuids)), pause=0.25)

    return _cpu(measured, commit_all) / len(uuids) * 1e3


def measure_many(folder: Path, report: Report) -> None:
    """Cost per commit and per page of the list, with 20,000 finished tasks and 200 nodes against 10 and 10; both run at
    once and are measured in turns, so that both see the same machine."""
    sizes = {"few": (10, 10), "many": (2_000 if QUICK else 20_000, 200)}
    commits: dict[str, list[float]] = {name: [] for name in sizes}
    pages: dict[str, list[float]] = {name: [] for name in sizes}
    with ExitStack() as stack:
        systems = {}
        for name, (tasks, count) in sizes.items():
            asyncio.run(_fill(folder / name / "data", tasks))
            made = system(folder / name, count, report, **{"node-poll-interval": 3600})
            systems[name] = stack.enter_context(made)
        time.sleep(3)  # the first round of polls is no part of a commit
        for _ in range(ROUNDS + 2):
            for name, (measured, port, _) in systems.items():
                commits[name].append(commit_cpu(measured, port))
                pages[name].append(requests_cpu(measured, port, "/task/list?limit=10"))
    for what, found, unit in (("commit", commits, "ms"), ("page of /task/list", pages, "us")):
        many, few = statistics.median(found["many"]), statistics.median(found["few"])
        report.add(
            f"Cost per {what}, 20,000 finished tasks and 200 nodes against 10 and 10",
            f"{many / few:.2f}x ({many:.2f} {unit} against {few:.2f} {unit})",
            "<= 1.2x",
            many / few <= 1.2,
        )


def write(report: Report) -> None:
    """docs/performance.md."""
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [
        "# Performance",
        "",
        "Written by `make bench` (`python -m bench`); run it to repeat everything. Absolute times depend on the",
        f"machine, so each row was compared with its bound or with a peer in one run: {versions}, medians of",
        f"{ROUNDS} rounds.",
        "CPU is that of the cluster's process alone, user and system.",
        "",
        "| what | found | wanted | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {what} | {found} | {wanted} | {'yes' if fine else '**no**'} |" for what, found, wanted, fine in report.rows
    ]
    lines += ["", WHY.strip()]
    Path("docs/performance.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    """Run all; the exit status says whether everything was reached."""
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is needed; `make bench` installs it")
    with tempfile.TemporaryDirectory(prefix="clusterodm-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the workers of nginx are nobody
        report = Report(folder / "large")
        (folder / "photos").mkdir()
        block = os.urandom(1 << 20)  # as compressible as a JPEG
        for number in range(FILES):
            (folder / "photos" / f"{number}.jpg").write_bytes((block * (GB // FILES // len(block) + 1))[: GB // FILES])
        with report.large.open("wb") as large:
            large.truncate(GB)
        for measure in (measure_info, measure_bulk, measure_crowd, measure_hung, measure_many):
            inner = folder / measure.__name__
            inner.mkdir()
            (inner / "photos").symlink_to(folder / "photos")
            measure(inner, report)
        peak = max(report.peaks)
        report.add("Peak resident memory during all of it", f"{peak:.0f} MB", "<= 150 MB", peak <= 150)
        if not QUICK:
            write(report)
        return 0 if all(fine for *_, fine in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
