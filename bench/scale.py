# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What it costs that there is much: nodes of which one hangs, old tasks, active tasks, and nothing to do."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from bench.filling import fill
from bench.rig import Measured, call, cluster, code, free_ports, init, small_upload, system, until
from bench.scope import QUICK, ROUNDS, Scope
from bench.small import requests_cpu


def commit_cpu(measured: Measured, port: int) -> float:
    """CPU milliseconds per task from its commit to its end."""
    uuids = [init(port) for _ in range(50)]
    for uuid in uuids:
        small_upload(port, uuid)

    def commit_all() -> None:
        for uuid in uuids:
            call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: all(code(port, uuid) == 40 for uuid in reversed(uuids)), pause=0.25)

    return measured.busy(commit_all) / len(uuids) * 1e3


def measure_many(scope: Scope) -> None:
    """Cost per commit, per page of the list and per info, with much and with little."""
    sizes = {"few": (10, 2, 0), "many": (2_000 if QUICK else 20_000, 200, 1)}
    kinds = {"commit": "ms", "list page": "us", "info": "us"}
    found: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in sizes} for kind in kinds}
    with ExitStack() as stack:
        systems = {}
        for name, (tasks, count, hung) in sizes.items():
            fill(scope.folder / name / "data", tasks)
            made = system(scope.folder / name, scope.large, count, {"hung": hung}, **{"node-poll-interval": 3600})
            systems[name] = stack.enter_context(made)
        time.sleep(3)  # the first round of polls is no part of a commit
        for _ in range(ROUNDS):
            for name, (measured, port, _) in systems.items():
                found["commit"][name].append(commit_cpu(measured, port))
                found["list page"][name].append(requests_cpu(measured, port, "/task/list?limit=10"))
                uuid = call(port, "GET", "/task/list?limit=1")[0]["uuid"]
                call(port, "GET", f"/task/{uuid}/info")
                found["info"][name].append(requests_cpu(measured, port, f"/task/{uuid}/info"))
    for kind in kinds:
        ratio = statistics.median(found[kind]["many"]) / statistics.median(found[kind]["few"])
        work = f"20,000 tasks, 200 nodes, 1 hung against 10 and 2: cost per {kind}"
        scope.report.add(work, "x", {"ours": [ratio]}, reach=1.2)


def measure_start(scope: Scope) -> None:
    """With many stored tasks and with none."""
    fill(scope.folder / "full", 10_000 if QUICK else 100_000)
    found: dict[str, list[float]] = {"ours": [], "empty": []}
    for _ in range(ROUNDS):
        for name, data in (("ours", "full"), ("empty", "none")):
            port = free_ports(1)
            begun = time.monotonic()
            with cluster(scope.folder / data, port, []):
                found[name].append(time.monotonic() - begun)
    scope.report.add("Start with 100,000 stored tasks", "seconds", {"ours": found["ours"]}, reach=2.0)
    scope.report.add("Start with none", "seconds", {"ours": found["empty"]}, reach=None)


def measure_idle(scope: Scope) -> None:
    """CPU while there is nothing to do."""
    seconds = 10 if QUICK else 30
    found = []
    with system(scope.folder, scope.large, 200) as (measured, _, _):
        time.sleep(20)  # the first looks, and the first that are made at rest
        for _ in range(ROUNDS):
            found.append(measured.busy(lambda: time.sleep(seconds)) / seconds * 100)
    scope.report.add("CPU when idle, 200 nodes", "% of a core", {"ours": found}, reach=1.0)


def measure_memory(scope: Scope) -> None:
    """Resident memory with many active tasks."""
    count = 100 if QUICK else 1000
    peaks = []
    for number in range(1 if QUICK else 3):
        folder = scope.folder / str(number)
        with system(folder, scope.large, 200, {"works": True, "slots": 10}) as (measured, port, _):
            uuids = [init(port) for _ in range(count)]
            for uuid in uuids:
                small_upload(port, uuid)
                call(port, "POST", f"/task/new/commit/{uuid}")
            until(lambda: all(_has_lines(port, uuid) for uuid in uuids), pause=1.0, seconds=300)  # noqa: B023 - called here
            peaks.append(measured.peak_mb())
    scope.report.add("Resident memory with 1,000 active tasks", "MB", {"ours": peaks}, reach=120, digits=0)


def _has_lines(port: int, uuid: str) -> bool:
    return len(call(port, "GET", f"/task/{uuid}/output?line=0") or []) == 200
