# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The provider kubernetes against a pretended API server that checks rights and schemas; independent clients talk to
the same server, and with KUBECONFIG_LIVE the provider talks to a real cluster."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_asyncio
import kubernetes_validate
import pytest
import trustme
import yaml
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.models.batch_v1 import JobSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec, SecretVolumeSource, Volume
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod, Secret
from lightkube.types import CascadeType

from clusterodm.cluster.machines import backoff
from clusterodm.core.errors import ConfigError, OutOfCapacity, Rejected
from clusterodm.core.machines import State
from clusterodm.providers import BoundedProvider, MachineStatus, ProviderMachine
from clusterodm.providers.schedulers import kubernetes
from clusterodm.providers.schedulers.kubeconfig import from_kubeconfig, in_cluster
from clusterodm.server import schedule
from clusterodm.testing import KubernetesApi
from tests.processes import free_port
from tests.providers.support import KUBERNETES_TOKEN, kubeconfig, needs_root, provider_of, read_as, spec
from tests.support import Rig, eventually

ROLE = Path("deploy/kubernetes/rbac.yaml")
SIZES = [
    {"maxImages": 10, "slug": "small", "cpu": "2", "memory": "8Gi"},
    {"maxImages": 100, "slug": "large", "cpu": "16", "memory": "64Gi", "gpus": 1, "ephemeralStorage": "200Gi"},
]


def rights() -> dict[tuple[str, str], set[str]]:
    """What the shipped Role allows."""
    [role] = [each for each in yaml.safe_load_all(ROLE.read_text()) if each["kind"] == "Role"]
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def check_schema(plural: str, item: dict[str, Any]) -> None:
    """By the official schema; unknown fields are errors."""
    kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


@pytest.fixture
async def server() -> AsyncIterator[KubernetesApi]:
    api = KubernetesApi(token=KUBERNETES_TOKEN, port=free_port())
    api.rights = rights()
    api.created = check_schema
    async with api.running() as url:
        api.url = url  # type: ignore[attr-defined]
        yield api


