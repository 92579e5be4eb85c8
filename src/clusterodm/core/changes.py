# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The columns that may change, for `**changes`: all but the keys.

A test checks each against its record.
"""

from __future__ import annotations

from typing import Any, TypedDict

from clusterodm.core.nodes import NodeAddress, Origin
from clusterodm.core.tasks import Cleanup, Outcome, Stage


class Progress(TypedDict, total=False):
    """Columns of a task that follow its node, stored from time to time and at each phase change."""

    progress: float
    processing_time: int
    node_code: int
    added_options: list[dict[str, Any]]


class TaskChanges(Progress, total=False):
    """Columns of `core.tasks.Task`; its phase changes with `advance` alone, its version with every change."""

    owner: str
    name: str
    options: list[dict[str, Any]]
    skip_post_processing: bool
    outputs: list[str]
    webhook: str
    zipurl: str
    date_created: int
    submodel: bool
    job: str
    job_attempt: int
    priority: int
    share: float
    concurrency: int
    file_count: int
    image_count: int
    counted_files: int
    byte_count: int
    committed_at: float
    finished_at: float
    outcome: Outcome | None
    error: str
    attempts: int
    charged: int
    not_before: float
    larger_than: int
    more_memory_than: int
    alone: bool
    avoid: list[int]
    webhook_due: bool
    approval_due: bool
    billing_due: bool
    expected_memory: int
    results_in: str


class AttemptChanges(TypedDict, total=False):
    """Columns of `core.tasks.Attempt`."""

    stage: Stage
    started_at: float
    ended_at: float
    reason: str
    console_start: int
    cleanup: Cleanup
    sender: str
    expected_images: int


class MachineChanges(TypedDict, total=False):
    """Columns of `core.machines.Machine`; its state changes with `advance` alone."""

    size: str
    location: str
    spot: bool
    max_images: int
    slots: int
    price: float
    task: str
    provider_id: str
    address: str
    token: str
    node_id: int
    volumes: list[str]
    booting_at: float
    ready_at: float
    idle_since: float
    gone_at: float
    kept: bool
    reason: str


class NodeTerms(TypedDict, total=False):
    """Columns of `core.nodes.NodeRecord` that are set when a node is added."""

    origin: Origin
    labels: dict[str, str]
    slots: int
    lease_until: float
    ends_at: float
    drain_before: float


class NodeChanges(NodeTerms, total=False):
    """Columns of `core.nodes.NodeRecord`."""

    address: NodeAddress
    locked: bool
    draining: bool
    removed: bool
