# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators talk to: each verb once (nodes, tasks, figures), thin under the shell, the web API, the page."""

from clusterodm.admin.feed import TICK, Feed
from clusterodm.admin.metrics import Looked
from clusterodm.admin.shell import Shell
from clusterodm.admin.web import make_admin_app

__all__ = ["TICK", "Feed", "Looked", "Shell", "make_admin_app"]
