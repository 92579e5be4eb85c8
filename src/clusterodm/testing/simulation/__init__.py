# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A deterministic world for whole programs: virtual time, hosts and processes that crash, a network that loses, stalls
and splits, disks that lose power, clocks that jump. One seed gives one history.

Everything in the world runs in one thread on one event loop. Only the seed chooses; code that would see the real time,
a real socket or a thread raises RealWorldError instead.
"""

from clusterodm.testing.simulation.cloud import CloudActor
from clusterodm.testing.simulation.disk import Disk
from clusterodm.testing.simulation.errors import Deadlock, RealWorldError
from clusterodm.testing.simulation.history import Event, History
from clusterodm.testing.simulation.hosts import Host, Process, Program
from clusterodm.testing.simulation.loop import VirtualLoop
from clusterodm.testing.simulation.network import Network
from clusterodm.testing.simulation.nodes import NodeActor
from clusterodm.testing.simulation.world import EPOCH, Simulation

__all__ = [
    "EPOCH",
    "CloudActor",
    "Deadlock",
    "Disk",
    "Event",
    "History",
    "Host",
    "Network",
    "NodeActor",
    "Process",
    "Program",
    "RealWorldError",
    "Simulation",
    "VirtualLoop",
]
