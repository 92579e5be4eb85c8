# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the data plane, one handler each."""

from __future__ import annotations

from aiohttp import web

from clusterodm.http import connections, render
from clusterodm.http.forwarded import Proxies
from clusterodm.http.kit import KIT, Kit
from clusterodm.http.logins import Logins
from clusterodm.proxy import downloads, intake, page, reads, verbs
from clusterodm.proxy.context import CONTEXT, LOGINS, PROXIES, ClientPlane


def make_app(cluster: ClientPlane) -> web.Application:
    """Return the web application that clients talk to."""
    app = web.Application(middlewares=[connections.count_requests, render.errors])
    app[CONTEXT] = cluster
    settings = cluster.settings
    app[KIT] = Kit(cluster.clock, fast_paths=settings.fast_paths == "on")
    proxies = app[PROXIES] = Proxies(settings.trusted_proxies, settings.proxy_headers)
    app[LOGINS] = Logins(cluster.clock.steady)
    app[connections.CONNECTIONS] = connections.Connections(
        cluster.metrics, proxies, cluster.clock, logged=bool(settings.access_log)
    )
    app.on_response_prepare.append(render.add_cors)
    app.add_routes(
        [
            web.get("/task/{uuid}/info", reads.task_info),
            web.get("/task/{uuid}/output", reads.task_output),
            web.get("/task/{uuid}/download/{asset:.+}", downloads.download),
            web.get("/task/list", reads.task_list),
            web.get("/info", reads.info),
            web.get("/options", reads.options),
            web.post("/task/new/init", intake.init),
            web.post("/task/new/upload/{uuid}", intake.upload),
            web.post("/task/new/commit/{uuid}", intake.commit),
            web.post("/task/new", intake.new),
            web.post("/task/cancel", verbs.cancel),
            web.post("/task/remove", verbs.remove),
            web.post("/task/restart", verbs.restart),
            web.get("/auth/info", reads.auth_info),
            web.post("/auth/login", reads.login),
            web.post("/auth/register", reads.register),
            web.post("/commit", verbs.node_webhook),
            web.get("/cache/clear", verbs.cache_clear),
            web.get("/healthz", connections.health),
            web.get(page.PAGE_PATH, page.page),
            web.route("OPTIONS", "/{path:.*}", render.preflight),
        ]
    )
    for resource in app.router.resources():
        cluster.metrics.requests.labels(resource.canonical)
    cluster.metrics.requests.labels(connections.NO_ROUTE)
    return app