def entry(server: KubernetesApi, folder: Path, **changes: Any) -> dict[str, Any]:
    path = kubeconfig(folder, server.url)  # type: ignore[attr-defined]
    return {
        "provider": "kubernetes",
        "kubeconfig": str(path),
        "imageSizeMapping": SIZES,
        "nodePort": server._port,
        "nodeSelector": {"pool": "odm"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "500Gi"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/var/www/data"}],
        "imagePullSecrets": ["registry"],
        "labels": {"team": "maps"},
        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        "idleTimeout": 0.3,
    } | changes


@pytest.fixture
async def provider(server: KubernetesApi, tmp_path: Path) -> AsyncIterator[BoundedProvider]:
    async with provider_of(tmp_path, entry(server, tmp_path)) as bounded:
        yield bounded


async def runs(provider: BoundedProvider, name: str) -> ProviderMachine:
    async def look() -> ProviderMachine | None:
        machine = await provider.get(name, "clusterodm")
        return machine if machine is not None and machine.status is MachineStatus.RUNNING and machine.address else None

    machine: ProviderMachine = await eventually(look)
    return machine


async def test_a_job_is_created_once_found_and_deleted_with_all_that_is_its(
    server: KubernetesApi, provider: BoundedProvider
) -> None:
    await provider.check()
    created = await provider.create(spec(provider))
    second = await provider.create(spec(provider))
    assert (created.id, second.id) == ("clusterodm-c1-m1", "clusterodm-c1-m1")
    machine = await runs(provider, created.id)
    assert machine.address.startswith("127.9.")
    assert await provider.list_machines("c1") == [machine]
    assert await provider.list_machines("c2") == []
    await provider.delete(machine)

    async def is_gone() -> bool:
        return await provider.get(created.id, "clusterodm") is None

    await eventually(is_gone)
    assert await provider.list_machines("c1") == []
    assert {plural: list(items) for plural, items in server.objects.items()} == {"jobs": [], "pods": [], "secrets": []}
    await provider.delete(machine)


async def test_a_list_is_read_once_and_then_watched(server: KubernetesApi, provider: BoundedProvider) -> None:
    for number in range(5):
        await provider.create(spec(provider, f"m{number}"))
    await provider.list_machines("c1")
    server.requests.clear()
    for number in range(5, 8):
        await provider.create(spec(provider, f"m{number}"))
        assert len(await provider.list_machines("c1")) == number + 1
    assert "list jobs" not in server.requests
    assert server.requests.count("watch jobs") == 3
    server.compact()
    await provider.create(spec(provider, "late"))
    server.compact()
    assert len(await provider.list_machines("c1")) == 9
    assert server.requests.count("list jobs") == 1


async def test_long_lists_come_in_pages(
    server: KubernetesApi, provider: BoundedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(kubernetes, "_PAGE", 2)
    server.broken = "ContainerCreating"
    for number in range(5):
        await provider.create(spec(provider, f"m{number}"))
    assert len(await provider.list_machines("c1")) == 5
    assert server.requests.count("list jobs") == 3


async def test_what_waits_says_why(server: KubernetesApi, provider: BoundedProvider) -> None:
    server.fits = lambda spec: False
    await provider.create(spec(provider))

    async def waits() -> bool:
        machine = await provider.get("clusterodm-c1-m1", "clusterodm")
        return (
            machine is not None and machine.status is MachineStatus.WAITING and "Insufficient memory" in machine.reason
        )

    await eventually(waits)
    server.fits = lambda spec: True
    server.broken = "ImagePullBackOff"

    async def never() -> bool:
        machine = await provider.get("clusterodm-c1-m1", "clusterodm")
        return machine is not None and machine.unsatisfiable and "ImagePullBackOff" in machine.reason

    await eventually(never)


async def test_a_quota_is_no_room_and_a_wrong_token_is_refused(server: KubernetesApi, tmp_path: Path) -> None:
    async with provider_of(tmp_path, entry(server, tmp_path)) as provider:
        server.quota = 0
        with pytest.raises(OutOfCapacity, match="exceeded quota"):
            await provider.create(spec(provider))
        server.token = "hush-another"
        with pytest.raises(Rejected, match="the key is not valid"):
            await provider.check()
        server.token, server.rights = KUBERNETES_TOKEN, {}
        with pytest.raises(Rejected, match="forbidden"):
            await provider.check()


async def test_a_pod_is_as_configured_and_holds_no_secret(server: KubernetesApi, provider: BoundedProvider) -> None:
    await provider.create(spec(provider, size=1))
    job = server.objects["jobs"]["clusterodm-c1-m1"]
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "200Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }
    assert pod["nodeSelector"] == {"pool": "odm"}
    assert pod["automountServiceAccountToken"] is False
    assert job["metadata"]["labels"] == {"team": "maps", "clusterodm": "c1", "clusterodm/machine": "clusterodm-c1-m1"}
    assert "hush-" not in json.dumps(job)
    secret = server.objects["secrets"]["clusterodm-c1-m1"]
    assert json.loads(base64.b64decode(secret["data"]["node.json"]))["token"] == "hush-node"
    assert "hush-" not in provider.shown("NAME", provider.offerings[0])


@needs_root
async def test_an_image_with_a_user_of_its_own_reads_the_secret(
    server: KubernetesApi, provider: BoundedProvider, tmp_path: Path
) -> None:
    """A kubelet writes the files of a Secret as root, with the mode that the volume asks for, into a folder that only
    the pod sees."""
    await provider.create(spec(provider, size=1))
    pod = server.objects["jobs"]["clusterodm-c1-m1"]["spec"]["template"]["spec"]
    [volume] = [each["secret"] for each in pod["volumes"] if each["name"] == "node"]
    path = tmp_path / "node.json"
    path.write_bytes(base64.b64decode(server.objects["secrets"][volume["secretName"]]["data"]["node.json"]))
    path.chmod(volume["defaultMode"])
    user = pod["containers"][0].get("securityContext", {}).get("runAsUser", 1000)
    content = await asyncio.to_thread(read_as, user, path)
    assert json.loads(content)["token"] == "hush-node"


async def test_the_image_is_the_one_that_is_named_or_the_default_for_the_size(
    server: KubernetesApi, tmp_path: Path
) -> None:
    for named, images in [
        ({}, ["docker.io/webodm/nodeodx", "docker.io/webodm/nodeodx:gpu"]),
        ({"image": "opendronemap/nodeodm"}, ["opendronemap/nodeodm", "opendronemap/nodeodm"]),
    ]:
        async with provider_of(tmp_path, entry(server, tmp_path, **named)) as provider:
            jobs = [json.loads(provider.bootstrap("m", offering, token="t"))["job"] for offering in provider.offerings]
            pods = [job["spec"]["template"]["spec"] for job in jobs]
            assert [pod["containers"][0]["image"] for pod in pods] == images


async def test_the_pod_of_a_host_is_reached_there(server: KubernetesApi, tmp_path: Path) -> None:
    async with provider_of(tmp_path, entry(server, tmp_path, address="host", serviceAccount="odm")) as provider:
        await provider.create(spec(provider))
        await runs(provider, "clusterodm-c1-m1")
        pod = server.objects["jobs"]["clusterodm-c1-m1"]["spec"]["template"]["spec"]
        assert (pod["hostNetwork"], pod["serviceAccountName"]) == (True, "odm")


# Ways to the server


def test_a_kubeconfig_with_certificates_and_one_that_calls_a_program(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("client")
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    user = {
        "client-certificate-data": base64.b64encode(chain).decode(),
        "client-key-data": base64.b64encode(issued.private_key_pem.bytes()).decode(),
    }
    path = kubeconfig(tmp_path, "https://127.0.0.1:6443", **user)
    content = yaml.safe_load(path.read_text())
    content["clusters"][0]["cluster"]["certificate-authority"] = "ca.crt"
    path.write_text(yaml.safe_dump(content))
    access = from_kubeconfig(path)
    assert (access.url, access.namespace, access.token()) == ("https://127.0.0.1:6443", "clusterodm", "")
    assert access.tls is not None
    with pytest.raises(ConfigError, match="run a program"):
        from_kubeconfig(kubeconfig(tmp_path, "https://x", exec={"command": "aws"}))
    with pytest.raises(ConfigError, match="context other"):
        from_kubeconfig(path, "other")
    with pytest.raises(ConfigError, match="cannot be read"):
        from_kubeconfig(tmp_path / "nothing")
    (tmp_path / "token").write_text("hush-one\n")
    renewed = from_kubeconfig(kubeconfig(tmp_path, "http://x", tokenFile="token"))
    assert renewed.token() == "hush-one"
    (tmp_path / "token").write_text("hush-two\n")
    assert renewed.token() == "hush-two"


def test_the_access_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not running in a pod"):
        in_cluster("", "443", tmp_path)
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "token").write_text("hush-token\n")
    (tmp_path / "namespace").write_text("maps")
    access = in_cluster("fd00::1", "443", tmp_path)
    assert (access.url, access.namespace, access.token()) == ("https://[fd00::1]:443", "maps", "hush-token")
    assert "hush-" not in repr(access)


# Independent clients: the pretended server answers as they expect


def _job(name: str) -> Job:
    volume = Volume(name="node", secret=SecretVolumeSource(secretName=name))
    pod = PodSpec(containers=[Container(name="a", image="b")], restartPolicy="Never", volumes=[volume])
    labels = {"clusterodm": "x"}
    template = PodTemplateSpec(metadata=ObjectMeta(labels=labels), spec=pod)
    return Job(metadata=ObjectMeta(name=name, labels=labels), spec=JobSpec(template=template))


async def test_lightkube_creates_lists_watches_and_deletes(server: KubernetesApi, tmp_path: Path) -> None:
    server.rights = None
    config = KubeConfig.from_file(str(kubeconfig(tmp_path, server.url)))  # type: ignore[attr-defined]

    def life() -> None:
        client = Client(config=config, trust_env=False)
        client.create(_job("one"))
        with pytest.raises(ApiError) as exists:
            client.create(_job("one"))
        assert (exists.value.status.code, exists.value.status.reason) == (409, "AlreadyExists")
        client.create(Secret(metadata=ObjectMeta(name="other"), stringData={"node.json": "{}"}))
        assert [job.metadata.name for job in client.list(Job, labels={"clusterodm": "x"}) if job.metadata] == ["one"]
        watching = client.watch(Pod, labels={"clusterodm": "x"}, resource_version="0")
        event, pod = next(iter(watching))
        assert (event, (pod.metadata.labels or {})["job-name"]) == ("ADDED", "one")  # type: ignore[union-attr]
        watching.close()  # type: ignore[attr-defined]
        client.delete(Job, "one", cascade=CascadeType.FOREGROUND)
        with pytest.raises(ApiError) as missing:
            client.get(Job, "nothing")
        assert missing.value.status.code == 404
        client.close()

    await asyncio.to_thread(life)
    await eventually(lambda: not server.objects["jobs"])


async def test_kubernetes_asyncio_understands_it_too(
    server: KubernetesApi, tmp_path: Path, provider: BoundedProvider
) -> None:
    server.rights = None
    await provider.create(spec(provider))
    await runs(provider, "clusterodm-c1-m1")
    await kubernetes_asyncio.config.load_kube_config(str(kubeconfig(tmp_path, server.url)))  # type: ignore[attr-defined]
    async with kubernetes_asyncio.client.ApiClient() as client:
        jobs = await kubernetes_asyncio.client.BatchV1Api(client).list_namespaced_job(
            "clusterodm", label_selector="clusterodm=c1"
        )
        assert [(job.metadata.name, job.status.active) for job in jobs.items] == [("clusterodm-c1-m1", 1)]
        pods = await kubernetes_asyncio.client.CoreV1Api(client).list_namespaced_pod(
            "clusterodm", label_selector="clusterodm=c1"
        )
        assert pods.items[0].status.pod_ip.startswith("127.9.")
        with pytest.raises(kubernetes_asyncio.client.ApiException) as missing:
            await kubernetes_asyncio.client.BatchV1Api(client).read_namespaced_job("nothing", "clusterodm")
        assert missing.value.status == 404


# A whole cluster


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_SCALE", 0.02)
    monkeypatch.setattr(backoff, "FIRST_BLOCK", 0.2)


async def started(cluster: Rig, entry: dict[str, Any]) -> None:
    path = cluster.folder / "asr.json"
    path.write_text(json.dumps(entry))
    await cluster.start(asr=path, machine_poll_interval=0.1)


@pytest.mark.usefixtures("fast")
async def test_from_zero_to_results_and_back_to_zero(server: KubernetesApi, cluster: Rig, tmp_path: Path) -> None:
    await started(cluster, entry(server, tmp_path))
    uuids = [await cluster.api.create() for _ in range(3)]
    for uuid in uuids:
        await cluster.api.ends(uuid, seconds=40)
    await eventually(lambda: not cluster.cluster.context.machines.alive(), seconds=30)
    await eventually(lambda: not server.objects["jobs"])
    assert server.objects["secrets"] == {}
    for uuid in uuids:
        assert (await cluster.api.raw("GET", f"/task/{uuid}/download/all.zip"))[0] == 200


@pytest.mark.usefixtures("fast")
async def test_a_pod_that_finds_no_host_gives_way_to_a_larger_size(
    server: KubernetesApi, cluster: Rig, tmp_path: Path
) -> None:
    server.fits = lambda spec: spec["containers"][0]["resources"]["requests"]["memory"] != "8Gi"
    await started(cluster, entry(server, tmp_path, pendingTimeout=0.5))
    uuid = await cluster.api.create()
    await eventually(lambda: "pending at kubernetes: Unschedulable" in cluster.entry(uuid).wait)
    await cluster.api.ends(uuid, seconds=40)
    gone_machines = await cluster.cluster.context.store.machines_gone(limit=10)
    assert any("Insufficient memory" in machine.reason for machine in gone_machines)


@pytest.mark.usefixtures("fast")
async def test_a_pod_that_is_lost_costs_the_node_not_the_task(
    server: KubernetesApi, cluster: Rig, tmp_path: Path
) -> None:
    server.knobs["seconds"] = 1.0
    await started(cluster, entry(server, tmp_path))
    uuid = await cluster.api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase == "running", seconds=30)
    [machine] = [each for each in cluster.cluster.context.machines.alive() if each.state is State.READY]
    await server.end_pod(machine.id)
    await cluster.api.ends(uuid, seconds=40)
    assert cluster.entry(uuid).task.attempts == 2


@pytest.mark.skipif("KUBECONFIG_LIVE" not in os.environ, reason="needs a real Kubernetes: KUBECONFIG_LIVE=kubeconfig")
async def test_a_real_cluster(tmp_path: Path) -> None:
    """Needs a namespace that the kubeconfig's context names, and the right to make jobs there; NODE_IMAGE may say what
    runs (anything that stays up will do)."""
    configured = {
        "provider": "kubernetes",
        "kubeconfig": os.environ["KUBECONFIG_LIVE"],
        "imageSizeMapping": [{"maxImages": 10, "slug": "small", "cpu": "10m", "memory": "64Mi"}],
        "image": os.environ.get("NODE_IMAGE", "registry.k8s.io/pause:3.10"),
    }
    async with provider_of(tmp_path, configured) as provider:
        await provider.check()
        machine = await provider.create(spec(provider, f"clusterodm-live-{os.getpid()}", "live"))
        try:
            assert machine.id in [each.id for each in await provider.list_machines("live")]
            await eventually(lambda: provider.get(machine.id, machine.location), seconds=120)
        finally:
            await provider.delete(machine)

        async def is_gone() -> bool:
            return await provider.get(machine.id, machine.location) is None

        await eventually(is_gone, seconds=120)
