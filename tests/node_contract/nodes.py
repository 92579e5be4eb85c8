# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes as programs: the development node, and a private copy of a real one. Flags are those of the real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.needs import NEEDS
from tests.processes import free_port, without_settings

DEVNODE: Final = "devnode"
#: Real nodes by the variable that names a checkout of each.
REAL: Final = ("NODEODM", "NODEODX")
_LEFT_OUT: Final = ("node_modules", ".git", ".github", "data", "tmp", "*.log")
_START: Final = 30.0


def checkout(kind: str) -> Path:
    """Where a real node was checked out; skips the test where none is given."""
    checkout_path = os.environ.get(kind)
    if not checkout_path:
        pytest.skip(f"{NEEDS}a real node: {kind}=checkout in which `npm install --omit=dev` was done")
    folder = Path(checkout_path)
    for needed in ("index.js", "node_modules"):
        assert (folder / needed).exists(), f"{kind}={checkout_path}: there is no {needed}"
    return folder


class Program:
    """One node: its process, started and ended as often as a test wants, and its folder."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._flags: tuple[str, ...] = ()
        folder.mkdir(parents=True, exist_ok=True)
        if kind == DEVNODE:
            self._command = [sys.executable, "-m", "clusterodm", "devnode", "--data-dir", str(folder)]
            self.uploads, self.data = folder / "tmp", folder / "data"
        else:
            _copy(checkout(kind), folder)
            self._command = ["node", "index.js", "--test"]
            self.uploads, self.data = folder / "tmp", folder / "tests" / "data"

    def start(self, *flags: str) -> None:
        """Start it, with the flags of the last time if none are given, and wait until it answers."""
        self._flags = flags or self._flags
        environ = without_settings()
        with (self._folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port), *self._flags],
                cwd=self._folder, stdout=log, stderr=log, env=environ,
            )  # fmt: skip
        end = time.monotonic() + _START
        while not self._answers():
            assert self.runs(), self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/auth/info", timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def log(self) -> str:
        """What it printed."""
        return (self._folder / "output.log").read_text(errors="replace")

    def runs(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self._process is not None
        if self.runs():
            self._process.send_signal(how)
        return self._process.wait(20)

    def restart(self, how: signal.Signals) -> None:
        """End it and start it again on its folder."""
        self.end(how)
        self.start()

    def files(self, uuid: str) -> set[str]:
        """Names of what was uploaded for a task that is not committed."""
        return set(os.listdir(self.uploads / uuid)) - {"body.json"}

    def project(self, uuid: str, folder: str) -> set[str]:
        """Names in a folder of a committed task."""
        return set(os.listdir(self.data / uuid / folder))


def _copy(source: Path, target: Path) -> None:
    """A copy in which a node may write."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
    (target / "node_modules").symlink_to(source / "node_modules")
    for folder in ("data", "tmp", "tests/data"):
        (target / folder).mkdir(parents=True, exist_ok=True)
