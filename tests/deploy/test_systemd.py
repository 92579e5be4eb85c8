# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The unit, as systemd reads it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clusterodm.settings import load_settings
from tests.admin.support import start
from tests.needs import NEEDS, need
from tests.processes import without_settings
from tests.support import Rig

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "clusterodm.service"
COMMAND = UNIT.with_name("clusterodm")


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`, which needs no systemd that runs."""
    need("systemd-analyze")
    return subprocess.run(["systemd-analyze", *map(str, words)], check=False, capture_output=True, text=True)


def as_installed(folder: Path) -> Path:
    """The unit with a program that is there."""
    program = Path(sys.executable).parent / "clusterodm"
    unit = folder / "clusterodm.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/clusterodm", str(program)))
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


def test_what_is_installed_for_it_agrees() -> None:
    settings = load_settings({}, config=UNIT.with_name("config.json"), environ={})
    assert f"WorkingDirectory={settings.data_dir}\n" in UNIT.read_text()
    assert "ExecStart=/usr/local/bin/clusterodm serve\n" in UNIT.read_text()
    assert "/etc/clusterodm/config.json" in COMMAND.read_text()
    page = (UNIT.parents[2] / "docs" / "how-to" / "install.md").read_text()
    for path in (settings.data_dir, "/etc/clusterodm", "deploy/systemd/config.json", "/usr/local/bin/"):
        assert re.search(rf"^ *sudo install .*{path}", page, re.MULTILINE), path


async def test_commands_find_the_settings_of_the_service(cluster: Rig) -> None:
    await start(cluster, admin_pass="hush-service")
    config = cluster.folder / "config.json"
    ours = {"admin-web-port": cluster.cluster.admin_port, "admin-pass": "hush-service"}
    config.write_text(json.dumps(ours | {"data-dir": str(cluster.folder / "data")}))
    command = cluster.folder / "clusterodm"
    text = COMMAND.read_text().replace("/etc/clusterodm/config.json", str(config))
    command.write_text(text.replace("/opt/clusterodm/bin/clusterodm", f"{Path(sys.executable).parent}/clusterodm"))
    command.chmod(0o755)
    environ = without_settings()

    async def run(*words: str) -> tuple[int | None, str]:
        options = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT, "cwd": "/", "env": environ}
        running = await asyncio.create_subprocess_exec(command, *words, **options)  # type: ignore[arg-type]
        output = (await running.communicate())[0].decode()
        return running.returncode, output

    assert await run("node", "list", "--json") == (0, "[]\n")
    assert "used by a running cluster" in (await run("doctor", "--json"))[1]
    # the password is for the cluster of these settings and for no other
    assert "the password of admin is needed" in (await run("node", "list", "--url", cluster.cluster.admin_url))[1]
    config.write_text(json.dumps(ours | {"admin-web-port": 0}))
    assert (await run("node", "list"))[0] == 2
