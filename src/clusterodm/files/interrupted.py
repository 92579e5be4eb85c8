# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Imported files whose sender may have been interrupted in the middle: it sends such a file again, as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_BLOCK: Final = 1 << 20


def mark_imported(path: Path) -> None:
    """Note that a file may be cut short."""
    os.utime(path, (0, 0))


def is_cut_short(imported: Path, whole: Path) -> bool:
    """True if an imported file is nothing but the beginning of another one."""
    found = imported.stat()
    if found.st_mtime != 0 or found.st_size >= whole.stat().st_size:
        return False
    with imported.open("rb") as beginning, whole.open("rb") as complete:
        while block := beginning.read(_BLOCK):
            if block != complete.read(len(block)):
                return False
    return True
