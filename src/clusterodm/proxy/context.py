# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the handlers work with, and who is calling."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from clusterodm.auth import Grant, submodel_owner
from clusterodm.cluster.context import Context
from clusterodm.core.errors import Unauthorized
from clusterodm.core.tasks import ON_NODE
from clusterodm.proxy.forwarded import Proxies

CONTEXT: Final = web.AppKey("context", Context)
PROXIES: Final = web.AppKey("proxies", Proxies)


def context(request: web.Request) -> Context:
    """The context of a request."""
    return request.app[CONTEXT]


async def caller(request: web.Request) -> Grant:
    """Who calls: the token of the query or of an Authorization header. Raises Unauthorized."""
    token = request.query.get("token", "") if request.query_string else ""
    if not token:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = value.strip() if scheme.lower() == "bearer" else ""
    cluster = context(request)
    grant = _job_grant(cluster, token) or await cluster.authenticator.grant(token)
    if grant is None:
        raise Unauthorized("no valid token")
    return grant


def _job_grant(cluster: Context, token: str) -> Grant | None:
    """What a split-merge job may do: anything with its own submodels, until it is over."""
    uuid = cluster.jobs.task(token) if token and not cluster.authenticator.open else None
    entry = cluster.tasks.get(uuid) if uuid else None
    if entry is None or entry.task.phase not in ON_NODE:
        return None
    task = entry.task
    return Grant(owner=submodel_owner(task.owner, task.uuid), priority=task.priority, share=task.share)
