# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The four clouds as tests see them: pretended ones for three, moto for EC2."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import botocore.session
import pytest
import yaml
from moto.server import ThreadedMotoServer

from clusterodm.aio import Clock
from clusterodm.observe import Metrics
from clusterodm.providers import BoundedProvider, MachineSpec, make_fleet
from clusterodm.testing import DigitalOceanApi, FakeMachine, HetznerApi, ScalewayApi, World
from tests.processes import free_port

KEY = "hush-cloud-key"
SIZES = [{"maxImages": 10, "slug": "small", "price": 0.1}, {"maxImages": 100, "slug": "large", "price": 0.4}]


@dataclass
class Cloud:
    """One cloud."""

    name: str
    #: A provider's entry of the autoscaler's file.
    entry: dict[str, Any]
    #: Machines that there are, by name.
    names: Callable[[], list[str]]
    world: World | None = None
    #: Take a machine away as a cloud does, by name.
    take: Callable[[str], None] = field(default=lambda name: None)


#: As root one can be anybody.
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv to read as another user"
)
#: In place of podman or docker: reads the configuration as the user of the image would, which is none of this host's
#: unless the container is told another one, and which sees the mounted file, not the folders above it.
READS_INSIDE = """#!/bin/bash
user=65534
for ((n = 1; n < $#; n++)); do
  next=$((n + 1))
  if [ "${!n}" = --user ]; then user=${!next}; fi
  case ${!next} in *:/etc/nodeodm.json | *:/etc/nodeodm.json:ro) config=${!next%%:*} ;; esac
done
exec setpriv --reuid="$user" --regid="$user" --clear-groups cat /proc/self/fd/9 9<"$config" >"$OUT"
"""


def read_as(user: int, path: Path) -> str:
    """A file as a process of another user reads it, to whom only the file is mounted."""
    with path.open() as file:
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "cat", f"/dev/fd/{file.fileno()}"]
        return subprocess.run(words, check=True, capture_output=True, text=True, pass_fds=[file.fileno()]).stdout


KUBERNETES_TOKEN = "hush-service-account"


@asynccontextmanager
async def digitalocean_cloud(world: World) -> AsyncIterator[Cloud]:
    api = DigitalOceanApi(world, token=KEY, snapshots={"odm": ["nyc1"]})
    async with world.running(api.app()) as url:
        entry = {
            "provider": "digitalocean",
            "accessToken": KEY,
            "region": ["nyc1", "ams3"],
            "image": "ubuntu-24-04-x64",
        }
        yield _pretended("digitalocean", entry | {"apiUrl": url, "monitoring": True, "tags": ["own"]}, world)


@asynccontextmanager
async def hetzner_cloud(world: World) -> AsyncIterator[Cloud]:
    api = HetznerApi(world, token=KEY, snapshots=["odm"], keys=["aa:bb"])
    async with world.running(api.app()) as url:
        entry = {"provider": "hetzner", "apiToken": KEY, "location": "fsn1", "image": "ubuntu-24.04"}
        yield _pretended("hetzner", entry | {"apiUrl": url, "sshKey": {"fingerprint": "aa:bb"}}, world)


@asynccontextmanager
async def scaleway_cloud(world: World) -> AsyncIterator[Cloud]:
    api = ScalewayApi(world, token=KEY, images=["ubuntu_noble"])
    async with world.running(api.app()) as url:
        entry: dict[str, Any] = {
            "provider": "scaleway",
            "secretToken": KEY,
            "organization": "00000000-0000-4000-8000-000000000000",
        }
        yield _pretended(
            "scaleway", entry | {"apiUrl": url, "region": ["fr-par-1", "par1"], "image": "ubuntu-noble"}, world
        )


def _pretended(name: str, entry: dict[str, Any], world: World) -> Cloud:
    def take(machine: str) -> None:
        for each in list(world.machines.values()):
            if each.name == machine:
                world.delete(each)

    entry |= {"imageSizeMapping": SIZES, "nodePort": world.port}
    return Cloud(name, entry, lambda: [each.name for each in world.machines.values()], world, take)


