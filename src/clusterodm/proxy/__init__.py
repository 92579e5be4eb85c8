# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients talk to: the NodeODM API, answered from memory wherever that is possible."""

from clusterodm.proxy.context import CONTEXT
from clusterodm.proxy.hot import Front, Hot
from clusterodm.proxy.routes import make_app

__all__ = ["CONTEXT", "Front", "Hot", "make_app"]
