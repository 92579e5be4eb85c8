# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Split-merge: how long submodels live, which wait behind their own jobs, and which address the engine can use."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from clusterodm.core.options import split_cluster
from clusterodm.core.tasks import ON_NODE, Outcome, Phase, Task

#: Seconds for which, after a job left its node, its token stays good for its own submodels, and these are kept.
GRACE: Final = 600.0


class Fate(Enum):
    """The fate of a submodel."""

    STAYS = auto()
    CANCEL = auto()
    REMOVE = auto()


def is_under_way(job: Task, attempt: int) -> bool:
    """Return True if this attempt of a job is on a node, so that its submodels are of use."""
    return job.phase in ON_NODE and job.attempts == attempt


def fate(task: Task, job: Task | None, age: float) -> Fate:
    """Decide about a submodel of `job` (None: there is none any more), `age` seconds after its attempt left its node.

    The submodels of an attempt that is over are never merged. Those that wait or run are canceled at once, so that an
    engine that outlived its attempt ends, too: it gives up over a canceled submodel, but sends a missing one again.
    """
    if job is None or job.phase is Phase.REMOVED:
        return Fate.REMOVE
    if is_under_way(job, task.job_attempt):
        return Fate.STAYS
    if age >= GRACE or task.phase is Phase.RECEIVING:
        return Fate.REMOVE
    completed = job.outcome is Outcome.COMPLETED and job.attempts == task.job_attempt
    return Fate.STAYS if completed or task.phase in (Phase.COLLECTING, Phase.FINISHED) else Fate.CANCEL


def stuck(tasks: Iterable[Task]) -> list[str]:
    """Return the submodels that wait behind their own jobs: all slots are taken by jobs, which wait for their
    submodels."""
    tasks = list(tasks)
    if any(task.phase in ON_NODE and not split_cluster(task.options) for task in tasks):
        return []
    return [task.uuid for task in tasks if task.phase is Phase.QUEUED and task.job and task.submodel]


def unusable(address: str, node_hosts: Iterable[str]) -> str:
    """Return why the engine on one of these nodes cannot send submodels to `address`; empty when it can.

    Its client (PyODM) knows scheme, host and port, takes TLS to be on port 443 and nowhere else, and puts no brackets
    around an IPv6 address.
    """
    split = urlsplit(address)
    try:
        host, port = split.hostname or "", split.port
    except ValueError:
        return "its port is none"
    if split.scheme == "https" and port not in (None, 443):
        return f"the engine speaks HTTPS on port 443 only, not on {port}"
    if split.scheme == "http" and port == 443:
        return "the engine speaks HTTPS on port 443"
    if ":" in host:
        return "the engine cannot use an IPv6 address; a host name is needed"
    if _is_local(host) and not all(map(_is_local, node_hosts)):
        return "nodes on other hosts cannot reach it"
    return ""


def _is_local(host: str) -> bool:
    """Return True if a host name or address means whichever host it is used on."""
    if host.rstrip(".").split(".")[-1].lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
