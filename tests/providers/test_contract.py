# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shipped contract tests over all providers and authenticators of this package."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.auth import lightning
from clusterodm.core.backoff import Backoff
from clusterodm.settings import load_settings
from clusterodm.testing import KubernetesApi
from clusterodm.testing.contract import AuthenticatorBackend, AuthenticatorContract, ProviderBackend, ProviderContract
from clusterodm.testing.world import LOSE, REFUSE, THROTTLE, World
from tests.cluster.test_lightning import OTHER, TOKEN, Service
from tests.processes import free_port
from tests.providers import test_command, test_slurm
from tests.providers.support import CLOUDS, KUBERNETES_TOKEN, kubeconfig, running_cloud
from tests.slurm import ask, missing, running_slurm


@asynccontextmanager
async def cloud_backend(name: str) -> AsyncIterator[ProviderBackend]:
    async with running_cloud(name) as cloud:
        backend = ProviderBackend(entry=cloud.entry, names=cloud.names, remove=cloud.take)
        if cloud.world is not None:
            control(backend, cloud.world)
        yield backend


def control(backend: ProviderBackend, world: World) -> None:
    """Have the knobs of a world as controls of a backend."""

    def misbehave(fate: str, method: str = "") -> Callable[[], None]:
        return lambda: setattr(world, "misbehave", lambda request: fate if method in ("", request.method) else "")

    def recover() -> None:
        world.misbehave, world.quota = (lambda request: ""), -1

    backend.exhaust = lambda: setattr(world, "quota", len(world.machines))
    backend.throttle, backend.fail, backend.lose = misbehave(THROTTLE), misbehave(REFUSE), misbehave(LOSE, "POST")
    backend.recover = recover
    backend.disks = lambda: list(world.volumes)
    backend.more_than_a_page = 60


@asynccontextmanager
async def kubernetes_backend(folder: Path) -> AsyncIterator[ProviderBackend]:
    api = KubernetesApi(token=KUBERNETES_TOKEN, port=free_port())

    def recover() -> None:
        api.quota, api.throttle = -1, 0

    async with api.running() as url:
        entry = {"provider": "kubernetes", "kubeconfig": str(kubeconfig(folder, url)), "nodePort": api._port}
        entry["imageSizeMapping"] = [{"maxImages": 10, "slug": "small", "cpu": "2", "memory": "8Gi"}]
        yield ProviderBackend(
            entry=entry,
            names=lambda: list(api.objects["jobs"]),
            exhaust=lambda: setattr(api, "quota", 0),
            throttle=lambda: setattr(api, "throttle", 7),
            recover=recover,
        )


@asynccontextmanager
async def command_backend(folder: Path) -> AsyncIterator[ProviderBackend]:
    entry = test_command.entry(folder)
    machines, fate = folder / "machines", folder / "machines" / "fate"
    yield ProviderBackend(
        entry=entry,
        names=lambda: [path.stem.removeprefix("i-") for path in machines.glob("i-*.json")],
        remove=lambda name: (machines / f"i-{name}.json").unlink(),
        fail=lambda: void(fate.write_text("69")),
        recover=lambda: fate.unlink(missing_ok=True),
    )
    (machines / "calls.log").unlink()  # it holds what no log may


@asynccontextmanager
async def slurm_backend(folder: Path) -> AsyncIterator[ProviderBackend]:
    if why := missing():
        pytest.skip(why)
    with running_slurm() as conf:
        yield ProviderBackend(
            entry=test_slurm.entry(conf, folder),
            names=lambda: ask(conf, "squeue", "-h", "-o", "%j").split(),
            remove=lambda name: void(ask(conf, "scancel", f"--name={name}")),
        )


def void(_: object) -> None:
    """Drop a result."""


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[ProviderBackend]]] = {
    **{name: lambda _, name=name: cloud_backend(name) for name in CLOUDS},  # type: ignore[misc]
    "kubernetes": kubernetes_backend,
    "command": command_backend,
    "slurm": slurm_backend,
}


class TestProviders(ProviderContract):
    @pytest.fixture(params=BACKENDS)
    async def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProviderBackend]:
        async with BACKENDS[request.param](tmp_path) as backend:
            yield backend


def local_backend(folder: Path, token: str) -> AuthenticatorBackend:
    return AuthenticatorBackend(
        settings=load_settings({"data_dir": folder / "data", "token": token}, environ={}), token=token
    )


def tokens_backend(folder: Path) -> AuthenticatorBackend:
    (folder / "tokens.toml").write_text(f'[ann]\ntoken = "{TOKEN}"\n[bob]\ntoken = "{OTHER}"\nshare = 2.0\n')
    flags = {"data_dir": folder / "data", "cloud_provider": "tokens", "tokens_file": folder / "tokens.toml"}
    return AuthenticatorBackend(settings=load_settings(flags, environ={}), token=TOKEN, other_token=OTHER)


@asynccontextmanager
async def lightning_backend(folder: Path) -> AsyncIterator[AuthenticatorBackend]:
    service, app = Service(), web.Application()
    service.tokens[OTHER] = {}
    app.router.add_post("/r/{path:.*}", service.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/r"
    flags = {"data_dir": folder / "data", "cloud_provider": "lightningdev", "lightning_url": url}
    yield AuthenticatorBackend(
        settings=load_settings(flags, environ={}),
        token=TOKEN,
        other_token=OTHER,
        interrupt=lambda: service.down.update({"/tokens/validate": 1000}),
        recover=service.down.clear,
    )
    await runner.cleanup()


class TestAuthenticators(AuthenticatorContract):
    @pytest.fixture(params=["open", "local", "tokens", "lightning"])
    async def backend(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[AuthenticatorBackend]:
        monkeypatch.setattr(lightning, "_BACKOFF", Backoff(first=0.01, longest=0.01))
        match request.param:
            case "open":
                yield local_backend(tmp_path, "")
            case "local":
                yield local_backend(tmp_path, TOKEN)
            case "tokens":
                yield tokens_backend(tmp_path)
            case _:
                async with lightning_backend(tmp_path) as backend:
                    yield backend


async def test_without_pytest_the_contract_tests_say_what_to_install() -> None:
    code = "import sys; sys.modules['pytest'] = None; import clusterodm.testing.contract"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    assert errors.decode().endswith(
        "ImportError: clusterodm.testing.contract needs pytest: pip install clusterodm[testing]\n"
    )
