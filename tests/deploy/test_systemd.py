# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The unit, as systemd reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clusterodm.settings import Settings, env_name, load_settings
from tests.needs import NEEDS, need

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "clusterodm.service"


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`, which needs no systemd that runs."""
    need("systemd-analyze")
    return subprocess.run(["systemd-analyze", *map(str, words)], check=False, capture_output=True, text=True)


def as_installed(folder: Path) -> Path:
    """The unit with a program that is there."""
    program = Path(sys.executable).parent / "clusterodm"
    unit = folder / "clusterodm.service"
    unit.write_text(UNIT.read_text().replace("/opt/clusterodm/bin/clusterodm", str(program)))
    return unit


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", as_installed(tmp_path))
    about = [line for line in done.stderr.splitlines() if "clusterodm" in line]
    assert (done.returncode, about) == (0, [])


def test_a_line_that_it_does_not_understand_would_be_noticed(tmp_path: Path) -> None:
    unit = as_installed(tmp_path)
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in analyze("verify", "--man=no", unit).stderr


def test_little_is_exposed(tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--json=short", as_installed(tmp_path))
    if "unrecognized option" in done.stderr:
        pytest.skip(f"{NEEDS}systemd 250 or newer, which looks at units that are not loaded")
    exposed = {
        row["name"] or row["json_field"] for row in json.loads(done.stdout) if float(row["exposure"] or 0) >= 0.2
    }
    # it talks to clients and nodes, wherever they are
    assert exposed <= {"PrivateNetwork=", "IPAddressDeny=", "RestrictAddressFamilies=~AF_(INET|INET6)"}, exposed


def test_it_waits_longer_than_requests_get_to_end() -> None:
    settings = load_settings({}, environ={})
    wait = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert wait
    assert float(wait[1]) >= settings.shutdown_delay + settings.shutdown_grace + 10


def test_its_variables_are_settings() -> None:
    known = {env_name(name) for name in Settings.model_fields}
    assert set(re.findall(r"CLUSTERODM_[A-Z_]+", UNIT.read_text())) <= known
