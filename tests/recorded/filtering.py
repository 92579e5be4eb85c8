# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node's own check of options, run by Node.js out of a checkout of the node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

SCRIPT = Path(__file__).with_name("filter_options.js")
#: Every kind of domain that nodes know, and some that they do not, as the engine describes them: type and domain.
DOMAINS = {
    "int": ["integer", "positive integer", "negative integer", "percent", "integer: 1 <= x <= 14", "integer > 3", ""],
    "float": [
        "float",
        "positive float",
        "negative float",
        "positive integer",
        "percent",
        "float: 0 <= x <= 1",
        "float > 0.0",
        "float >= -.5",
        "float < 2",
        "float <= 1-3",
        "float: 0 < x < 1",
        "",
    ],
    "str": ["json", "string", "path", "", "bogus"],
}


def described() -> dict[str, Any]:
    """The options as the engine describes them: one for each domain, a switch and a choice."""
    options: dict[str, Any] = {
        "--dsm": {"type": "", "default": "False"},
        "--quality": {"type": "<class 'str'>", "default": "low", "choices": "['low', 'high', '1', 'true']"},
    }
    for kind, domains in DOMAINS.items():
        default = "" if kind == "str" else "0"
        for number, domain in enumerate(domains):
            metavar = {"metavar": f"<{domain}>"} if domain else {}
            options[f"--{kind}-{number}"] = {"type": f"<class '{kind}'>", "default": default, **metavar}
    return options


class Filter:
    """The check of one node."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.options: list[dict[str, Any]] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def check(self, options: str) -> dict[str, Any]:
        """What the node says of the text of an `options` field, which is one line."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write(options + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer


def checkout() -> Path | None:
    """Where a node is, as NODEODM or NODEODX says."""
    path = os.environ.get("NODEODM") or os.environ.get("NODEODX")
    return Path(path) if path else None


@contextmanager
def running_filter(root: Path, folder: Path) -> Iterator[Filter]:
    """The check while the block runs."""
    file = folder / "options.json"
    file.write_text(json.dumps(described()))
    arguments = ["node", str(SCRIPT), str(root), str(file)]
    with subprocess.Popen(
        arguments,
        text=True,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield Filter(process)
        assert process.stdin is not None
        process.stdin.close()
