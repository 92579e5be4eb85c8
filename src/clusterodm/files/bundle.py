# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The folders of one cluster, handed over together."""

from __future__ import annotations

from dataclasses import dataclass

from clusterodm.files.archives import Bounds
from clusterodm.files.console import Consoles
from clusterodm.files.results import Results
from clusterodm.files.spool import Spool
from clusterodm.files.trash import Trash


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """All that lies on disk."""

    spool: Spool
    consoles: Consoles
    results: Results
    trash: Trash
    #: The most that is accepted of one upload or archive.
    bounds: Bounds
