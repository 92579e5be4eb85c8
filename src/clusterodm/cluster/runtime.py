# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Clock, leadership and metrics of one process, handed over together."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.aio import Clock, Leadership
from clusterodm.observe import Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The surroundings of every loop."""

    clock: Clock
    leadership: Leadership
    metrics: Metrics
