# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is particular to clouds, beyond the contract: their own answers, images, networks and disks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.core.errors import OutOfCapacity, Rejected, Throttled, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.providers import BoundedProvider, MachineSpec, MachineStatus, ProviderMachine, bounded, throttling
from clusterodm.testing.world import REFUSE, THROTTLE
from tests.providers.support import CLOUDS, Cloud, provider_of, running_cloud, spec
from tests.support import eventually


@pytest.fixture(params=CLOUDS)
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    async with running_cloud(request.param) as running:
        yield running


@pytest.fixture
async def provider(cloud: Cloud, tmp_path: Path) -> AsyncIterator[BoundedProvider]:
    async with provider_of(tmp_path, cloud.entry) as bounded:
        yield bounded


async def is_gone(provider: BoundedProvider, machine: ProviderMachine) -> bool:
    await provider.delete(machine)
    return await provider.get(machine.id, machine.location) is None


async def test_the_user_data_arrives_as_it_was_sent(cloud: Cloud, provider: BoundedProvider) -> None:
    await provider.create(spec(provider))
    if cloud.world is not None:
        assert cloud.world.created[0].user_data == spec(provider).bootstrap


async def test_what_is_not_there_is_none_and_can_be_deleted(provider: BoundedProvider) -> None:
    location = provider.offerings[0].location
    nothing = ProviderMachine(id="i-00000000000000000", name="x", status=MachineStatus.RUNNING, location=location)
    assert await provider.get(nothing.id, location) is None
    await provider.delete(nothing)


async def test_offerings_are_smaller_sizes_first_in_all_locations(cloud: Cloud, provider: BoundedProvider) -> None:
    sizes = [offering.max_images for offering in provider.offerings]
    assert sizes == sorted(sizes)
    places = {
        "digitalocean": ["nyc1", "ams3"],
        "hetzner": ["fsn1"],
        "scaleway": ["fr-par-1"],
        "aws": ["us-east-1a", "us-east-1b"],
    }[cloud.name]
    assert [offering.location for offering in provider.offerings][: len(places)] == places
    if cloud.name == "aws":
        assert [(offering.spot, offering.price) for offering in provider.offerings][1:3] == [(True, 0.05), (False, 0.1)]


async def test_missing_capacity_is_distinguished_from_a_wrong_request(cloud: Cloud, provider: BoundedProvider) -> None:
    if cloud.world is None:
        pytest.skip("moto has room for everybody")
    cloud.world.out_of_stock = {"small"}
    with pytest.raises(OutOfCapacity):
        await provider.create(spec(provider))
    await provider.create(spec(provider, size=-1))
    cloud.world.quota = 1
    with pytest.raises(OutOfCapacity):
        await provider.create(spec(provider, "other", size=-1))


async def test_a_rejected_key_is_reported_without_being_shown(cloud: Cloud, tmp_path: Path) -> None:
    if cloud.world is None:
        pytest.skip("moto takes every key")
    wrong = {key: "hush-wrong" if value == "hush-cloud-key" else value for key, value in cloud.entry.items()}
    async with provider_of(tmp_path, wrong) as provider:
        with pytest.raises(Rejected) as raised:
            await provider.check()
    assert "hush" not in str(raised.value)


async def test_an_image_that_is_not_there_is_known_at_the_start(cloud: Cloud, tmp_path: Path) -> None:
    wrong = cloud.entry | ({"ami": "ami-0000"} if cloud.name == "aws" else {"image": "nothing"})
    wrong |= {"snapshot": True} if cloud.name in ("digitalocean", "hetzner") else {}
    async with provider_of(tmp_path, wrong) as provider:
        with pytest.raises(Rejected):
            await provider.check()


async def test_a_snapshot_is_found_by_its_name(cloud: Cloud, tmp_path: Path) -> None:
    if cloud.name not in ("digitalocean", "hetzner"):
        pytest.skip("it has no snapshots by name")
    async with provider_of(tmp_path, cloud.entry | {"image": "odm", "snapshot": True}) as provider:
        await provider.check()
        await provider.create(spec(provider))
        if cloud.name == "digitalocean":
            with pytest.raises(Rejected, match="not in ams3"):
                await provider.create(spec(provider, "m2", size=1))


