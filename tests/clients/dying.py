# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm restore` that is killed at a point: python -m tests.clients.dying POINT COPY --data-dir DIR"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from clusterodm.__main__ import main
from clusterodm.server import restoring

POINT = sys.argv[1]
restore: Any = import_module("clusterodm.commands.restore")


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(real: Any) -> Any:
    def run(*args: Any) -> Any:
        real(*args)
        die()

    return run


def nth(real: Any, count: int) -> Any:
    """Die before the call after so many."""
    calls_left = [count]

    def run(self: Path, target: Path) -> Path:
        if not calls_left[0]:
            die()
        calls_left[0] -= 1
        return Path(real(self, target))

    return run


if POINT == "copied":
    restore.decide = die
elif POINT == "decided":
    restore.decide = after(restoring.decide)
elif POINT == "replaced":
    restore.carry_out = die
else:
    decide = restore.decide

    def decided(*args: Any) -> None:
        decide(*args)
        Path.rename = nth(Path.rename, 2 if POINT == "put away" else 5)  # type: ignore[method-assign]

    restore.decide = decided
sys.argv[1:2] = ["restore"]
main()
