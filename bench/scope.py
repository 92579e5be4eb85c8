# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much is measured: all of it, or a glimpse that says whether the benchmark works."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.report import Report

QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 5
GB = 200_000_000 if QUICK else 1_000_000_000
FILES = 25
#: Seconds of one measurement of small requests.
SECONDS = 2 if QUICK else 5


@dataclass(frozen=True)
class Scope:
    """Where a measurement keeps its files, and what it reports to."""

    folder: Path
    report: Report
    #: The file that nodes deliver, 1 GB, and the photos that make 1 GB.
    large: Path
    photos: list[Path]
