# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Split-merge: how long submodels live."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from clusterodm.core.tasks import ON_NODE, Outcome, Phase, Task

#: Seconds for which, after a job left its node, its token stays good for its own submodels, and these are kept.
GRACE: Final = 600.0


class Fate(Enum):
    """What happens to a submodel."""

    STAYS = auto()
    CANCEL = auto()
    REMOVE = auto()


def is_under_way(job: Task, attempt: int) -> bool:
    """Return whether this attempt of a job is on a node, so that its submodels are of use."""
    return job.phase in ON_NODE and job.attempts == attempt


def fate(task: Task, job: Task | None, age: float) -> Fate:
    """Decide about a submodel of `job` (None: there is none any more), `age` seconds after its attempt left its node.

    Nobody merges the submodels of an attempt that is over. Those that still wait or run are canceled at once, so that
    an engine that outlived its attempt ends, too: it gives up over a canceled submodel, but sends a missing one again.
    """
    if job is None or job.phase is Phase.REMOVED:
        return Fate.REMOVE
    if is_under_way(job, task.job_attempt):
        return Fate.STAYS
    if age >= GRACE or task.phase is Phase.RECEIVING:
        return Fate.REMOVE
    completed = job.outcome is Outcome.COMPLETED and job.attempts == task.job_attempt
    return Fate.STAYS if completed or task.phase in (Phase.COLLECTING, Phase.FINISHED) else Fate.CANCEL
