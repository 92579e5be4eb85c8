# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must survive a restart, in SQL."""

from clusterodm.store.store import PROGRESS, NodeRecord, Store

__all__ = ["PROGRESS", "NodeRecord", "Store"]
