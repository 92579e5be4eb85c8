# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts that launch and delete machines."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.cluster.machines.autoscaler import Autoscaler
from clusterodm.cluster.machines.lifecycle import Lifecycle
from clusterodm.cluster.machines.reaper import Reaper
from clusterodm.server.assembly.base import Base
from clusterodm.server.assembly.tasks import Following, Placing


@dataclass(frozen=True)
class Scaling:
    """The parts that launch and delete machines."""

    lifecycle: Lifecycle
    autoscaler: Autoscaler
    reaper: Reaper


def scale(base: Base, following: Following, placing: Placing) -> Scaling:
    """Make them."""
    fleet, state, cluster, clock = base.fleet, base.state, base.own.cluster, base.runtime.clock
    lifecycle = Lifecycle(
        fleet,
        state.machines,
        state.registry,
        following.attempts,
        cluster=cluster,
        interval=base.settings.machine_poll_interval,
        leadership=base.runtime.leadership,
        clock=clock,
    )
    autoscaler = Autoscaler(
        fleet=fleet,
        state=state,
        lifecycle=lifecycle,
        spool=base.files.spool,
        outlook=placing.outlook,
        cluster=cluster,
        clock=clock,
    )
    reaper = Reaper(fleet=fleet, machines=state.machines, cluster=cluster, clock=clock)
    return Scaling(lifecycle, autoscaler, reaper)
