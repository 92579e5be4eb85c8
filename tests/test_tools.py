# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a stranger runs first: tests that lack something, and what installs it."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clusterodm import __version__
from tests.needs import NEEDS, lacking, need, summary

TOP = Path(__file__).parents[1]
SERVICES = TOP / "tools" / "services"
CLOUD_INIT = Path("/etc/cloud/cloud-init.disabled")


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment whose PATH has little else than these."""
    for name in ("bash", "env", "ls", "rm", "tee", "chmod", "mkdir", "touch", "cut", "sort", "comm"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    for name, text in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {"PATH": str(folder)}


def test_what_was_skipped_is_summed_up_with_how_to_get_it() -> None:
    reasons = ["Skipped: needs nc: `make services`", "moto takes every key", "needs nc: `make services`", "needs x: y"]
    assert summary(reasons) == ["    2 needs nc: `make services`", "    1 needs x: y"]
    assert lacking("sh", "no-such-program") == f"{NEEDS}no-such-program: `make services`"
    assert lacking("sh") == ""


@pytest.mark.slow
def test_a_test_without_its_program_is_skipped_and_named_at_the_end(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/proxy/test_forms.py", "-k", "curl"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    process = subprocess.run(
        words, check=False, cwd=TOP, env=environ | {"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout
    assert "    1 needs curl: `make services`" in process.stdout


def test_a_user_without_the_right_to_install_learns_the_command_to_request(tmp_path: Path) -> None:
    environ = programs(tmp_path, id="echo 1000", apt_get="exit 9")
    process = subprocess.run([SERVICES, "wrk", "uuidgen"], check=False, env=environ, capture_output=True, text=True)
    assert process.returncode == 1
    assert "only root can install them: uuidgen wrk\n" in process.stderr
    assert "as root: apt-get update && apt-get install --no-install-recommends uuid-runtime wrk\n" in process.stderr


@pytest.mark.parametrize("installed", [True, False])
def test_the_cloud_init_of_a_machine_is_left_alone(tmp_path: Path, installed: bool) -> None:
    """A new one is turned off before it is installed, and that is taken back when it could not be installed."""
    need("unshare", root=True)
    scripts = {"cloud_init": "true"} if installed else {}
    log = tmp_path / "seen"
    apt = f"if [ -e {CLOUD_INIT} ]; then echo off >>{log}; else echo on >>{log}; fi; exit 9"
    environ = programs(tmp_path, id="echo 0", systemctl="true", apt_get=apt, **scripts)
    mounts = " && ".join(f"mount -t tmpfs tmpfs {folder}" for folder in ("/etc/cloud", "/usr/sbin"))
    inside = f"{mounts} && PATH={environ['PATH']} {SERVICES} cloud-init wrk; ls /etc/cloud"
    Path("/etc/cloud").mkdir(exist_ok=True)
    process = subprocess.run(["unshare", "--mount", "sh", "-c", inside], check=False, capture_output=True, text=True)
    assert (log.read_text(), process.stdout) == ("on\n" if installed else "off\n", ""), process.stderr


def test_nothing_is_raised_where_groups_of_errors_are_caught() -> None:
    """It would come out in a group on Python before 3.11.4, such as that of Debian 12."""
    for path in (TOP / "src").rglob("*.py"):
        for caught in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.TryStar)):
            inside = [node for handler in caught.handlers for node in ast.walk(handler)]
            assert [node.lineno for node in inside if isinstance(node, ast.Raise)] == [], path


def test_an_audit_of_nothing_fails() -> None:
    process = subprocess.run(["make", "--dry-run", "audit"], check=True, cwd=TOP, capture_output=True, text=True)
    assert "pip-audit --strict" in process.stdout


def test_the_version_is_the_same_everywhere() -> None:
    pattern = r"(?:clusterodm:|image\.version=\"|^version: |^appVersion: )(\d+\.\d+\.\d+)"
    versions = {
        path: set(re.findall(pattern, (TOP / path).read_text(), re.MULTILINE))
        for path in (
            "deploy/helm/clusterodm/Chart.yaml",
            "deploy/container/Dockerfile",
            "deploy/container/compose.yaml",
            "docs/how-to/install.md",
        )
    }
    assert versions == {path: {__version__} for path in versions}
    assert f"## [{__version__}] - " in (TOP / "CHANGELOG.md").read_text()


def test_a_banned_phrase_is_named_with_what_to_write() -> None:
    """The check is run over the whole project by `make lint`."""
    rules = runpy.run_path(str(TOP / "tools" / "language"), run_name="rules")
    banned = [
        match[0] for match in rules["BANNED"].finditer("Nobody sends us signs of life for ever; 23 us in us-east-1")
    ]
    assert banned == ["Nobody", "us", "signs of life", "for ever"]


@pytest.mark.slow
def test_an_outdated_lock_is_detected_without_a_network(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "tools/lock", "src/clusterodm/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    shutil.copytree(TOP / "deploy" / "container", tmp_path / "deploy" / "container")
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "UV_OFFLINE": "1"}

    def check() -> subprocess.CompletedProcess[str]:
        words = [str(tmp_path / "tools" / "lock"), "--check"]
        return subprocess.run(words, check=False, env=environ, capture_output=True, text=True)

    assert check().returncode == 0, check().stderr
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"rich>=14"', '"rich>=99"'))
    assert check().stderr.endswith("uv.lock is out of date: run `make lock`\n")
    shutil.copy(TOP / "pyproject.toml", project)
    requirements = tmp_path / "deploy" / "container" / "requirements.txt"
    requirements.write_text(requirements.read_text().replace("rich==", "rich==0."))
    assert check().stderr == "deploy/container/*.txt differ from uv.lock: run `make lock`\n"
