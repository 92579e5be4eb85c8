# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers that ask for a pause: what they say is understood, and they are left alone until then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.aio import Clock
from clusterodm.core.errors import Throttled, Unreachable
from clusterodm.providers import BoundedProvider, MachineStatus, ProviderMachine, bounded, throttling
from clusterodm.providers.throttling import Pause, retry_at
from clusterodm.testing import KubernetesApi
from clusterodm.testing.world import REFUSE, THROTTLE, World
from tests.clock import DrivenClock
from tests.processes import free_port
from tests.providers.support import CLOUDS, KUBERNETES_TOKEN, kubeconfig, provider_of, running_cloud, spec

NOW = 1_800_000_000.0
DATE = format_datetime(datetime.fromtimestamp(NOW - 5, UTC), usegmt=True)
LATER = format_datetime(datetime.fromtimestamp(NOW + 115, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        # captured at Hetzner: the whole quota is there again in an hour
        ({"ratelimit-limit": "3600", "ratelimit-remaining": "0", "ratelimit-reset": f"{NOW + 3600:.0f}"}, 3600.0),
        ({"RateLimit-Reset": f"{NOW + 55:.0f}", "Date": DATE}, 60.0),  # its clock is 5 s behind
        ({"ratelimit-reset": f"{NOW + 3600:.0f}", "Retry-After": "20"}, 20.0),  # DigitalOcean, more than in a minute
        ({"x-envoy-ratelimited": "true"}, None),  # Scaleway
        ({"Retry-After": "1", "X-Kubernetes-PF-FlowSchema-UID": "u"}, 1.0),
        ({"retry-after": LATER}, 115.0),
        ({"Retry-After": LATER, "Date": DATE}, 120.0),
        ({"X-RateLimit-Reset": "30"}, 30.0),
        ({"X-RateLimit-Reset": f"{(NOW + 30) * 1000:.0f}"}, 30.0),
        ({"X-Rate-Limit-Reset": "2.5"}, 2.5),
        ({"RateLimit-Reset": f"{NOW - 100:.0f}"}, 0.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "soon", "RateLimit-Reset": "250ms"}, None),
        ({"Retry-After": "-3", "RateLimit-Reset": "٣"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({}, None),
    ],
)
def test_what_an_answer_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_at(headers, NOW) == (0.0 if seconds is None else NOW + seconds)


def test_a_pause_is_as_long_as_asked_for_within_bounds_and_grows_where_nothing_is_said() -> None:
    elapsed = 0.0
    pause = Pause("hetzner", Clock(lambda: NOW + elapsed, lambda: 1000.0 + elapsed))
    assert (pause.remaining, pause.text) == (0.0, "")
    pause.begin(NOW + 65, "rate limit")
    assert pause.remaining == 65.0
    assert pause.text == "hetzner asks for a pause until 08:01:05 UTC (rate limit)"
    pause.begin(0.0, "rate limit")  # refused together with the first
    assert (pause.remaining, pause.strikes) == (65.0, 1)
    pause.begin(NOW + 365 * 86400, "rate limit")
    assert pause.remaining == throttling.LONGEST
    lengths = []
    pause.worked()
    for _ in range(8):
        elapsed += pause.remaining
        assert not pause.text
        pause.begin(0.0, "rate limit")
        lengths.append(pause.remaining)
    most = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert all(full / 2 <= length <= full for full, length in zip(most, lengths, strict=True))


@dataclass
class Gate:
    """What a provider sees of us, and a switch for what it answers."""

    provider: BoundedProvider
    clock: DrivenClock
    #: Have it throttle from now on, or no longer.
    throttle: Callable[[bool], None]
    #: Requests so far.
    requests: Callable[[], int]
    #: Seconds of the pause that its answers come to.
    seconds: float
    names: Callable[[], list[str]]


@asynccontextmanager
async def kubernetes_gate(folder: Path) -> AsyncIterator[Gate]:
    clock, api = DrivenClock(time.time()), KubernetesApi(token=KUBERNETES_TOKEN, port=free_port())

    def throttle(on: bool) -> None:
        api.throttle = 7 if on else 0

    async with api.running() as url:
        entry = {"provider": "kubernetes", "kubeconfig": str(kubeconfig(folder, url)), "nodePort": api._port}
        entry["imageSizeMapping"] = [{"maxImages": 10, "slug": "small", "cpu": "2", "memory": "8Gi"}]
        async with provider_of(folder, entry, clock=clock) as provider:
            yield Gate(provider, clock, throttle, lambda: len(api.requests), 7.0, lambda: list(api.objects["jobs"]))


@asynccontextmanager
async def aws_gate(folder: Path) -> AsyncIterator[Gate]:
    """EC2 throttles with an error code; moto does not, so something in front of it does."""
    clock, throttled, count = DrivenClock(time.time()), False, 0
    error = "<Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message>"
    body = f"<?xml version='1.0'?><Response><Errors><Error>{error}</Error></Errors><RequestID>r</RequestID></Response>"

    def throttle(on: bool) -> None:
        nonlocal throttled
        throttled = on

    async with running_cloud("aws") as cloud, aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            nonlocal count
            count += 1
            if throttled:
                return web.Response(status=503, text=body, content_type="text/xml")
            headers = {key: value for key, value in request.headers.items() if key.lower() != "host"}
            async with session.post(cloud.entry["apiUrl"], data=await request.read(), headers=headers) as response:
                return web.Response(status=response.status, body=await response.read(), content_type="text/xml")

        async with serving(answer) as url:
            entry = cloud.entry | {"apiUrl": url}
            async with provider_of(folder, entry, clock=clock) as provider:
                yield Gate(provider, clock, throttle, lambda: count, 1.0, cloud.names)


@asynccontextmanager
async def cloud_gate(folder: Path, name: str) -> AsyncIterator[Gate]:
    clock = DrivenClock(time.time())
    async with running_cloud(name) as cloud:
        world = cloud.world
        assert world is not None

        def throttle(on: bool) -> None:
            world.pause = 40.0
            world.misbehave = lambda request: THROTTLE if on else ""

        seconds = {"hetzner": 40.0, "digitalocean": 40.0, "scaleway": 1.0}[name]
        async with provider_of(folder, cloud.entry, clock=clock) as provider:
            yield Gate(provider, clock, throttle, lambda: sum(world.calls.values()), seconds, cloud.names)


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(params=[*CLOUDS, "kubernetes"])
async def gate(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gate]:
    name = request.param
    make_gate = {"kubernetes": kubernetes_gate, "aws": aws_gate}.get(name)
    async with make_gate(tmp_path) if make_gate else cloud_gate(tmp_path, name) as gate:
        yield gate


async def test_a_provider_that_throttles_is_left_alone_until_it_wants_calls_again(gate: Gate) -> None:
    provider = gate.provider
    gate.throttle(True)
    with pytest.raises(Throttled, match=rf"^{provider.name} asks for a pause until .* \(rate limit\)$") as first:
        await provider.create(spec(provider))
    # the fakes go by the real clock and say when in whole seconds; half of a pause of our own is left to chance
    assert gate.clock.start + gate.seconds / 2 <= first.value.until <= time.time() + gate.seconds + 1.0
    before = gate.requests()
    location = provider.offerings[0].location
    machine = ProviderMachine(id="1001", name="m", status=MachineStatus.RUNNING, location=location)
    for number in range(15):
        with pytest.raises(Throttled) as raised:
            await provider.create(spec(provider, f"clusterodm-c1-m{number}"))
        assert raised.value.until == first.value.until
    with pytest.raises(Throttled):
        await provider.delete(machine)
    assert gate.requests() == before
    gate.throttle(False)
    gate.clock.freeze(provider.pause.remaining)
    assert (await provider.create(spec(provider))).name == "clusterodm-c1-m1"
    assert gate.names() == ["clusterodm-c1-m1"]
    assert not provider.pause.strikes


@asynccontextmanager
async def hetzner(folder: Path) -> AsyncIterator[tuple[World, BoundedProvider, DrivenClock]]:
    clock = DrivenClock(time.time())
    async with running_cloud("hetzner") as cloud, provider_of(folder, cloud.entry, clock=clock) as provider:
        assert cloud.world is not None
        yield cloud.world, provider, clock


async def test_after_a_pause_one_call_finds_out_whether_it_is_over(tmp_path: Path) -> None:
    async with hetzner(tmp_path) as (world, provider, clock):
        world.misbehave = lambda request: THROTTLE
        calls = [provider.create(spec(provider, f"m{number}")) for number in range(20)]
        assert all(isinstance(outcome, Throttled) for outcome in await asyncio.gather(*calls, return_exceptions=True))
        burst = sum(world.calls.values())
        assert burst <= bounded._CONCURRENCY
        assert provider.pause.strikes == 1
        clock.freeze(throttling.LONGEST)
        calls = [provider.create(spec(provider, f"m{number}")) for number in range(20)]
        assert all(isinstance(outcome, Throttled) for outcome in await asyncio.gather(*calls, return_exceptions=True))
        assert sum(world.calls.values()) == burst + 1


async def test_a_short_pause_is_waited_for_where_repeating_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_DELAY", 0.01)
    monkeypatch.setattr(throttling, "FIRST", 0.01)
    async with running_cloud("scaleway") as cloud, provider_of(tmp_path, cloud.entry) as provider:
        assert cloud.world is not None
        faults = [THROTTLE, THROTTLE]
        cloud.world.misbehave = lambda request: faults.pop() if faults else ""
        assert await provider.list_machines("c1") == []


async def test_who_is_overloaded_and_says_for_how_long_is_left_alone_too(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "300"})

    async with (
        running_cloud("hetzner") as cloud,
        serving(answer) as url,
        provider_of(tmp_path, cloud.entry | {"apiUrl": url}) as provider,
    ):
        with pytest.raises(Unreachable):  # it may have been done
            await provider.create(spec(provider))
        with pytest.raises(Throttled, match="HTTP status 503"):
            await provider.create(spec(provider))
        assert provider.pause.remaining == pytest.approx(300.0, abs=2.0)


async def test_a_refusal_is_an_answer_and_ends_the_doubt(tmp_path: Path) -> None:
    async with hetzner(tmp_path) as (world, provider, clock):
        world.misbehave = lambda request: THROTTLE
        with pytest.raises(Throttled):
            await provider.create(spec(provider))
        clock.freeze(throttling.LONGEST)
        world.misbehave = lambda request: REFUSE
        with pytest.raises(Unreachable):
            await provider.create(spec(provider))
        assert provider.pause.strikes == 1
        world.misbehave = lambda request: ""
        world.out_of_stock = {"small"}
        with pytest.raises(Exception, match="unable to provision"):
            await provider.create(spec(provider))
        assert provider.pause.strikes == 0
