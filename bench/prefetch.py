# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the commit to the node's own commit, after a large upload at the speed at which the node takes it."""

from __future__ import annotations

import time
from pathlib import Path

from bench.bulk import upload_all
from bench.rig import call, init, system, until
from bench.scope import QUICK, ROUNDS, Scope

SPEED = 100_000_000
#: A photo of 20 megapixels has 5 to 9 MB.
FILE = 5_000_000
#: 10 GB.
COUNT = 120 if QUICK else 2000


def measure_prefetch(scope: Scope) -> None:
    """Measure with and without prefetch."""
    photo = scope.folder / "photo"
    photo.write_bytes(scope.photos[0].read_bytes()[:FILE].ljust(FILE, b"x"))
    files = []
    for number in range(COUNT):
        files.append(scope.folder / f"{number:05}.jpg")
        files[-1].symlink_to(photo)
    with_it = [_once(scope, files, f"on{number}", {}) for number in range(ROUNDS)]
    without = [_once(scope, files, "off", {"prefetch": 0})]
    title = f"Commit to running, {COUNT * FILE / 1e9:g} GB uploaded at 100 MB/s, node takes 100 MB/s"
    scope.report.add(title, "s", {"ours": with_it, "all after the commit": without}, reach=1.0)


def _once(scope: Scope, files: list[Path], name: str, settings: dict[str, object]) -> float:
    flags: dict[str, object] = {"bytes_per_second": SPEED, "slots": 1}
    folder = scope.folder / name
    with system(folder, scope.large, 1, flags, **settings) as (_, port, nodes):
        uuid = init(port)
        upload_all(port, uuid, files, speed=SPEED)
        begun = time.monotonic()
        call(port, "POST", f"/task/new/commit/{uuid}")
        committed = until(lambda: call(nodes[0], "GET", f"/seen/{uuid}")[1], pause=0.02, seconds=600)
        call(port, "POST", "/task/remove", f"uuid={uuid}".encode())
        until(lambda: not list((folder / "data" / "spool").iterdir()), pause=0.1)
        return float(committed) - begun
