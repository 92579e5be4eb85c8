# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The example provider of docs/plugins.md: installed from outside of the tree, tested, found and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from clusterodm.devnode.photos import make_photos
from tests.processes import free_port, program
from tests.support import eventually, images

TOP = Path(__file__).parents[2]
EXAMPLE = TOP / "docs" / "examples" / "provider"


def install(folder: Path) -> Path:
    """Install the example with pip into a folder of its own; return the folder."""
    source, target = folder / "source", folder / "installed"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def run(*words: object, folder: Path) -> str:
    """Return what a program prints, without anything of this environment."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("CLUSTERODM_", "PYTHON"))}
    process = subprocess.run([*map(str, words)], check=False, capture_output=True, text=True, env=environ, cwd=folder)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_its_own_tests_pass_in_an_environment_of_their_own(tmp_path: Path) -> None:
    source, environment = tmp_path / "source", tmp_path / "venv"
    python, uv = environment / "bin" / "python", Path(sys.executable).parent / "uv"
    shutil.copytree(EXAMPLE, source)
    run(uv, "venv", "--quiet", "--python", sys.executable, environment, folder=tmp_path)
    run(uv, "pip", "install", "--quiet", "--python", python, f"{TOP}[testing]", source, folder=tmp_path)
    where = run(python, "-c", "import clusterodm.testing.contract as contract; print(contract.__file__)", folder=source)
    assert where.startswith(str(environment))
    script = "from importlib.metadata import entry_points; print(*entry_points(group='clusterodm.providers').names)"
    assert "processes" in run(python, "-c", script, folder=source)
    printed = run(python, "-m", "pytest", "-p", "no:cacheprovider", "tests", folder=source)
    assert re.search(r"\b[5-9] passed", printed), printed
    assert "failed" not in printed


def write_asr(folder: Path) -> Path:
    """The file of the autoscaler for it."""
    path = folder / "asr.json"
    node = [sys.executable, "-m", "clusterodm", "devnode", "--seconds", "0.2", "--config"]
    entry = {
        "provider": "processes",
        "command": node,
        "folder": str(folder / "nodes"),
        "imageSizeMapping": [{"maxImages": 100, "slug": "process"}],
        "idleTimeout": 0.5,
    }
    path.write_text(json.dumps(entry))
    return path


async def test_a_provider_from_outside_takes_a_task_and_leaves_nothing(tmp_path: Path) -> None:
    installed = install(tmp_path)
    async with program(
        tmp_path, asr=write_asr(tmp_path), **{"machine-poll-interval": 0.2, "admin-web-port": free_port()}
    ) as cluster:
        cluster.environ |= {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
        api = await cluster.start()
        photo = make_photos(tmp_path / "photos", 1)[0]
        uuid = (await api.post("/task/new", images({"a.jpg": photo.read_bytes()})))["uuid"]
        await api.ends(uuid, seconds=60)
        await eventually(lambda: not list((tmp_path / "nodes").iterdir()), seconds=30)
        assert await cluster.end(signal.SIGTERM) == 0
    assert "processes" in cluster.log.read_text()


def test_it_is_as_short_as_the_page_says() -> None:
    code = (EXAMPLE / "clusterodm_processes.py").read_text().splitlines()
    assert len([line for line in code if line.strip() and not line.startswith("#")]) <= 65
