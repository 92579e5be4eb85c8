# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests need beside Python. A test that lacks something is skipped with a reason that begins with NEEDS and says
how to get it; the run ends with a list of these."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

NEEDS: Final = "needs "
#: Names under which a program may be there.
_ALSO: Final = {"chromium": ("chromium", "chromium-browser", "google-chrome")}


def find(program: str) -> str | None:
    """Where a program is."""
    if program == "initdb":  # of the version in POSTGRESQL, else of the newest
        version = os.environ.get("POSTGRESQL") or "*"
        return max(map(str, Path("/usr/lib/postgresql").glob(f"{version}/bin/initdb")), default=None)
    if program == "libatomic":  # of the driver of browsers
        return ctypes.util.find_library("atomic")
    return next((path for name in _ALSO.get(program, (program,)) if (path := shutil.which(name))), None)


def lacking(*programs: str, root: bool = False) -> str:
    """Why a test that needs these cannot run here; empty when it can."""
    if absent := [program for program in programs if find(program) is None]:
        return f"{NEEDS}{', '.join(absent)}: `make services`"
    return f"{NEEDS}root: run `make test` as root, in a container for instance" if root and os.geteuid() != 0 else ""


def need(*programs: str, root: bool = False) -> None:
    """Skip the test, or the tests of a fixture, unless they can run here."""
    if why := lacking(*programs, root=root):
        pytest.skip(why)


def summary(reasons: Iterable[str]) -> list[str]:
    """What was skipped for want of something, and how to get it, most tests first."""
    counted = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    return [f"{number:5} {reason}" for reason, number in counted.most_common() if reason.startswith(NEEDS)]
