# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real node that refuses half of all uploads: how long a task takes through a cluster, and with PyODM directly.

    python -m bench.drops CHECKOUT [COUNT...]

CHECKOUT: a NodeODM or NodeODX with its modules. Both send the same COUNT photos (8 and 500) to one node, one after the
other; what it has afterwards is compared byte by byte. PyODM gets more retries than its 5, with which it gives up.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyodm

from bench.bulk import upload_all
from bench.rig import answers, call, cluster, code, free_ports, init, started, until

_SIZE = 200_000
_RETRIES = 100
#: Where a node in test mode has its tasks.
_DATA = Path("tests/data")


@contextmanager
def dropping_node(checkout: Path, folder: Path, port: int) -> Iterator[Path]:
    """A private copy of a node that refuses half of all uploads; where it has its tasks."""
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns("node_modules", ".git", "docs"))
    (folder / "node_modules").symlink_to(checkout / "node_modules")
    for name in ("tmp", "docs", _DATA):
        (folder / name).mkdir(parents=True, exist_ok=True)
    command = ["sh", "-c", f"cd '{folder}' && exec node index.js --test --test_drop_uploads --port {port}"]
    with started(*command, ready=answers(port)):
        yield folder / _DATA


def through_cluster(folder: Path, node: int, photos: list[Path]) -> float:
    """Seconds from the commit to the end."""
    port = free_ports(1)
    with cluster(folder / "cluster", port, [node], **{"task-poll-interval": 0.5, "prefetch": 0}):
        uuid = init(port)
        upload_all(port, uuid, photos)
        began = time.monotonic()
        call(port, "POST", f"/task/new/commit/{uuid}")
        until(lambda: code(port, uuid) == 40, pause=0.1)
        return time.monotonic() - began


def with_pyodm(node: int, photos: list[Path]) -> float:
    """Seconds from the first upload to the end."""
    began = time.monotonic()
    direct: Any = pyodm.Node("127.0.0.1", node)
    task = direct.create_task([str(path) for path in photos], max_retries=_RETRIES)
    task.wait_for_completion(interval=0.5)
    return time.monotonic() - began


def compare(there: Path, photos: list[Path]) -> str:
    """What the node has against what was sent."""
    names = {path.name for path in there.iterdir()}
    exact = names == {path.name for path in photos} and all(
        (there / path.name).read_bytes() == path.read_bytes() for path in photos
    )
    return "byte-exact" if exact else f"NOT EXACT ({len(names)} files)"


def main() -> None:
    """Measure both in one run."""
    checkout, counts = Path(sys.argv[1]), [int(each) for each in sys.argv[2:]] or [8, 500]
    with tempfile.TemporaryDirectory(prefix="clusterodm-drops-") as name:
        folder = Path(name)
        port = free_ports(1)
        with dropping_node(checkout, folder / "node", port) as data:
            for count in counts:
                photos = [folder / f"{count}" / f"{number}.jpg" for number in range(count)]
                photos[0].parent.mkdir()
                for path in photos:
                    path.write_bytes(os.urandom(_SIZE))
                for who, run in (
                    ("ClusterODM", partial(through_cluster, folder / f"{count}", port)),
                    ("PyODM", partial(with_pyodm, port)),
                ):
                    seconds = run(photos)
                    there = max(data.iterdir(), key=lambda task: task.stat().st_mtime) / "images"
                    print(f"{count} photos, {who}: {seconds:.1f} s, {compare(there, photos)}", flush=True)


if __name__ == "__main__":
    main()
