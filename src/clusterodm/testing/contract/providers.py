# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of a provider as tests: against a fake, an emulator or the real thing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import pytest
import pytest_asyncio

from clusterodm.aio import Clock
from clusterodm.core.errors import OutOfCapacity, ProviderError, Throttled, Unreachable
from clusterodm.plugins import PluginContext
from clusterodm.providers import MachineSpec, MachineStatus, Provider, ProviderMachine, make_provider

T = TypeVar("T")

_TOKEN = "token-of-the-node"  # noqa: S105 - of a machine that only a test creates


@dataclass(kw_only=True)
class ProviderBackend:
    """A provider's entry in the autoscaler's file, and control over what the provider talks to. A test that needs
    something that the backend cannot simulate (None) is skipped."""

    entry: dict[str, Any]
    #: Return the names of all machines, without the help of the provider.
    names: Callable[[], Collection[str]] | None = None
    #: Return the ids of all disks, those of deleted machines included.
    disks: Callable[[], Collection[str]] | None = None
    #: Remove the machine of this name behind the provider's back.
    remove: Callable[[str], None] | None = None
    #: Have no capacity from now on.
    exhaust: Callable[[], None] | None = None
    #: Answer all calls with "too many requests" from now on.
    throttle: Callable[[], None] | None = None
    #: Fail all calls from now on, without carrying them out.
    fail: Callable[[], None] | None = None
    #: Carry calls out from now on, but lose the responses of those that create.
    lose: Callable[[], None] | None = None
    #: Undo the four above.
    recover: Callable[[], None] = lambda: None
    #: Machines that make more than one page of a list; 0: lists have no pages.
    more_than_a_page: int = 0
    #: Seconds within which a machine runs or is gone.
    patience: float = 30.0


