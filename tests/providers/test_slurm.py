# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The provider slurm against a real Slurm whose jobs really run development nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterodm.cluster.machines import backoff
from clusterodm.core.errors import ConfigError, Rejected, Unreachable
from clusterodm.core.machines import State
from clusterodm.providers import BoundedProvider, MachineStatus, ProviderMachine, bounded
from clusterodm.providers.schedulers.batch import batch_script
from clusterodm.providers.schedulers.slurm import Slurm
from clusterodm.server import schedule
from tests.providers.support import READS_INSIDE, needs_root, provider_of, spec
from tests.slurm import ask, cancel_all, missing, running_slurm
from tests.support import Rig, eventually

#: What Slurm says of a job beyond its partition's time: which of the two depends on which of its parts looked first.
BEYOND = {"PartitionConfig", "PartitionTimeLimit"}

SIZES = [
    {"maxImages": 10, "slug": "small", "cpus": 1, "memory": "100M", "time": "00:30:00"},
    {"maxImages": 100, "slug": "large", "cpus": 4, "memory": "2G", "time": "01:00:00"},
]
NODE = [sys.executable, "-m", "clusterodm", "devnode", "--seconds", "0.5", "--host", "0.0.0.0", "--config", "{config}"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    if why := missing():
        pytest.skip(why)
    with running_slurm() as path:
        yield path


@pytest.fixture
def conf(slurm: Path) -> Iterator[Path]:
    yield slurm
    cancel_all(slurm)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_SCALE", 0.05)
    monkeypatch.setattr(backoff, "FIRST_BLOCK", 0.5)
    monkeypatch.setattr(bounded, "_DELAY", 0.05)


def entry(conf: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "addresses").mkdir(exist_ok=True)
    return {
        "provider": "slurm",
        "partition": "odm",
        "imageSizeMapping": SIZES,
        "runtime": "command",
        "command": NODE,
        "hostCommand": "echo 127.0.0.1",
        "workFolder": str(folder),
        "addressFolder": str(folder / "addresses"),
        "slurmConf": str(conf),
        "idleTimeout": 0.5,
    } | changes


@pytest.fixture
async def provider(conf: Path, tmp_path: Path) -> AsyncIterator[BoundedProvider]:
    async with provider_of(tmp_path, entry(conf, tmp_path)) as bounded:
        yield bounded
        for machine in await bounded.list_machines("c1"):
            await bounded.delete(machine)


async def test_a_job_is_submitted_once_found_and_cancelled(conf: Path, provider: BoundedProvider) -> None:
    await provider.check()
    created = await provider.create(spec(provider))
    assert (await provider.create(spec(provider))).id == created.id

    async def runs() -> ProviderMachine | None:
        machine = await provider.get(created.id, "odm")
        return machine if machine is not None and machine.address else None

    machine = await eventually(runs)
    assert (machine.status, machine.address, machine.location) == (MachineStatus.RUNNING, "127.0.0.1", "odm")
    assert 20000 <= machine.port < 32000
    assert machine.ends_at > 1_700_000_000
    assert [each.id for each in await provider.list_machines("c1")] == [created.id]
    assert await provider.list_machines("c2") == []
    await provider.delete(machine)

    async def is_gone() -> bool:
        return (
            await provider.get(created.id, "odm") is None
            or ask(conf, "squeue", "-h", "-t", "all", "-n", "clusterodm-c1-m1", "-o", "%T").strip() == "CANCELLED"
        )

    await eventually(is_gone)
    await provider.delete(machine)
    assert await provider.list_machines("c1") == []


async def test_a_job_that_can_never_start_is_unsatisfiable(conf: Path, tmp_path: Path) -> None:
    async with provider_of(tmp_path, entry(conf, tmp_path, partition="short")) as provider:
        created = await provider.create(spec(provider))

        async def waits() -> ProviderMachine | None:
            machine = await provider.get(created.id, "short")
            return machine if machine is not None and machine.reason not in ("", "None", "Priority") else None

        machine = await eventually(waits)
        assert (machine.status, machine.unsatisfiable) == (MachineStatus.WAITING, True)
        assert machine.reason in BEYOND
        await provider.delete(machine)


async def test_what_is_refused_and_who_does_not_answer(conf: Path, tmp_path: Path) -> None:
    async with provider_of(tmp_path, entry(conf, tmp_path, partition="nowhere")) as provider:
        with pytest.raises(Rejected, match="no partition nowhere"):
            await provider.check()
        with pytest.raises(Rejected, match="nvalid partition"):
            await provider.create(spec(provider, "clusterodm-c1-m2"))
    unreachable = tmp_path / "away.conf"
    unreachable.write_text(
        "\n".join(
            "SlurmctldPort=1\nMessageTimeout=2" if line.startswith("SlurmctldPort") else line
            for line in conf.read_text().splitlines()
        )
    )
    async with provider_of(tmp_path, entry(conf, tmp_path, slurmConf=str(unreachable))) as provider:
        with pytest.raises(Unreachable):
            await provider.create(spec(provider))
    async with provider_of(tmp_path, entry(conf, tmp_path, slurmBin=str(tmp_path))) as provider:
        with pytest.raises(Rejected, match="cannot be run"):
            await provider.check()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"addressFolder": None}, "addressFolder or callbackUrl"),
        ({"callbackUrl": "http://x"}, "addressFolder or callbackUrl"),
        ({"addressFolder": None, "callbackUrl": "http://x"}, "needs leaseToken"),
        ({"command": []}, "needs command"),
        ({"partitions": "x"}, "did you mean partition"),
        ({"imageSizeMapping": [{"maxImages": 1, "slug": "s", "cpus": 1, "memory": "lots"}]}, "memory"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    wrong = entry(Path("x"), tmp_path) | changes
    with pytest.raises(ConfigError, match=why):
        Slurm({key: value for key, value in wrong.items() if value is not None}, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["apptainer", "podman", "docker"])
def test_the_batch_script_runs_nodeodm_in_each_kind_of_container(tmp_path: Path, runtime: str) -> None:
    """Executed for real, with a program of that name that writes down how it was called."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / runtime
    stub.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/argv\n'
        f'cp "$(grep -o "/[^:]*node.json" {tmp_path}/argv | head -n1)" {tmp_path}/node.json\n'
    )
    stub.chmod(0o755)
    config = Slurm(entry(Path("x"), tmp_path, runtime=runtime), None).config  # type: ignore[arg-type]
    script = batch_script(config, "clusterodm-c1-m1", token="hush-'\"$(id)", max_images=7, gpu=True)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    bash = subprocess.run(["bash"], check=False, input=script, env=environ, text=True, capture_output=True, timeout=20)
    assert bash.returncode == 0, bash.stderr
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[0] == "run"
    assert argv[-2:] == ["--config", "/etc/nodeodm.json"]
    assert any(word.endswith(":/var/www/data") for word in argv)
    assert "hush-" not in " ".join(argv)
    host, port = (tmp_path / "addresses" / "clusterodm-c1-m1").read_text().split()
    node_config = json.loads((tmp_path / "node.json").read_text())
    expected_port = int(port) if runtime == "apptainer" else 3000
    assert node_config == {
        "port": expected_port,
        "token": "hush-'\"$(id)",
        "maxImages": 7,
        "parallelQueueProcessing": 1,
    }
    assert host == "127.0.0.1"
    card = {"apptainer": "--nv", "podman": "nvidia.com/gpu=all", "docker": "all"}[runtime]
    assert card in argv
    image = {"apptainer": "docker://docker.io/webodm/nodeodx:gpu"}.get(runtime, "docker.io/webodm/nodeodx:gpu")
    assert image in argv
    assert list(tmp_path.glob("clusterodm-????????")) == []


@pytest.mark.parametrize("runtime", ["podman", "docker"])
@needs_root
def test_an_image_with_a_user_of_its_own_reads_the_configuration_of_a_job(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / runtime).write_text(READS_INSIDE)
    (tmp_path / "bin" / runtime).chmod(0o755)
    configured = entry(Path("x"), tmp_path, runtime=runtime, image="docker://opendronemap/nodeodm:gpu")
    config = Slurm(configured, None).config  # type: ignore[arg-type]
    script = batch_script(config, "clusterodm-c1-m1", token="hush-node", max_images=7, gpu=True)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "OUT": str(tmp_path / "inside")}
    process = subprocess.run(
        ["bash"], check=False, input=script, env=environ, text=True, capture_output=True, timeout=20
    )
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "inside").read_text())["token"] == "hush-node"


async def started(cluster: Rig, configured: dict[str, Any], **settings: Any) -> None:
    path = cluster.folder / "asr.json"
    path.write_text(json.dumps(configured))
    await cluster.start(asr=path, machine_poll_interval=0.2, **settings)


async def test_from_zero_nodes_to_results_and_back_to_zero(conf: Path, cluster: Rig, tmp_path: Path) -> None:
    await started(cluster, entry(conf, tmp_path))
    uuids = [await cluster.api.create() for _ in range(2)]
    for uuid in uuids:
        await cluster.api.ends(uuid, seconds=60)
    await eventually(lambda: not cluster.cluster.context.machines.alive(), seconds=30)
    assert cluster.cluster.context.registry.nodes() == []
    for uuid in uuids:
        status, _, body = await cluster.api.raw("GET", f"/task/{uuid}/download/all.zip")
        assert (status, body[:2]) == (200, b"PK")
    assert list((tmp_path / "addresses").iterdir()) == []


async def test_a_node_tells_where_it_is_by_its_lease(conf: Path, cluster: Rig, tmp_path: Path) -> None:
    from tests.processes import free_port

    port = free_port()
    configured = entry(conf, tmp_path, callbackUrl=f"http://127.0.0.1:{port}", leaseToken="hush-lease")
    del configured["addressFolder"]
    await started(cluster, configured, admin_web_port=port, lease_token="hush-lease")
    uuid = await cluster.api.create()
    await eventually(
        lambda: any(machine.state is State.READY for machine in cluster.cluster.context.machines.alive()), seconds=30
    )
    [node] = cluster.cluster.context.registry.nodes()
    assert node.record.origin == "autoscaler"
    assert (node.record.ends_at > 0, node.record.drain_before) == (True, 600.0)
    await cluster.api.ends(uuid, seconds=60)
    await eventually(lambda: not cluster.cluster.context.machines.alive(), seconds=30)


async def test_a_job_that_could_never_run_is_given_up_with_its_reason(conf: Path, cluster: Rig, tmp_path: Path) -> None:
    await started(cluster, entry(conf, tmp_path, partition=["short", "odm"]))
    uuid = await cluster.api.create()
    await cluster.api.ends(uuid, seconds=60)
    store = cluster.cluster.context.store

    async def given_up() -> bool:
        gone_machines = [machine for machine in await store.machines_gone(limit=10) if machine.location == "short"]
        reasons = [machine.reason.rpartition("can never start at its provider: ")[2] for machine in gone_machines]
        return not BEYOND.isdisjoint(reasons)

    await eventually(given_up)


async def test_a_job_that_waits_for_too_long_is_given_up(conf: Path, cluster: Rig, tmp_path: Path) -> None:
    full = ask(conf, "sbatch", "--parsable", "--cpus-per-task=4", "--output=/dev/null", "--wrap", "sleep 300").strip()
    try:
        await started(cluster, entry(conf, tmp_path, pendingTimeout=1.5))
        uuid = await cluster.api.create()
        await eventually(lambda: "pending at slurm: Resources" in cluster.entry(uuid).wait)

        async def given_up() -> bool:
            gone_machines = await cluster.cluster.context.store.machines_gone(limit=10)
            return any(
                re.match("pending at its provider for .*: Resources", machine.reason) for machine in gone_machines
            )

        await eventually(given_up, seconds=30)
    finally:
        ask(conf, "scancel", full)
    await cluster.api.ends(uuid, seconds=60)


async def test_a_job_that_began_while_nobody_looked_gets_its_time_to_boot(
    conf: Path, cluster: Rig, tmp_path: Path
) -> None:
    full = ask(conf, "sbatch", "--parsable", "--cpus-per-task=4", "--output=/dev/null", "--wrap", "sleep 300").strip()
    configured = entry(conf, tmp_path, bootTimeout=5.0)
    await started(cluster, configured)
    uuid = await cluster.api.create()
    await eventually(lambda: "pending at slurm" in cluster.entry(uuid).wait)
    [machine] = cluster.cluster.context.machines.alive()
    hours_ago = cluster.cluster.context.clock() - 7200.0
    await cluster.cluster.context.machines.change(machine, booting_at=hours_ago)
    await cluster.stop()
    ask(conf, "scancel", full)
    await eventually(lambda: ask(conf, "squeue", "-h", "-n", machine.id, "-o", "%T").strip() == "RUNNING")
    await started(cluster, configured)
    await cluster.api.ends(uuid, seconds=60)
    assert await cluster.timeline(uuid)
    assert cluster.entry(uuid).task.attempts == 1
    gone_machines = await cluster.cluster.context.store.machines_gone(limit=10)
    assert not any("did not answer" in each.reason for each in gone_machines)


async def test_a_job_that_is_killed_costs_the_node_not_the_task(conf: Path, cluster: Rig, tmp_path: Path) -> None:
    slow = [*NODE[:5], "3", *NODE[6:]]
    await started(cluster, entry(conf, tmp_path, command=slow))
    uuid = await cluster.api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase == "running", seconds=30)
    [machine] = cluster.cluster.context.machines.alive()
    ask(conf, "scancel", machine.provider_id)
    await cluster.api.ends(uuid, seconds=60)
    assert any("its machine was taken away" in text for text in await cluster.timeline(uuid))


async def test_before_the_wall_time_ends_a_node_is_drained_and_running_tasks_are_retried(
    conf: Path, cluster: Rig, tmp_path: Path
) -> None:
    sizes = [SIZES[0] | {"time": "00:01:00"}, SIZES[1]]
    slow = [*NODE[:5], "100", *NODE[6:]]
    # the small job has one minute, and a few seconds of it for anything new
    await started(cluster, entry(conf, tmp_path, imageSizeMapping=sizes, command=slow, drainBefore=54, idleTimeout=60))
    first = await cluster.api.create()
    await eventually(lambda: cluster.entry(first).task.phase == "running", seconds=30)
    [machine] = cluster.cluster.context.machines.alive()
    node = cluster.cluster.context.machines.node(machine)
    assert node is not None
    await eventually(lambda: node.closed == "about to end", seconds=30)
    await cluster.cluster.context.registry.change(node, ends_at=cluster.cluster.context.clock() - 1)
    await eventually(lambda: cluster.entry(first).task.attempts == 2, seconds=40)
    assert any("its provider's time limit is reached" in text for text in await cluster.timeline(first))
    await cluster.api.post("/task/cancel", {"uuid": first})
