# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What EC2 says before it takes a spot instance away; moto says nothing of it, so the two answers are written here."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.providers import MachineStatus
from tests.providers.support import provider_of

_HEAD = '<?xml version="1.0"?><{0} xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
INSTANCES = (
    _HEAD.format("DescribeInstancesResponse")
    + "<reservationSet><item><reservationId>r-1</reservationId><instancesSet>"
    + "".join(
        f"<item><instanceId>i-{number}</instanceId><instanceState><code>16</code><name>running</name></instanceState>"
        f"<placement><availabilityZone>us-east-1a</availabilityZone></placement><ipAddress>192.0.2.{number}</ipAddress>"
        f"<spotInstanceRequestId>sir-{number}</spotInstanceRequestId>"
        f"<tagSet><item><key>Name</key><value>m{number}</value></item></tagSet></item>"
        for number in (1, 2)
    )
    + "</instancesSet></item></reservationSet></DescribeInstancesResponse>"
)
REQUESTS = (
    _HEAD.format("DescribeSpotInstanceRequestsResponse")
    + "<spotInstanceRequestSet><item><spotInstanceRequestId>sir-2</spotInstanceRequestId><instanceId>i-2</instanceId>"
    "<state>active</state><status><code>marked-for-termination</code></status></item></spotInstanceRequestSet>"
    "</DescribeSpotInstanceRequestsResponse>"
)
DENIED = (
    "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized</Message></Error>"
    "</Errors><RequestID>r</RequestID></Response>"
)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_spot_instance_that_will_be_taken_away_is_ending(tmp_path: Path, allowed: bool) -> None:
    requests: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        requests.append(form)
        if form["Action"] == "DescribeInstances":
            return web.Response(text=INSTANCES, content_type="text/xml")
        return web.Response(
            text=REQUESTS if allowed else DENIED, content_type="text/xml", status=200 if allowed else 403
        )

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    entry = {
        "provider": "aws",
        "accessKey": "k",
        "secretKey": "hush-secret",
        "region": "us-east-1",
        "ami": "ami-1",
        "securityGroup": "g",
        "spot": True,
        "apiUrl": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "imageSizeMapping": [{"maxImages": 10, "slug": "t3.small", "spotPrice": 0.05}],
    }
    try:
        async with provider_of(tmp_path, entry) as provider:
            statuses = {machine.id: machine.status for machine in await provider.list_machines("c1")}
    finally:
        await runner.cleanup()
    assert statuses == {"i-1": MachineStatus.RUNNING, "i-2": MachineStatus.ENDING if allowed else MachineStatus.RUNNING}
    values = [value for key, value in requests[1].items() if key.startswith("Filter.2.Value")]
    assert values == ["marked-for-termination", "marked-for-stop"]
