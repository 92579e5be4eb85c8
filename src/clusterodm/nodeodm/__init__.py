# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client side of the NodeODM API: calls, bulk uploads and resumable downloads; nothing here knows the cluster's
tasks or their phases."""

from clusterodm.nodeodm.client import CALL_TIMEOUT, NodeClient, Snapshot
from clusterodm.nodeodm.download import Download
from clusterodm.nodeodm.transfer import RateLimit, Transfer, Transfers
from clusterodm.nodeodm.trust import Trust

__all__ = ["CALL_TIMEOUT", "Download", "NodeClient", "RateLimit", "Snapshot", "Transfer", "Transfers", "Trust"]
