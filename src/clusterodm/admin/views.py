# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators are shown: typed results of the operations, the same for shell, web, page and commands.

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
    """One node. `number` is its place in the list, `id` stays the same for ever."""

    id: int
    number: int
    name: str
    url: str
    online: bool
    #: Why it gets nothing new; empty: it may.
    closed: str
    locked: bool
    draining: bool
    #: Nothing runs there and all its results are here: it can be switched off.
    drained: bool
    origin: Origin
    labels: dict[str, str]
    slots: int
    #: Slots that are used, as the node says, and those of tasks on their way there.
    used: int
    reserved: int
    max_images: int | None
    engine: str
    engine_version: str
    api_version: str
    cpu_cores: int
    total_memory: int
    available_memory: int
    #: What went wrong at the last look; empty: nothing.
    error: str
    seen_at: float
    #: It gets nothing before this time because it failed lately.
    set_aside_until: float
    lease_until: float
    ends_at: float
    #: Tasks of ours that are there.
    tasks: list[str]


class MachineView(View):
    """One machine."""

    id: str
    provider: str
    state: State
    size: str
    location: str
    spot: bool
    max_images: int
    slots: int
    #: An hour's; 0: not known. And what it has cost so far.
    price: float
    cost: float
    #: What its provider calls it.
    provider_id: str
    #: Its node, once it is known.
    node: str
    #: The task that it was ordered for, and those that are on it.
    ordered_for: str
    tasks: list[str]
    ordered_at: float
    ready_at: float
    #: Since when it has had nothing to do; 0: it has.
    idle_since: float
    gone_at: float
    #: An operator wants it to stay.
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
    """What would be created for a task."""

    provider: str
    size: str
    location: str
    spot: bool
    max_images: int
    price: float
    why: str
    #: What it would be told to do; secrets are masked.
    document: str


class CostView(View):
    """What machines have cost; `key`: an owner, a task or a machine, empty: while they had nothing to do."""

    key: str
    hours: float
    amount: float


class TaskView(View):
    """One task in short."""

    uuid: str
    name: str
    owner: str
    phase: Phase
    #: The status code that clients are shown; 0 while it receives files.
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
    #: What its node said; -1: nothing yet.
    processing_seconds: float
    #: Node and number of the latest attempt; empty and 0: there was none.
    node: str
    attempt: int
    started_at: float
    #: While it waits: why, where in the queue (from 1, 0: it does not wait), and a guess of how long.
    wait: str
    position: int
    expected_wait: float | None


class AttemptView(View):
    """One try on one node."""

    number: int
    node: str
    node_uuid: str
    stage: str
    started_at: float
    ended_at: float
    reason: str
    #: What is still to be done on its node.
    cleanup: str


class EventView(View):
    """One line of a timeline."""

    at: float
    text: str


class FileView(View):
    """One file."""

    name: str
    size: int


class OptionView(View):
    """One option of a task."""

    name: str
    value: bool | int | float | str | None


class TaskDetail(View):
    """One task with all that is known of it."""

    task: TaskView
    #: Why it is as it is, in a sentence.
    why: str
    options: list[OptionView]
    attempts: list[AttemptView]
    timeline: list[EventView]
    #: Held files, at most 1,000 of them.
    held_files: list[FileView]
    #: Files in kept results, at most 1,000 of them.
    results: list[FileView]
    #: Where the results are: "here", a bucket, the name of a node, or empty.
    results_at: str
    console_lines: int


class TaskPage(View):
    """A page of tasks, latest commit first."""

    tasks: list[TaskView]
    total: int


class UploadView(View):
    """One upload that is not committed. It may be of several requests."""

    uuid: str
    name: str
    owner: str
    #: What is here of it: whole files, and bytes with those that are being received.
    files: int
    bytes: int
    #: The node that gets its files ahead of the commit; empty: none does.
    node: str
    created_at: float
    #: When bytes came last, and how long ago that is.
    active_at: float
    idle_seconds: float
    #: receiving: bytes arrive now; idle; abandoned: idle for so long that it is given up as soon as room is short.
    state: str


class UploadPage(View):
    """A page of uploads, longest idle first; `total` and `bytes` are of all."""

    uploads: list[UploadView]
    total: int
    bytes: int


class Why(View):
    """Why a task is as it is."""

    uuid: str
    phase: Phase
    why: str


class Done(View):
    """An order was carried out; `text` says what that means."""

    text: str


class ClusterStatus(View):
    """The cluster at a glance."""

    version: str
    #: well: everything runs; busy: tasks wait for slots; trouble: see `problems`.
    health: str
    problems: list[str]
    started_at: float
    #: Processes that are this cluster, and the one of them that places, tracks and decides.
    replicas: list[str]
    leader: str
    nodes: int
    nodes_online: int
    #: Nodes that get nothing new.
    nodes_closed: int
    slots: int
    slots_used: int
    #: Providers of machines, and machines that are not gone.
    providers: int
    machines: int
    #: What machines have cost this month.
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
    #: How long the task that waits longest has waited.
    longest_wait: float
    #: Guess for a task that came now; None: no guess.
    expected_wait: float | None
    #: Bytes of held files, and bytes that may still come.
    held_bytes: int
    room_bytes: int
    #: Bytes of what no task has any more: they go first when room is short.
    trash_bytes: int


class SettingView(View):
    """One setting; a secret is shown as `***` when it is set."""

    name: str
    value: str
    default: str
    description: str
    secret: bool


class Bar(View):
    """One attempt as a bar of the picture by node."""

    task: str
    name: str
    attempt: int
    images: int
    started_at: float
    #: 0: it goes on.
    ended_at: float
    #: running, completed, failed, canceled or lost.
    state: str
    reason: str


class NodeHistory(View):
    """What one node did."""

    node: str
    bars: list[Bar]


class History(View):
    """What all nodes did between two times; `complete` unless there were too many attempts to show."""

    since: float
    until: float
    complete: bool
    lanes: list[NodeHistory]


class Hour(View):
    """Figures of one span of time."""

    at: float
    completed: int
    failed: int
    canceled: int
    images: int
    #: Median seconds from the commit to the first attempt, of tasks that ended in it; None: there were none.
    wait: float | None


class Charts(View):
    """Figures of the last day; each span is `seconds` long."""

    seconds: float
    hours: list[Hour]


class Lease(View):
    """A node that registered itself."""

    node: NodeView
    #: Seconds after which it must be renewed.
    ttl: float
