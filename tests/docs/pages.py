# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands of the documentation, and which of them are run where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TOP = Path(__file__).parents[2]
PAGES = [*sorted((TOP / "docs").rglob("*.md")), TOP / "README.md", TOP / "CONTRIBUTING.md"]

#: Commands that a walk through a page cannot run, because they need the internet, a cloud or the whole machine, or are
#: these tests; and the tests that do what they do.
ELSEWHERE: Final = {
    r"make (demo|test|check|faults|bench|docs|audit)": "Makefile",
    r"\.venv/bin/python -m tests\.faults": "tests/faults/test_storm.py",
    r"pip install -e docs/examples": "tests/deploy/test_example_provider.py",
    r"(python3 -m venv|/opt/clusterodm/bin/pip|pipx|git clone)": "tests/deploy/test_package.py",
    r"sudo (install|systemd-sysusers|systemctl)": "tests/deploy/test_systemd.py",
    r"sudo certbot": "tests/deploy/test_proxies.py",
    r"docker (build|compose)": "tests/deploy/test_container.py",
    r"(helm|kubectl)": "tests/deploy/test_helm.py",
    r"apptainer": "tests/providers/test_slurm.py",
    r"pg_restore": "tests/clients/test_backup.py",
    r"CLUSTERODM_DATABASE_URL=\S+ +clusterodm": "tests/faults/test_replicas.py",
    r"clusterodm migrate-store": "tests/faults/test_replicas.py",
    r"nc 127": "tests/admin/test_shell.py",
    r"curl .*LEASE_TOKEN": "tests/cluster/test_discovery.py",
}


def blocks(page: Path) -> list[str]:
    """The blocks of commands on a page, without the indentation that lists give them."""
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in found]


def commands(page: Path) -> list[str]:
    """The commands of a page, one by one; those of more than one line as one."""
    text = "\n".join(blocks(page)).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def elsewhere(command: str) -> str:
    """The test that runs a command instead of a walk; empty: none."""
    return next((test for pattern, test in ELSEWHERE.items() if re.match(pattern, command)), "")
