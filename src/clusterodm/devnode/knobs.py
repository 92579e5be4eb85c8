# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a development node behaves."""

from __future__ import annotations

from typing import Final

import msgspec

PACKING: Final = "results"
DELIVERY: Final = "delivery"
#: Error texts of a real node by what `--fail` calls them; it has none when it cannot pack the results, or cannot
#: deliver them to its bucket and only has them itself.
FAILURES: Final = {
    "memory": "Not enough memory",
    "cpu": "Unsupported CPU",
    "dataset": "Cannot process dataset",
    "installation": "Installation issue",
    "other": "Processing failed (99)",
    PACKING: "",
    DELIVERY: "",
    "disk": "EROFS: read-only file system, mkdir 'data/x'",
}


class Knobs(msgspec.Struct, kw_only=True):
    """How the node behaves. Chances are between 0 (never) and 1 (always); they may be changed while it runs."""

    slots: int = 1
    max_images: int | None = None
    token: str = ""
    #: How long a task takes.
    seconds: float = 5.0
    #: What tasks fail with (a key of FAILURES); empty: they do not.
    fail: str = ""
    fail_chance: float = 1.0
    #: Chance that a request is never answered.
    hang: float = 0.0
    #: Chance that an upload's connection is closed instead of answered; half of them after the file was stored.
    drop: float = 0.0
    #: Chance that an upload is answered with 500 before anything of it is stored.
    refuse: float = 0.0
    #: Seconds that every answer is late.
    slow: float = 0.0
    #: Chance that a task is forgotten while it runs, as by a killed node.
    forget: float = 0.0
    #: Minutes after which tasks that are over, and uploads that were never committed, are deleted; None: never.
    cleanup_tasks_after: int | None = 2880
    cleanup_uploads_after: int | None = 2880
    #: Called at the end of every task, beside the task's own.
    webhook: str = ""
    #: Largest `max-concurrency` that a task may have; every task gets it. 0: any.
    max_concurrency: int = 0
    total_memory: int = 16 << 30
    engine: str = "odm"
    seed: int | None = None
