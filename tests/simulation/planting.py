# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults planted into a copy of the source: each must be found, or the simulation is blind to its kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent / "planted"


class Search(msgspec.Struct, frozen=True):
    """How a search ended: the seed that violates something, or 0, after how many seeds and seconds of CPU."""

    seed: int
    seeds: int
    cpu: float
    property: str = ""
    text: str = ""


@dataclass(frozen=True)
class Planted:
    """A planted fault, and what came of the search for it."""

    name: str
    title: str
    search: Search


def names() -> list[str]:
    """Return the names of all planted faults."""
    return sorted(path.stem for path in PATCHES.glob("*.patch"))


def title(name: str) -> str:
    """Return the sentence in which a patch says what it breaks."""
    return (PATCHES / f"{name}.patch").read_text().partition("\n")[0]


def plant(name: str, folder: Path) -> Path:
    """Copy the source and break it; return the folder to import it from. Raises CalledProcessError if the patch does
    not apply any more."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # in a repository, git would do nothing
    subprocess.run(["git", "apply", str(PATCHES / f"{name}.patch")], cwd=folder, env=outside, check=True)
    return folder / "src"


def search(name: str, *, first: int, cpu: float) -> Planted:
    """Run seeds against a broken copy until one violates something that holds in the intact source, for so many seconds
    of CPU at most."""
    seeds, spent = 0, 0.0
    sizes = ["--replicas", "3"] if name.startswith("replica-") else []
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        path = f"{plant(name, Path(folder))}{os.pathsep}{ROOT}"
        while True:
            output = _run(path, "find", "--from", str(first + seeds), "--cpu", str(cpu - spent), *sizes).stdout
            found = msgspec.json.decode(output.splitlines()[-1], type=Search)
            seeds, spent = seeds + found.seeds, spent + found.cpu
            if not found.seed or _holds(found.seed, sizes):
                break
    return Planted(name, title(name), msgspec.structs.replace(found, seeds=seeds, cpu=spent))


def _holds(seed: int, sizes: list[str]) -> bool:
    """Return True if a seed violates nothing in the intact source."""
    return _run(str(ROOT), "run", "--seeds", "1", "--from", str(seed), "--no-shrink", *sizes).returncode == 0


def _run(path: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)


def search_all(wanted: list[str], *, first: int, cpu: float, jobs: int) -> Iterator[Planted]:
    """Search for planted faults, several at a time; yield them in order."""
    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(lambda name: search(name, first=first, cpu=cpu), wanted)


HEAD: Final = "| planted fault | seeds | CPU seconds | violated property |\n|---|---:|---:|---|"


def row(found: Planted) -> str:
    """Return a row of the table in the documentation."""
    how = found.search.property or "**not found**"
    return f"| {found.title.rstrip('.')} (`{found.name}`) | {found.search.seeds} | {found.search.cpu:.0f} | {how} |"