@pytest.mark.parametrize(("fate", "error"), [(REFUSE, Unreachable), (THROTTLE, Throttled)])
async def test_a_provider_that_fails_for_a_moment_is_asked_again(
    cloud: Cloud, provider: BoundedProvider, fate: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if cloud.world is None:
        pytest.skip("moto does not fail")
    monkeypatch.setattr(bounded, "_DELAY", 0.01)
    monkeypatch.setattr(throttling, "FIRST", 0.01)
    faults = [fate, fate]
    cloud.world.misbehave = lambda request: faults.pop() if faults else ""
    assert await provider.list_machines("c1") == []
    cloud.world.misbehave = lambda request: fate
    with pytest.raises(error):
        await provider.list_machines("c1")
    with pytest.raises(error):
        await provider.create(spec(provider))
    assert cloud.names() == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"droplets": 5}', b'{"servers": [{}]}', b"{"])
async def test_an_answer_that_says_nothing_is_no_answer(
    cloud: Cloud, tmp_path: Path, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_DELAY", 0.01)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with provider_of(
            tmp_path, cloud.entry | {"apiUrl": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        ) as provider:
            with pytest.raises((Unreachable, Rejected)):
                await provider.list_machines("c1")
    finally:
        await runner.cleanup()


async def test_a_cloud_that_nobody_reaches_is_unreachable(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_DELAY", 0.01)
    async with provider_of(tmp_path, cloud.entry | {"apiUrl": "http://127.0.0.1:1"}) as provider:
        with pytest.raises(Unreachable):
            await provider.list_machines("c1")


async def test_a_vpc_without_a_subnet_gets_one_of_its_own_in_the_zone(tmp_path: Path) -> None:
    async with running_cloud("aws") as cloud:
        entry = cloud.entry | {"subnet": "", "zone": ""}
        async with provider_of(tmp_path, entry) as provider:
            created = await provider.create(spec(provider))

            async def addressed() -> ProviderMachine | None:
                current = await provider.get(created.id, created.location)
                return current if current is not None and current.address else None

            assert (await eventually(addressed)).address.startswith("127.77.1.")
        async with provider_of(tmp_path, entry | {"vpc": "vpc-0"}) as provider:
            with pytest.raises(Rejected):
                await provider.create(spec(provider, "m2"))


async def test_a_server_that_was_never_switched_on_is_listed_finished_and_deleted(tmp_path: Path) -> None:
    async with running_cloud("scaleway") as cloud, provider_of(tmp_path, cloud.entry) as provider:
        assert cloud.world is not None
        failing = ""
        cloud.world.misbehave = lambda request: REFUSE if failing in f"{request.method}{request.path}" else ""
        for step in ("PATCH", "action"):
            failing = step
            with pytest.raises(Unreachable):
                await provider.create(spec(provider))
        listed = await provider.list_machines("c1")
        assert [machine.status for machine in listed] == [MachineStatus.STOPPED]
        cloud.world.misbehave = lambda request: ""
        created = await provider.create(spec(provider))
        assert cloud.world.machines[created.id].state == "running"
        never = cloud.world.create("never", "small", "fr-par-1", tags=["clusterodm=c1"], uuid=True)
        stopped = await provider.get(never.id, "fr-par-1")
        assert stopped is not None
        await eventually(lambda: is_gone(provider, stopped))
        await provider.delete(stopped)
        assert cloud.world.volumes == set(cloud.world.machines[created.id].volumes)


def test_no_secret_shows_in_what_is_printed() -> None:
    offering = Offering(provider="x", size="s", location="l", max_images=1)
    assert "hush" not in repr(
        MachineSpec(name="n", cluster="c", offering=offering, bootstrap=json.dumps({"token": "hush-node"}))
    )