@asynccontextmanager
async def aws_cloud(world: World) -> AsyncIterator[Cloud]:
    """EC2 by moto. Its instances have private addresses on loopback, where nodes start as their user-data says."""
    os.environ.setdefault("MOTO_ENABLE_AMI_VALIDATION", "0")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    client = botocore.session.Session().create_client(
        "ec2", region_name="us-east-1", endpoint_url=url, aws_access_key_id="k", aws_secret_access_key=KEY
    )
    vpc = client.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
    subnet = client.create_subnet(VpcId=vpc, CidrBlock="127.77.1.0/24")["Subnet"]["SubnetId"]
    client.create_security_group(GroupName="odm", Description="odm", VpcId=vpc)
    image = client.describe_images()["Images"][0]["ImageId"]

    def alive() -> list[dict[str, Any]]:
        groups = client.describe_instances()["Reservations"]
        instances = [instance for group in groups for instance in group["Instances"]]
        return [instance for instance in instances if instance["State"]["Name"] in ("pending", "running")]

    def names() -> list[str]:
        return [tag["Value"] for instance in alive() for tag in instance["Tags"] if tag["Key"] == "Name"]

    def take(machine: str) -> None:
        for instance in alive():
            if {"Key": "Name", "Value": machine} in instance["Tags"]:
                client.terminate_instances(InstanceIds=[instance["InstanceId"]])

    entry = {
        "provider": "aws",
        "accessKey": "k",
        "secretKey": KEY,
        "region": "us-east-1",
        "zone": ["a", "b"],
        "ami": image,
        "securityGroup": "odm",
        "vpc": vpc,
        "subnet": subnet,
        "usePrivateAddress": True,
        "spot": True,
        "tags": ["team,maps"],
        "apiUrl": url,
        "nodePort": world.port,
        "imageSizeMapping": [
            {"maxImages": 10, "slug": "t3.small", "price": 0.1, "spotPrice": 0.05, "storage": 20},
            {"maxImages": 100, "slug": "m5.large", "price": 0.4, "spotPrice": 0.2},
        ],
    }
    try:
        async with world.living() as group:
            work = group.create_task(_boot(client, alive, world))
            yield Cloud("aws", entry, names, None, take)
            work.cancel()
    finally:
        server.stop()
        client.close()


async def _boot(client: Any, alive: Callable[[], list[dict[str, Any]]], world: World) -> None:
    """Start and stop nodes with their instances."""
    while True:
        now = {instance["InstanceId"]: instance for instance in await asyncio.to_thread(alive)}
        for instance_id in set(world.machines) - set(now):
            world.delete(world.machines[instance_id])
        for instance_id in set(now) - set(world.machines):
            attribute = client.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")["UserData"]
            document = base64.b64decode(attribute["Value"]).decode()
            instance = now[instance_id]
            machine = FakeMachine(instance_id, "", "", "", instance["PrivateIpAddress"], user_data=document)
            world.machines[instance_id] = machine
            world.start(machine)
        await asyncio.sleep(0.05)


CLOUDS = {
    "digitalocean": digitalocean_cloud,
    "hetzner": hetzner_cloud,
    "scaleway": scaleway_cloud,
    "aws": aws_cloud,
}


@asynccontextmanager
async def running_cloud(name: str, **knobs: Any) -> AsyncIterator[Cloud]:
    """A cloud while the block runs."""
    world = World(port=free_port())
    world.knobs |= knobs
    async with CLOUDS[name](world) as cloud:
        yield cloud


@asynccontextmanager
async def provider_of(
    folder: Path, *entries: dict[str, Any], clock: Clock | None = None
) -> AsyncIterator[BoundedProvider]:
    """The provider of an entry, as the program makes it."""
    path = folder / "asr.json"
    path.write_text(json.dumps(entries[0] if len(entries) == 1 else {"providers": list(entries)}))
    async with aiohttp.ClientSession() as session:
        fleet = make_fleet(path, session, Metrics(), clock or Clock())
        provider = next(iter(fleet.providers.values()))
        yield provider
        await provider.close()


def spec(provider: BoundedProvider, name: str = "clusterodm-c1-m1", cluster: str = "c1", size: int = 0) -> MachineSpec:
    """What a machine of a size (by its number) is ordered with."""
    offering = provider.offerings[size]
    return MachineSpec(
        name=name, cluster=cluster, offering=offering, bootstrap=provider.bootstrap(name, offering, token="hush-node")
    )


def kubeconfig(folder: Path, url: str, **user: Any) -> Path:
    """A kubeconfig for an API server there, with a user of these fields."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "clusterodm"}}],
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user or {"token": KUBERNETES_TOKEN}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path
