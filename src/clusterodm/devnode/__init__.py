# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node for demos, tests and benchmarks: NodeODM on the wire, without photogrammetry; knows nothing of a cluster."""

from clusterodm.devnode.knobs import Knobs
from clusterodm.devnode.node import DevNode
from clusterodm.devnode.routes import make_app, running_devnode

__all__ = ["DevNode", "Knobs", "make_app", "running_devnode"]
