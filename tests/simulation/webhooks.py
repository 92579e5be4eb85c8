# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The owners' receiver of webhooks."""

from __future__ import annotations

import asyncio

from aiohttp import web

from clusterodm.testing.simulation import History, Host, Process

_PORT = 80


class WebhookReceiver:
    """Takes calls down; it may fail for a while."""

    def __init__(self, host: Host, history: History) -> None:
        self.url = f"http://{host.address}:{_PORT}/hook"
        self.failing = False
        self._host = host
        self._history = history

    def start(self) -> None:
        """Start its process."""
        Process(self._host, "webhook").run(self._main())

    async def _main(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._called)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", _PORT).start()
        await asyncio.Event().wait()

    async def _called(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.failing:
            self._history.add("webhook", "webhook refused", body["uuid"])
            return web.Response(status=500)
        self._history.add("webhook", "webhook", body["uuid"], code=body["status"]["code"])
        return web.Response()
