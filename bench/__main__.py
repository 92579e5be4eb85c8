# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Measure everything in one run, print it, write docs/performance.md.

python -m bench [--quick] [NAME...]
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.bulk import measure_bulk
from bench.prefetch import measure_prefetch
from bench.report import Report
from bench.scale import measure_idle, measure_many, measure_memory, measure_start
from bench.scope import FILES, GB, QUICK, ROUNDS, Scope
from bench.small import measure_crowd, measure_info

PARTS = {
    "info": measure_info,
    "bulk": measure_bulk,
    "prefetch": measure_prefetch,
    "many": measure_many,
    "crowd": measure_crowd,
    "start": measure_start,
    "idle": measure_idle,
    "memory": measure_memory,
}


def _photos(folder: Path) -> list[Path]:
    block = os.urandom(1 << 20)  # as compressible as a JPEG
    size = GB // FILES
    made = [folder / f"{number}.jpg" for number in range(FILES)]
    for path in made:
        path.write_bytes((block * (size // len(block) + 1))[:size])
    return made


def main() -> int:
    """Run all; the exit status says whether everything was reached."""
    for tool in ("nginx", "haproxy", "wrk"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is needed; `make bench` installs it")
    chosen = [name for name in sys.argv[1:] if not name.startswith("-")] or list(PARTS)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="clusterodm-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the workers of nginx are nobody
        large = folder / "large"
        photos = _photos(folder)
        with zipfile.ZipFile(large, "w") as archive:
            for photo in photos:
                archive.write(photo, photo.name)
        for part in chosen:
            inner = folder / part
            inner.mkdir()
            report.part = part
            PARTS[part](Scope(inner, report, large, photos))
            shutil.rmtree(inner)
    if not QUICK:
        report.keep(Path(__file__).parent / "results.json", PARTS)
        report.write(Path("docs"), ROUNDS, os.cpu_count() or 1)
    return 0 if all(row.reached for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