class ProviderContract:
    """Subclass it, and override the fixture `backend`. The provider is found by its entry point, as in production."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def backend(self) -> ProviderBackend:
        """Return the backend of one test."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest.fixture
    def cluster(self) -> str:
        """Return the id of a cluster that has no machines yet."""
        return f"t{secrets.token_hex(4)}"

    @pytest_asyncio.fixture
    async def provider(self, backend: ProviderBackend, cluster: str) -> AsyncIterator[Provider]:
        """Yield the provider; delete its machines afterwards."""
        async with aiohttp.ClientSession() as session:
            provider = make_provider(backend.entry, PluginContext(session=session, clock=Clock()))
            yield provider
            backend.recover()
            for each in (cluster, _other(cluster)):
                for machine in await provider.list_machines(each):
                    await _delete(backend, provider, machine)
            await provider.close()

    async def test_check_passes(self, provider: Provider) -> None:
        """The configuration of the backend is valid."""
        await provider.check()

    async def test_offerings_are_ordered_by_size(self, provider: Provider) -> None:
        """Each names its provider and one of its locations."""
        offerings = provider.offerings()
        assert offerings, "no offerings"
        assert [each.max_images for each in offerings] == sorted(each.max_images for each in offerings)
        assert {each.provider for each in offerings} == {provider.config.label}
        assert {each.location for each in offerings} <= set(provider.locations())
        assert provider.offerings() == offerings, "offerings must not change while the program runs"

    async def test_bootstrap_data_has_the_token_and_rendering_it_creates_nothing(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """Operators may ask for bootstrap data at any time."""
        before = backend.names() if backend.names is not None else ()
        assert _TOKEN in _spec(provider, cluster).bootstrap, "the node would accept calls without its token"
        assert all(provider.secrets()), "an empty secret would mask everything"
        assert await provider.list_machines(cluster) == []
        assert backend.names is None or list(backend.names()) == list(before)

    async def test_a_machine_runs_until_it_is_deleted(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """Its id, name and location stay the same; deleting it again is no error."""
        spec, before = _spec(provider, cluster), set(backend.disks()) if backend.disks is not None else set()
        created = await provider.create(spec)
        assert created.name == spec.name
        running = await _running(backend, provider, created)
        assert (running.id, running.name) == (created.id, spec.name)
        assert [(each.id, each.name) for each in await provider.list_machines(cluster)] == [(created.id, spec.name)]
        await _delete(backend, provider, running)
        assert await provider.list_machines(cluster) == []
        assert backend.names is None or spec.name not in backend.names()
        assert backend.disks is None or set(backend.disks()) <= before, "a disk was left behind"
        await provider.delete(running)
        assert await provider.get(running.id, running.location) is None

    async def test_creating_a_machine_again_returns_the_same_one(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """`create` is idempotent on the name."""
        spec = _spec(provider, cluster)
        first = await provider.create(spec)
        second = await provider.create(spec)
        other = await provider.create(_spec(provider, cluster, number=2))
        assert second.id == first.id
        assert other.id != first.id
        assert {each.id for each in await provider.list_machines(cluster)} == {first.id, other.id}
        assert backend.names is None or list(backend.names()).count(spec.name) == 1

    async def test_only_machines_of_the_cluster_are_listed(self, provider: Provider, cluster: str) -> None:
        """Several clusters may share an account."""
        await provider.create(_spec(provider, cluster))
        theirs = await provider.create(_spec(provider, _other(cluster)))
        assert [each.id for each in await provider.list_machines(_other(cluster))] == [theirs.id]

    async def test_all_pages_are_listed(self, backend: ProviderBackend, provider: Provider, cluster: str) -> None:
        """A machine that is not listed is never deleted."""
        if not backend.more_than_a_page:
            pytest.skip("lists have no pages")
        for number in range(backend.more_than_a_page):
            await provider.create(_spec(provider, cluster, number=number))
        assert len(await provider.list_machines(cluster)) == backend.more_than_a_page

    async def test_a_machine_that_disappeared_is_neither_found_nor_listed(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """Deleting it is no error."""
        remove = _needed(backend.remove, "remove")
        machine = await _running(backend, provider, await provider.create(_spec(provider, cluster)))
        remove(machine.name)

        async def gone() -> bool:
            return await provider.get(machine.id, machine.location) is None

        await _until(gone, backend.patience, "the machine is gone")
        assert await provider.list_machines(cluster) == []
        await provider.delete(machine)

    async def test_no_capacity_is_reported_as_such(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """OutOfCapacity makes the cluster try the next offering."""
        _needed(backend.exhaust, "exhaust")()
        with pytest.raises(OutOfCapacity):
            await provider.create(_spec(provider, cluster))
        backend.recover()
        assert await provider.list_machines(cluster) == []

    async def test_too_many_requests_are_reported_as_such(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """Throttled pauses all calls of the provider."""
        throttle = _needed(backend.throttle, "throttle")
        machine = await provider.create(_spec(provider, cluster))
        throttle()
        await _all_raise(Throttled, provider, machine, _spec(provider, cluster, number=2))

    async def test_an_outage_is_reported_as_such(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """Never as a machine that does not exist: its tasks would be moved for nothing."""
        fail = _needed(backend.fail, "fail")
        machine = await provider.create(_spec(provider, cluster))
        fail()
        await _all_raise(Unreachable, provider, machine, _spec(provider, cluster, number=2))
        backend.recover()
        assert [each.id for each in await provider.list_machines(cluster)] == [machine.id]

    async def test_a_machine_whose_creation_was_not_confirmed_is_created_once(
        self, backend: ProviderBackend, provider: Provider, cluster: str
    ) -> None:
        """The call is repeated with the same name."""
        spec = _spec(provider, cluster)
        _needed(backend.lose, "lose")()
        with pytest.raises(Unreachable):
            await provider.create(spec)
        backend.recover()
        machine = await provider.create(spec)
        assert [each.id for each in await provider.list_machines(cluster)] == [machine.id]
        assert backend.names is None or list(backend.names()).count(spec.name) == 1


def _other(cluster: str) -> str:
    return f"{cluster}x"


def _spec(provider: Provider, cluster: str, *, number: int = 1) -> MachineSpec:
    name, offering = f"clusterodm-{cluster}-m{number}", provider.offerings()[0]
    bootstrap = provider.bootstrap(name, offering, token=_TOKEN)
    return MachineSpec(name=name, cluster=cluster, offering=offering, bootstrap=bootstrap)


def _needed(control: T | None, name: str) -> T:
    if control is None:
        pytest.skip(f"the backend has no `{name}`")
    return control


async def _running(backend: ProviderBackend, provider: Provider, machine: ProviderMachine) -> ProviderMachine:
    async def running() -> ProviderMachine | None:
        current = await provider.get(machine.id, machine.location)
        return current if current is not None and current.status is MachineStatus.RUNNING and current.address else None

    return await _until(running, backend.patience, "the machine runs and has an address")


async def _delete(backend: ProviderBackend, provider: Provider, machine: ProviderMachine) -> None:
    async def gone() -> bool:
        await provider.delete(machine)
        return await provider.get(machine.id, machine.location) is None

    await _until(gone, backend.patience, "the machine is gone")
    await provider.delete(machine)


async def _all_raise(
    error: type[ProviderError], provider: Provider, machine: ProviderMachine, spec: MachineSpec
) -> None:
    with pytest.raises(error):
        await provider.get(machine.id, machine.location)
    with pytest.raises(error):
        await provider.list_machines(spec.cluster)
    with pytest.raises(error):
        await provider.create(spec)
    with pytest.raises(error):
        await provider.delete(machine)


async def _until(check: Callable[[], Awaitable[T | None]], seconds: float, what: str) -> T:
    """Return the first true value of `check`; fail the test after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                if value := await check():
                    return value
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {seconds:g} s: {what}")
