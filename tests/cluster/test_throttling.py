# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A provider that asks for a pause: nothing fails by it, and everybody is told."""

from __future__ import annotations

import pytest
from aiohttp import web

from clusterodm.admin.operations import figures, tasks
from clusterodm.aio import Clock
from clusterodm.core.machines import Machine, State
from clusterodm.providers import bounded, throttling
from clusterodm.testing.world import THROTTLE
from tests.cluster.machines import machines, no_machines, start
from tests.providers.support import running_cloud
from tests.support import Rig, eventually

pytestmark = pytest.mark.usefixtures("prioritise")

ASKS = "hetzner asks for a pause until"


async def test_no_creation_fails_by_a_pause_and_everybody_is_told_of_it(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttling, "LONGEST", 2.0)
    async with running_cloud("hetzner") as cloud:
        assert cloud.world is not None
        cloud.world.pause = 365 * 86400.0
        cloud.world.misbehave = lambda request: THROTTLE if request.method == "POST" else ""
        api = await start(cluster, cloud, createRetries=0)
        context = cluster.cluster.context
        uuids = [await api.create(2) for _ in range(15)]
        await eventually(lambda: all(ASKS in cluster.entry(uuid).wait for uuid in uuids))
        pause = context.autoscaler.fleet.providers["hetzner"].pause
        await eventually(lambda: pause.strikes >= 2)
        assert cloud.world.calls["POST"] <= bounded._CONCURRENCY + pause.strikes
        assert ASKS in (await tasks.why(context, cluster.entry(uuids[-1]))).why
        assert [problem[-12:] for problem in (await figures.status(context)).problems] == ["(rate limit)"]
        assert all(machine.state is State.ORDERED for machine in machines(cluster))
        assert not context.lifecycle.backoff.until
        cloud.world.misbehave = lambda request: ""
        for uuid in uuids:
            await api.ends(uuid)
        assert not (await figures.status(context)).problems
        await no_machines(cluster, cloud)


async def test_a_machine_that_could_not_be_looked_at_is_not_given_up_for_that(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttling, "LONGEST", 1.5)
    monkeypatch.setattr(bounded, "_PATIENCE", 0.0)
    async with running_cloud("hetzner") as cloud:
        world, clock, times = cloud.world, Clock(), list[float]()
        assert world is not None

        def throttle_once(request: web.Request) -> str:
            if not world.created or request.method != "GET" or times:
                return ""
            times.append(clock.steady())
            return THROTTLE

        def given_up(machine: Machine) -> None:
            if machine.state is State.DELETING:
                times.append(clock.steady())

        world.pause, world.dead_on_arrival, world.misbehave = 3600.0, True, throttle_once
        api = await start(cluster, cloud, bootTimeout=1.0)
        cluster.cluster.context.machines.watch(given_up)
        await api.create(2)
        await eventually(lambda: len(times) > 1)
        assert times[1] - times[0] >= 1.5 + 0.9, "it has its time to boot after the pause"


async def test_a_wrong_key_is_known_although_the_first_question_was_throttled(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttling, "FIRST", 0.05)
    monkeypatch.setattr(bounded, "_PATIENCE", 0.0)
    async with running_cloud("hetzner") as cloud:
        assert cloud.world is not None
        faults = [THROTTLE] * 3
        cloud.world.misbehave = lambda request: faults.pop() if faults else ""
        cloud.entry["apiToken"] = "hush-wrong"
        await start(cluster, cloud)
        await eventually(lambda: cluster.cluster.context.autoscaler.troubles == {"hetzner": "the key is not valid"})
