# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands of the documentation, and which of them are run where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TOP = Path(__file__).parents[2]
PAGES = [*sorted((TOP / "docs").rglob("*.md")), TOP / "README.md", TOP / "CONTRIBUTING.md"]

#: Commands that a walk through a page does not run, and the tests that do what they do.
ELSEWHERE: Final = {
    r"make (demo|test|quick|check|coverage|services|faults|simulation|bench|docs|audit)": "Makefile",
    r"\.venv/bin/python -m tests\.faults": "tests/faults/test_storm.py",
    r"pip install -e docs/examples": "tests/deploy/test_example_provider.py",
    r"(python3 -m venv|sudo sh -c|/opt/clusterodm/bin/pip|pipx|git clone)": "tests/deploy/test_package.py",
    r"make node-contract": "tests/node_contract",
    r"CLUSTERODM_DATABASE_URL=\S+ +clusterodm": "tests/faults/test_replicas.py",
    r"clusterodm migrate-store": "tests/faults/test_replicas.py",
    r"nc 127": "tests/admin/test_shell.py",
    r"curl .*LEASE_TOKEN": "tests/cluster/test_discovery.py",
}

#: Commands that no test runs, and why; what they work on is looked at by the tests in `tests/deploy`.
NOWHERE: Final = {
    r"sudo (install|systemd-sysusers|systemctl)": "they change the machine, and need systemd as its first process",
    r"sudo (-u clusterodm |)clusterodm": "they need the service and its user",
    r"sudo certbot": "it needs a name that leads here, and the internet",
    r"docker (build|compose|run|logs|exec)": "they need Docker's daemon; `make container` does the same with podman",
    r"(helm|kubectl)": "they need a Kubernetes; the tests render the chart with Helm's library",
    r"apptainer": "it needs a registry of images",
}


def blocks(page: Path) -> list[str]:
    """The blocks of commands on a page, without the indentation that lists give them."""
    matches = re.findall(r"^( *)```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in matches]


def commands(page: Path) -> list[str]:
    """The commands of a page, one by one; those of more than one line as one."""
    text = "\n".join(blocks(page)).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def walked(command: str) -> bool:
    """Whether a walk runs a command."""
    return not any(re.match(pattern, command) for pattern in (*ELSEWHERE, *NOWHERE))
