# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results of operations, the same for shell, API, page and commands.

Times are seconds since the epoch (0: not yet), durations seconds, sizes bytes.
"""

from __future__ import annotations

import msgspec

from clusterodm.core.machines import State
from clusterodm.core.nodes import Origin
from clusterodm.core.tasks import Outcome, Phase


class View(msgspec.Struct, kw_only=True):
    """Base of all results."""


class NodeView(View):
    """A node. `number` is its place in the list, `id` never changes."""

    id: int
    number: int
    name: str
    url: str
    online: bool
    #: Why it accepts no new tasks; empty if it does.
    closed: str
    locked: bool
    draining: bool
    #: Nothing is running there and all its results are fetched: it can be switched off.
    drained: bool
    origin: Origin
    labels: dict[str, str]
    slots: int
    #: Slots in use, as the node reports, and those reserved for tasks that are being sent.
    used: int
    reserved: int
    max_images: int | None
    engine: str
    engine_version: str
    api_version: str
    cpu_cores: int
    total_memory: int
    available_memory: int
    #: Error of the last poll; empty if there was none.
    error: str
    seen_at: float
    #: It accepts no tasks before this time because it failed recently.
    set_aside_until: float
    lease_until: float
    ends_at: float
    #: Tasks of this cluster on it.
    tasks: list[str]


class MachineView(View):
    """A machine."""

    id: str
    provider: str
    state: State
    size: str
    location: str
    spot: bool
    max_images: int
    slots: int
    #: Price of an hour (0: unknown), and cost so far.
    price: float
    cost: float
    #: Its id at the provider.
    provider_id: str
    #: Its node, once that is registered.
    node: str
    #: The task that it was ordered for, and the tasks on it.
    ordered_for: str
    tasks: list[str]
    ordered_at: float
    ready_at: float
    #: Since when it has been idle; 0 if it is busy.
    idle_since: float
    gone_at: float
    #: An operator keeps it although it is idle.
    kept: bool
    #: Why it is in this state.
    reason: str


class MachineEventView(View):
    """One line of a machine's history: the state that it entered, when and why."""

    at: float
    state: State
    text: str


class MachineDetail(View):
    """One machine with its history, oldest line first."""

    machine: MachineView
    history: list[MachineEventView]


class MachinePlan(View):
    """The machine that would be created for a task."""

    provider: str
    size: str
    location: str
    spot: bool
    max_images: int
    price: float
    why: str
    #: Its start-up document; secrets are masked.
    document: str


class CostView(View):
    """Cost of machines; `key`: an owner, a task or a machine, empty for idle time."""

    key: str
    hours: float
    amount: float


class TaskView(View):
    """Summary of a task."""

    uuid: str
    name: str
    owner: str
    phase: Phase
    #: The status code that clients see; 0 while it receives files.
    status: int
    outcome: Outcome | None
    error: str
    progress: float
    images: int
    files: int
    bytes: int
    priority: int
    submodel: bool
    created_at: float
    committed_at: float
    finished_at: float
    #: As its node reports; -1: nothing yet.
    processing_seconds: float
    #: Node and number of the latest attempt; empty and 0 if there was none.
    node: str
    attempt: int
    started_at: float
    #: While it is queued: why, its position (from 1; 0: not queued), and the expected wait.
    wait: str
    position: int
    expected_wait: float | None


class AttemptView(View):
    """An attempt at a task on a node."""

    number: int
    node: str
    node_uuid: str
    stage: str
    started_at: float
    ended_at: float
    reason: str
    #: Cleanup that is pending on its node.
    cleanup: str


class EventView(View):
    """An event of a timeline."""

    at: float
    text: str


class FileView(View):
    """A file."""

    name: str
    size: int


class OptionView(View):
    """An option of a task."""

    name: str
    value: bool | int | float | str | None


class TaskDetail(View):
    """Everything known about a task."""

    task: TaskView
    #: Its state in a sentence.
    why: str
    options: list[OptionView]
    attempts: list[AttemptView]
    timeline: list[EventView]
    #: Held files, at most 1,000.
    held_files: list[FileView]
    #: Files in kept results, at most 1,000.
    results: list[FileView]
    #: Where the results are: "here", a bucket, the name of a node, or empty.
    results_at: str
    console_lines: int


class TaskPage(View):
    """A page of tasks, latest commit first."""

    tasks: list[TaskView]
    total: int


class UploadView(View):
    """An upload that is not committed, of one or more requests."""

    uuid: str
    name: str
    owner: str
    #: Complete files, and bytes including incomplete files.
    files: int
    bytes: int
    #: The node that its files are prefetched to; empty if none.
    node: str
    created_at: float
    #: When bytes last arrived, and how long ago that was.
    active_at: float
    idle_seconds: float
    #: receiving: bytes arrive now; idle; abandoned: idle for so long that it is dropped when disk space is short.
    state: str


class UploadPage(View):
    """A page of uploads, longest idle first; `total` and `bytes` are of all."""

    uploads: list[UploadView]
    total: int
    bytes: int


class Why(View):
    """The state of a task in a sentence."""

    uuid: str
    phase: Phase
    why: str


class Done(View):
    """The operation was carried out; `text` says what happened."""

    text: str


class ClusterStatus(View):
    """The state of the cluster."""

    version: str
    #: healthy: everything runs; busy: tasks wait for slots; degraded: see `problems`.
    health: str
    problems: list[str]
    started_at: float
    #: Replicas of this cluster, and the one that is the leader.
    replicas: list[str]
    leader: str
    nodes: int
    nodes_online: int
    #: Nodes that accept no new tasks.
    nodes_closed: int
    slots: int
    slots_used: int
    #: Providers of machines, and machines that are not gone.
    providers: int
    machines: int
    #: Cost of machines this month.
    month_cost: float
    #: Uploads that are not committed, and their bytes.
    receiving: int
    receiving_bytes: int
    queued: int
    dispatching: int
    running: int
    collecting: int
    completed: int
    failed: int
    canceled: int
    #: Longest wait of a queued task so far.
    longest_wait: float
    #: Estimate for a new task; None if there is none.
    expected_wait: float | None
    #: Bytes of held files, and bytes that there is still room for.
    held_bytes: int
    room_bytes: int
    #: Bytes that belong to no task any more: deleted first when disk space is short.
    trash_bytes: int


class SettingView(View):
    """A setting; a secret that is set is shown as `***`."""

    name: str
    value: str
    default: str
    description: str
    secret: bool


class Bar(View):
    """An attempt as a bar of the history."""

    task: str
    name: str
    attempt: int
    images: int
    started_at: float
    #: 0 while it runs.
    ended_at: float
    #: running, completed, failed, canceled or lost.
    state: str
    reason: str


class NodeHistory(View):
    """The attempts on a node."""

    node: str
    bars: list[Bar]


class History(View):
    """The attempts on all nodes in a period; not `complete` if there were too many."""

    since: float
    until: float
    complete: bool
    lanes: list[NodeHistory]


class Hour(View):
    """Figures of an hour."""

    at: float
    completed: int
    failed: int
    canceled: int
    images: int
    #: Median seconds from the commit to the first attempt of tasks that ended in it; None if there were none.
    wait: float | None


class Charts(View):
    """Figures of the last 24 hours, in periods of `seconds`."""

    seconds: float
    hours: list[Hour]


class Lease(View):
    """The lease of a node."""

    node: NodeView
    #: Seconds within which it must be renewed.
    ttl: float
