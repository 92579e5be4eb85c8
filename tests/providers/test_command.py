# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The provider command: what it makes of commands, and the example with containers, run by a real podman."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterodm.core.errors import ConfigError, OutOfCapacity, Rejected, Unreachable
from clusterodm.providers import BoundedProvider, MachineSpec, MachineStatus, ProviderMachine, bounded
from clusterodm.providers.schedulers import subprocesses
from clusterodm.providers.schedulers.command import CommandProvider
from clusterodm.server import schedule
from tests.needs import NEEDS, need
from tests.providers.support import provider_of
from tests.support import Rig, eventually

EXAMPLE = Path("deploy/command/containers").resolve()
SIZES = [{"maxImages": 10, "slug": "any"}]
#: A machine is a file.
FILES = """
import json, os, pathlib, sys
folder, verb, said = pathlib.Path(os.environ["FOLDER"]), sys.argv[1], json.load(sys.stdin)
(folder / "calls.log").open("a").write(json.dumps([verb, said]) + "\\n")
if os.path.exists(folder / "fate"):
    print("because", file=sys.stderr)
    sys.exit(int((folder / "fate").read_text()))
if verb == "create":
    made = {"id": "i-" + said["name"], "name": said["name"], "cluster": said["cluster"]}
    made |= {"address": "127.0.0.1", "port": 9}
    (folder / (made["id"] + ".json")).write_text(json.dumps(made))
    print(json.dumps(made))
elif verb == "list":
    made = [json.loads(path.read_text()) for path in folder.glob("i-*.json")]
    print(json.dumps([each for each in made if said["cluster"] in ("", each["cluster"])]))
else:
    (folder / (said["id"] + ".json")).unlink(missing_ok=True)
"""


def entry(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "machines").mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(FILES)
    commands = {verb: [sys.executable, str(script), verb] for verb in ("create", "list", "delete")}
    environ = {"FOLDER": str(folder / "machines"), "KEY": "hush-key"}
    return {"provider": "command", "imageSizeMapping": SIZES, **commands, "environment": environ} | changes


@pytest.fixture
async def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BoundedProvider]:
    monkeypatch.setattr(bounded, "_DELAY", 0.01)
    async with provider_of(tmp_path, entry(tmp_path, location=["here", "there"])) as new_provider:
        yield new_provider


def spec(provider: BoundedProvider, name: str = "clusterodm-c1-m1") -> MachineSpec:
    offering = provider.offerings[0]
    return MachineSpec(
        name=name, cluster="c1", offering=offering, bootstrap=provider.bootstrap(name, offering, token="hush-node")
    )


async def test_machines_are_made_by_commands(provider: BoundedProvider, tmp_path: Path) -> None:
    await provider.check()
    machine = await provider.create(spec(provider))
    assert (machine.id, machine.address, machine.port, machine.status) == (
        "i-clusterodm-c1-m1",
        "127.0.0.1",
        9,
        MachineStatus.RUNNING,
    )
    assert (await provider.create(spec(provider))).id == machine.id
    assert await provider.list_machines("c2") == []
    assert await provider.get(machine.id, "") == machine
    await provider.delete(machine)
    await provider.delete(machine)
    assert await provider.get(machine.id, "") is None
    calls = [json.loads(line) for line in (tmp_path / "machines" / "calls.log").read_text().splitlines()]
    [created] = [payload for verb, payload in calls if verb == "create"]
    assert created == {
        "name": "clusterodm-c1-m1",
        "cluster": "c1",
        "size": "any",
        "location": "here",
        "spot": False,
        "node": {"port": 3000, "token": "hush-node", "maxImages": 10, "parallelQueueProcessing": 1},
    }
    assert [offering.location for offering in provider.offerings] == ["here", "there"]
    assert "hush" not in provider.shown("NAME", provider.offerings[0])
    (tmp_path / "machines" / "calls.log").unlink()  # it holds what no log may


