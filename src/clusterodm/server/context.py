# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One cluster as the composition root sees it: both planes, and the parts that only loops and the start need."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.admin.plane import OperatorPlane
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.cluster.tasks.forecasts import Forecasts
from clusterodm.cluster.tasks.tracker import Tracker
from clusterodm.proxy.context import ClientPlane


@dataclass(frozen=True, kw_only=True)
class Context(ClientPlane, OperatorPlane):
    """Handed to each plane as what that plane declares."""

    collector: Collector
    tracker: Tracker
    forecasts: Forecasts
