# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the handlers work with, and who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from clusterodm.auth import Authenticator, Grant
from clusterodm.cluster.collector import Collector
from clusterodm.cluster.control import Control
from clusterodm.cluster.intake import Intake
from clusterodm.cluster.registry import Registry
from clusterodm.cluster.tasks import Tasks
from clusterodm.cluster.tracker import Tracker
from clusterodm.console import Consoles
from clusterodm.core.errors import Unauthorized
from clusterodm.nodeodm import NodeClient
from clusterodm.results import Results
from clusterodm.settings import Settings
from clusterodm.spool import Spool
from clusterodm.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts of the cluster that the data plane uses."""

    settings: Settings
    store: Store
    tasks: Tasks
    registry: Registry
    intake: Intake
    control: Control
    collector: Collector
    tracker: Tracker
    consoles: Consoles
    spool: Spool
    results: Results
    client: NodeClient
    authenticator: Authenticator


CONTEXT: Final = web.AppKey("context", Context)


def context(request: web.Request) -> Context:
    """The context of a request."""
    return request.app[CONTEXT]


async def caller(request: web.Request) -> Grant:
    """Who calls: the token of the query or of an Authorization header. Raises Unauthorized."""
    token = request.query.get("token", "") if request.query_string else ""
    if not token:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = value.strip() if scheme.lower() == "bearer" else ""
    grant = await context(request).authenticator.grant(token)
    if grant is None:
        raise Unauthorized("no valid token")
    return grant
