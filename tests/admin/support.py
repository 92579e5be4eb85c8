# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cluster with its admin ports open, and an operator's client."""

from __future__ import annotations

from typing import Any

import aiohttp

from tests.processes import free_port
from tests.support import Api, Rig

#: Begins like every secret in the tests: none may ever be in a log.
PASSWORD = "hush-admin"


def login(password: str, user: str = "admin") -> dict[str, str]:
    """The headers of basic authentication."""
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


class Operator:
    """Calls of the admin API that hide nothing."""

    def __init__(self, url: str, password: str = "") -> None:
        self.url = url
        self.session = aiohttp.ClientSession(headers=login(password) if password else {})

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """ClusterStatus and JSON of any request."""
        async with self.session.request(method, self.url + path, **options) as response:
            return response.status, await response.json()

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET that works."""
        status, value = await self.ask("GET", f"/api/v1/{path}", params=query)
        assert status == 200, value
        return value

    async def order(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an order that works."""
        status, value = await self.ask(method, f"/api/v1/{path}", json=body)
        assert status == 200, value
        return value


async def start(rig: Rig, **settings: Any) -> tuple[Api, Operator]:
    """Start the cluster with both admin ports; a client and an operator."""
    ports = {"admin_cli_port": free_port(), "admin_web_port": free_port()}
    api = await rig.start(**(ports | settings))
    operator = Operator(rig.cluster.admin_url, settings.get("admin_pass", ""))
    rig.stack.push_async_callback(operator.session.close)
    return api, operator
