# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parameters of operations. Descriptions are shown by OpenAPI and `--help`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from clusterodm.admin.views import View
from clusterodm.core.tasks import Outcome, Phase

#: Entries of a page of tasks or uploads.
MAX_PAGE: Final = 500
#: Range of priorities; higher goes first.
LOWEST, HIGHEST = -1000, 1000
#: Phases and outcomes that a list of tasks can be filtered by.
PHASES: Final = [str(phase) for phase in Phase if phase is not Phase.REMOVED]
OUTCOMES: Final = [str(outcome) for outcome in Outcome]
STATES: Final = (*PHASES, *OUTCOMES)

_IPV6: Final = "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
_NAME: Final = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?"
_AFTER: Final = r"(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?"
_HOST: Final = rf"^(https?://)?{_NAME}{_AFTER}$|^{_IPV6}$|^https?://\[{_IPV6}\]{_AFTER}$"
_STATE: Final = f"({'|'.join(STATES)})"
_STATES: Final = f"^({_STATE}(,{_STATE})*)?$"
_ID: Final = "^[0-9a-fA-F-]{4,36}$"

Certificate = Literal["verified", "any"]
CostKey = Literal["owner", "task", "machine"]
Label = Annotated[str, Meta(max_length=200)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Entries to return.")]
Offset = Annotated[int, Meta(ge=0, le=10**9, description="Entries to skip.")]


class Nothing(View):
    """No parameters."""


class NodeId(View):
    """Names a node."""

    id: Annotated[int, Meta(ge=1, le=2**31 - 1, description="Id of a node.")]


class TaskId(View):
    """Names a task."""

    uuid: Annotated[str, Meta(pattern=_ID, description="Id of a task, or a unique prefix of it.")]


class UploadId(View):
    """Names an upload."""

    uuid: Annotated[str, Meta(pattern=_ID, description="Id of an upload, or a unique prefix of it.")]


class MachineId(View):
    """Names a machine."""

    machine: Annotated[
        str, Meta(pattern="^[A-Za-z0-9-]{4,100}$", description="Id of a machine, or a unique suffix of it.")
    ]


class AnyMachineId(MachineId):
    """Names a machine, which may be gone."""


class NodeNumber(View):
    """A node by its place in the list."""

    #: From 1; None: all nodes.
    number: int | None = None


class NewNode(View):
    """A node to add."""

    host: Annotated[
        str,
        Meta(
            pattern=_HOST,
            max_length=300,
            description="Host name, address or URL; `https://` for a node that speaks TLS.",
        ),
    ]
    port: Annotated[int, Meta(ge=0, le=65535, description="0: the port in `host`, or the default port.")] = 0
    token: Annotated[str, Meta(max_length=1000, description="Token that the node requires.")] = ""
    certificate: Annotated[Certificate, Meta(description="Accepted certificates of a node that speaks TLS.")] = (
        "verified"
    )


class NewLease(NewNode):
    """A node that registers itself, or renews its lease. Durations are seconds."""

    labels: Annotated[dict[Label, Label], Meta(max_length=50)] = msgspec.field(default_factory=dict)
    slots: Annotated[int, Meta(ge=0, le=10_000, description="Parallel tasks; 0: as many as the node reports.")] = 0
    ttl: Annotated[float, Meta(ge=5, le=86400, description="Lifetime of the lease unless renewed.")] = 60.0
    ends_in: (
        Annotated[float, Meta(ge=0, le=3e7, description="Time until the node is switched off, if known.")] | None
    ) = None
    drain_before: Annotated[
        float, Meta(ge=0, le=3e7, description="The node accepts no new tasks this long before its end.")
    ] = 0.0


class Images(View):
    """Size of a task."""

    images: Annotated[int, Meta(ge=0, le=10_000_000, description="Number of images of the task.")]


class Month(View):
    """A month of costs."""

    month: Annotated[
        str, Meta(pattern=r"^([0-9]{4}-[0-9]{2})?$", description="As 2026-11; the current month by default.")
    ] = ""
    by: Annotated[CostKey, Meta(description="Sum by owner, task or machine.")] = "owner"


class TaskQuery(View):
    """Filter and page of a list of tasks."""

    state: Annotated[
        str, Meta(pattern=_STATES, description=f"Comma-separated phases and outcomes: {', '.join(STATES)}.")
    ] = ""
    owner: Annotated[str, Meta(max_length=200, description="Owner of the tasks.")] = ""
    text: Annotated[str, Meta(max_length=200, description="Prefix of an id, or part of a name.")] = ""
    limit: Limit = 50
    offset: Offset = 0


class Page(View):
    """A page of a list."""

    limit: Limit = 50
    offset: Offset = 0


class ConsoleLines(View):
    """Part of a console."""

    line: Annotated[
        int, Meta(ge=-(10**9), le=10**9, description="First line to return; negative: counted from the end.")
    ] = 0


class Priority(View):
    """Priority of a task."""

    priority: Annotated[int, Meta(ge=LOWEST, le=HIGHEST, description="Higher goes first; the default is 0.")]


class Span(View):
    """A period up to now."""

    hours: Annotated[float, Meta(gt=0, le=24 * 31, description="Hours to look back.")] = 24.0