@pytest.mark.parametrize(("status", "kind"), [(75, OutOfCapacity), (69, Unreachable), (1, Rejected)])
async def test_a_command_that_fails_says_why(
    provider: BoundedProvider, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    (tmp_path / "machines" / "fate").write_text(str(status))
    with pytest.raises(kind, match="because"):
        await provider.create(spec(provider))


@pytest.mark.parametrize("answer", ["nonsense", "[]", '{"id": 1}', '{"id": "a", "name": "another"}'])
async def test_an_answer_that_is_none_is_no_machine(tmp_path: Path, answer: str) -> None:
    configured = entry(tmp_path, create=["echo", answer], list=["echo", "[]"])
    async with provider_of(tmp_path, configured) as provider:
        with pytest.raises((Unreachable, Rejected)):
            await provider.create(spec(provider))


async def test_a_command_that_never_ends_or_floods_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_TIMEOUT", 0.5)
    monkeypatch.setattr(bounded, "_TRIES", 1)
    mark = f"3600.{os.getpid()}"
    async with provider_of(tmp_path, entry(tmp_path, list=["sh", "-c", f"sleep {mark} & wait"])) as provider:
        with pytest.raises(Unreachable, match="no response within"):
            await provider.list_machines("c1")
    await eventually(lambda: not any(mark in (each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])))
    monkeypatch.setattr(bounded, "_TIMEOUT", 30)
    async with provider_of(tmp_path, entry(tmp_path, list=["cat", "/dev/zero"])) as provider:
        with pytest.raises(Unreachable, match="is too long"):
            await provider.list_machines("c1")


async def test_a_call_that_is_given_up_while_its_program_starts_leaves_nothing() -> None:
    mark = f"3601.{os.getpid()}"
    for number in range(20):
        with suppress(TimeoutError):
            async with asyncio.timeout(number / 1000):
                await subprocesses.run(["sh", "-c", f"sleep {mark} & wait"])
    await eventually(lambda: not any(mark in (each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])))


def test_what_is_no_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="create"):
        CommandProvider(entry(tmp_path, create=[]), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="delete"):
        CommandProvider({key: value for key, value in entry(tmp_path).items() if key != "delete"}, None)  # type: ignore[arg-type]


# The example, for real

PODMAN = ["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


@pytest.fixture
def engine() -> Iterator[list[str]]:
    """A real podman with its own storage and an image that is made of nothing: what runs in it comes from this host."""
    need("podman", "runc", root=True)
    folder = Path(tempfile.mkdtemp(prefix="podman-"))  # it takes short paths only
    command = [*PODMAN, "--storage-driver", "vfs", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("etc", "tmp", "proc", "sys", "dev"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(directory)
    run = subprocess.run([*command, "import", "-", "node"], check=False, input=content.getvalue(), capture_output=True)
    if run.returncode:
        pytest.skip(f"{NEEDS}a kernel on which podman works: {run.stderr.decode()[-200:]}")
    yield command
    ids = subprocess.run([*command, "ps", "-aq"], check=True, capture_output=True, text=True).stdout.split()
    for each in ids:
        subprocess.run([*command, "rm", "-f", "-t", "1", each], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def containers(engine: list[str], folder: Path) -> dict[str, Any]:
    """The entry of the example. `--network host` and mounts of this host's Python stand for an image that has one."""
    here = {"/usr", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix, str(Path.cwd() / "src")}
    mounts = [word for path in sorted(here) if Path(path).exists() for word in ("--volume", f"{path}:{path}:ro")]
    node = ["node", sys.executable, "-m", "clusterodm", "devnode", "--seconds", "0.2"]
    environ = {
        "ENGINE": " ".join(engine),
        "IMAGE": " ".join([*LIMITS, "--env", "PYTHONDONTWRITEBYTECODE=1", *mounts, *node]),
        "FOLDER": str(folder / "nodes"),
    }
    verbs = {verb: [str(EXAMPLE), verb] for verb in ("create", "list", "delete")}
    return {"provider": "command", "imageSizeMapping": SIZES, **verbs, "environment": environ, "idleTimeout": 0.3}


async def test_containers_are_machines(engine: list[str], tmp_path: Path) -> None:
    async with provider_of(tmp_path, containers(engine, tmp_path)) as provider:
        await provider.check()
        machine = await provider.create(spec(provider))
        assert (machine.name, machine.status, machine.address) == (
            "clusterodm-c1-m1",
            MachineStatus.RUNNING,
            "127.0.0.1",
        )
        assert [each.id for each in await provider.list_machines("c1")] == [machine.id]
        assert await provider.list_machines("c2") == []
        current: ProviderMachine | None = machine
        await provider.delete(machine)
        current = await provider.get(machine.id, "")
        assert current is None
        await provider.delete(machine)
    assert list((tmp_path / "nodes").iterdir()) == []


async def test_a_task_runs_in_a_container_that_is_made_for_it(
    engine: list[str], cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_SCALE", 0.05)
    path = cluster.folder / "asr.json"
    path.write_text(json.dumps(containers(engine, cluster.folder)))
    await cluster.start(asr=path, machine_poll_interval=0.2)
    uuid = await cluster.api.create()
    await cluster.api.ends(uuid, seconds=60)
    await eventually(lambda: not cluster.cluster.context.machines.alive(), seconds=30)
    assert subprocess.run([*engine, "ps", "-aq"], check=True, capture_output=True).stdout == b""
