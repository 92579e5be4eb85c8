# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wiring: builds the parts of a cluster and hands each its collaborators; knows every part, and decides nothing."""

from clusterodm.server.assembly.base import ClusterIdentity
from clusterodm.server.assembly.planes import Parts, build

__all__ = ["ClusterIdentity", "Parts", "build"]
