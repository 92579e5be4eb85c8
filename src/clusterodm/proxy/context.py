# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What handlers need of a request: the cluster, and the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from clusterodm.aio import Clock
from clusterodm.auth import SHARED_OWNER, Authenticator, Grant, JobTokens
from clusterodm.cluster.delivery import Delivery
from clusterodm.cluster.replicas import Replicas
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.claims import Claims
from clusterodm.cluster.tasks.control import Control
from clusterodm.cluster.tasks.intake import Intake
from clusterodm.cluster.tasks.photos import Photos
from clusterodm.cluster.tasks.submodels import Submodels
from clusterodm.core.errors import Unauthorized
from clusterodm.core.forwarding import network_of
from clusterodm.files.console import Consoles
from clusterodm.files.spool import Spool
from clusterodm.http.forwarded import Proxies
from clusterodm.http.logins import Logins
from clusterodm.nodeodm import NodeClient
from clusterodm.observe import Metrics
from clusterodm.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ClientPlane:
    """The parts of a cluster that clients reach."""

    settings: Settings
    clock: Clock
    tasks: Tasks
    registry: Registry
    replicas: Replicas
    intake: Intake
    control: Control
    submodels: Submodels
    claims: Claims
    consoles: Consoles
    spool: Spool
    photos: Photos
    client: NodeClient
    delivery: Delivery
    authenticator: Authenticator
    jobs: JobTokens
    metrics: Metrics


CONTEXT: Final = web.AppKey("context", ClientPlane)
PROXIES: Final = web.AppKey("proxies", Proxies)
LOGINS: Final = web.AppKey("logins", Logins)


def context(request: web.Request) -> ClientPlane:
    """Return the cluster that a request is for."""
    return request.app[CONTEXT]


async def caller(request: web.Request, *, late: bool = False) -> Grant:
    """Return the grant of a request's token (in the query or an Authorization header). Raises Unauthorized. With `late`
    the token of a split-merge job stays valid for some minutes after the job left its node, so that it can end its
    parts."""
    token, cluster = token_of(request), context(request)
    job = cluster.jobs.job(token)  # verified by its signature, so it counts also where no token is needed
    grant = await (cluster.submodels.grant(job, late=late) if job else cluster.authenticator.grant(token))
    if grant is None:
        raise Unauthorized("no valid token")
    if not job:
        await _claim(request, grant, token)
    return grant


def token_of(request: web.Request) -> str:
    """Return the token of a request; empty if it has none."""
    if request.query_string and (token := request.query.get("token", "")):
        return token
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


async def _claim(request: web.Request, grant: Grant, token: str) -> None:
    """Hand over what was imported for this caller. A client that polls an imported upload has committed it before."""
    cluster = context(request)
    uuid = request.match_info.get("uuid", "").lower()
    if await cluster.claims.settle(grant, token, uuid) and request.method == "GET":
        await cluster.intake.commit(uuid, grant)


def cluster_url(request: web.Request) -> str:
    """Return the URL of the cluster for ODM on a node: the public address, else the address that this client used."""
    return context(request).settings.public_address or request.app[PROXIES].url(request)


def caller_name(request: web.Request, grant: Grant) -> str:
    """Return the name by which limits per caller count: the owner of the token; where all share one owner, the address,
    and of IPv6 its network."""
    shared = grant.owner == SHARED_OWNER
    return network_of(request.app[PROXIES].client(request)) if shared else grant.owner
