# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is written to the log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import structlog
from clusterodm.observe import configure_logging
configure_logging("info")
for number in range(2000):
    structlog.get_logger("test").info("a line", number=number)
"""


def test_lines_of_processes_that_share_a_stream_stay_apart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab") as stream:
        # -u, as in the container: what is not written with the line itself is a write of its own
        processes = [subprocess.Popen([sys.executable, "-u", "-c", PROGRAM], stderr=stream) for _ in range(3)]
        assert [process.wait() for process in processes] == [0, 0, 0]
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["a line"] * 6000
