# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether cleaning up keeps up with owners who remove 3,000 tasks a minute.

    python -m bench.cleaning [COUNT]

COUNT (3000) small tasks are completed, then removed 50 a second. Shown is how long a removal takes to be answered, how
many removed tasks are left at the end of the removals, how long it takes until nothing is left of any of them, and the
cluster's CPU time for each.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from bench.rig import call, code, init, small_upload, system, until

_RATE = 50
_AT_A_TIME = 16
_NODES = 4


def _complete(port: int, _: int) -> str:
    uuid = init(port)
    small_upload(port, uuid)
    call(port, "POST", f"/task/new/commit/{uuid}")
    until(lambda: code(port, uuid) == 40, pause=0.1)
    return uuid


def _left(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM tasks").fetchone()[0])


def _remove(port: int, due: float, uuid: str) -> float:
    time.sleep(max(0.0, due - time.monotonic()))
    began = time.monotonic()
    answer = call(
        port, "POST", "/task/remove", f"uuid={uuid}".encode(), Content_Type="application/x-www-form-urlencoded"
    )
    assert answer == {"success": True}, answer
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with tempfile.TemporaryDirectory(prefix="clusterodm-bench-") as name, ThreadPoolExecutor(_AT_A_TIME) as pool:
        folder = Path(name)
        (large := folder / "large").write_bytes(b"PK\5\6" + bytes(18))
        settings: dict[str, object] = {"task-poll-interval": 0.2}
        with system(folder, large, _NODES, None, **settings) as (measured, port, _):
            began = time.monotonic()
            uuids = list(pool.map(lambda number: _complete(port, number), range(count)))
            print(f"{count} tasks completed in {time.monotonic() - began:.0f} s")
            database = folder / "data" / "clusterodm.db"
            began, cpu = time.monotonic(), measured.cpu()
            took = list(pool.map(lambda each: _remove(port, began + each[0] / _RATE, each[1]), enumerate(uuids)))
            removed = time.monotonic() - began
            left = _left(database)
            until(lambda: not _left(database), pause=0.5, seconds=1800)
            whole, cpu = time.monotonic() - began, measured.cpu() - cpu
            folders = sum(1 for part in ("spool", "results", "console") for _ in (folder / "data" / part).glob("*"))
    print(
        f"removed in {removed:.0f} s, a removal took {statistics.median(took) * 1000:.1f} ms, at most {max(took):.2f} s"
    )
    print(
        f"left then: {left}; all gone after {whole:.0f} s; files left {folders}; CPU {cpu / count * 1000:.1f} ms each"
    )


if __name__ == "__main__":
    main()
