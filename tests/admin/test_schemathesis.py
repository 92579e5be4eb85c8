# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenAPI document against the running program: what it promises is kept, whatever comes in."""

from __future__ import annotations

import asyncio
import re
import sys

from clusterodm.admin import openapi
from clusterodm.admin.operations.table import ROUTES
from tests.admin.support import start
from tests.support import Rig


def test_every_route_is_described() -> None:
    described = openapi.document()
    assert described["openapi"] == "3.1.0"
    operations = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert operations == {(route.method, route.path) for route in ROUTES}


async def test_schemathesis_finds_nothing(cluster: Rig) -> None:
    await cluster.add_node(slots=2)
    api, operator = await start(cluster)
    await cluster.ready()
    for number in range(3):
        await api.create(1, name=f"task {number}")
    command = [
        sys.executable,
        *("-m", "schemathesis.cli", "run", f"{operator.url}/api/v1/openapi.json"),
        *("--max-examples", "25", "--seed", "7", "--no-color"),
        # no password is set in this run (test_web has those tests), and the end of a lease rightly removes its node
        *("--exclude-checks", "ignored_auth,ensure_resource_availability"),
    ]
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cluster.folder
    )
    output = (await running.communicate())[0].decode()
    assert running.returncode == 0, output[-6000:]
    tested = re.search(r"Tested: (\d+)|(\d+) / \d+ operations|Operations:\s+(\d+)", output)
    print(output[-2000:])
    assert tested, output[-3000:]
