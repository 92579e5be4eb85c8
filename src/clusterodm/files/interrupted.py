# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Imported files whose upload may have been interrupted: their client sends them again, complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_BLOCK: Final = 1 << 20


def mark_imported(path: Path) -> None:
    """Mark a file that may be cut short."""
    os.utime(path, (0, 0))


def is_cut_short(imported: Path, whole: Path) -> bool:
    """Return True if an imported file is only the beginning of another one."""
    status = imported.stat()
    if status.st_mtime != 0 or status.st_size >= whole.stat().st_size:
        return False
    with imported.open("rb") as beginning, whole.open("rb") as complete:
        while block := beginning.read(_BLOCK):
            if block != complete.read(len(block)):
                return False
    return True
