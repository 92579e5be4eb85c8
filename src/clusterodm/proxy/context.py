# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the handlers work with, and who is calling."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from clusterodm.auth import Grant
from clusterodm.cluster.context import Context
from clusterodm.core.errors import Unauthorized

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
