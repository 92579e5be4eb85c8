# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on split-merge jobs: can their nodes reach the address that the jobs were given?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from clusterodm.commands.doctor_nodes import database_to_read
from clusterodm.commands.finding import Finding
from clusterodm.core.errors import StoreDown
from clusterodm.core.nodes import NodeAddress
from clusterodm.core.options import split_cluster
from clusterodm.core.splitmerge import unusable
from clusterodm.settings import Settings
from clusterodm.store import ask_options

_FIX: Final = (
    "set --public-address to a URL under which nodes reach this cluster; cancel these jobs and submit them again"
)


async def check_split_jobs(settings: Settings, nodes: list[NodeAddress]) -> list[Finding]:
    """Find running jobs whose nodes cannot send their submodels to the cluster."""
    url = database_to_read(settings)
    try:
        options = await ask_options(url) if url else []
    except StoreDown:
        return []  # a finding on the database
    hosts = [node.host for node in nodes] or ["elsewhere"] * bool(settings.asr)
    return list(_unusable(Counter(filter(None, map(split_cluster, options))), hosts))


def _unusable(addresses: Counter[str], hosts: list[str]) -> Iterator[Finding]:
    for address, count in addresses.items():
        if why := unusable(address, hosts):
            jobs = f"{count} jobs cannot send their" if count > 1 else "a job cannot send its"
            yield Finding("split-merge", "error", f"{jobs} submodels to {address}: {why}", _FIX)
