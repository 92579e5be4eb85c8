# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The behaviour of a development node."""

from __future__ import annotations

from typing import Final

import msgspec

PACKING: Final = "results"
DELIVERY: Final = "delivery"
#: Error texts of a real node by the values of `--fail`; empty if it cannot pack the results, or cannot deliver them to
#: its bucket.
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
    """The behaviour of a node. Chances are between 0 (never) and 1 (always); all may be changed while it runs."""

    slots: int = 1
    max_images: int | None = None
    token: str = ""
    #: Duration of a task.
    seconds: float = 5.0
    #: How tasks fail (a key of FAILURES); empty: they do not.
    fail: str = ""
    fail_chance: float = 1.0
    #: Chance that a request is never answered.
    hang: float = 0.0
    #: Chance that an upload's connection is closed instead of answered, half of the time after the file was stored.
    drop: float = 0.0
    #: Chance that an upload is answered with 500 before anything of it is stored.
    refuse: float = 0.0
    #: Delay of every response in seconds.
    slow: float = 0.0
    #: Chance that a running task is forgotten, as by a killed node.
    forget: float = 0.0
    #: Minutes after which finished tasks, and uploads that were never committed, are deleted; None: never.
    cleanup_tasks_after: int | None = 2880
    cleanup_uploads_after: int | None = 2880
    #: Webhook of every task, beside the task's own.
    webhook: str = ""
    #: Largest `max-concurrency` of a task, and the value of tasks without one. 0: no limit.
    max_concurrency: int = 0
    total_memory: int = 16 << 30
    engine: str = "odm"
    seed: int | None = None
    #: True if large uploads go around the web server.
    fast_paths: bool = True
