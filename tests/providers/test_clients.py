# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pretended clouds answer the clouds' own client too, so that they are not only what we believe them to be."""

from __future__ import annotations

import asyncio
from typing import Any

import hcloud
import pydo
import pytest
import scaleway
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from scaleway.instance.v1 import InstanceV1API, ServerAction

from clusterodm.testing import DigitalOceanApi, HetznerApi, ScalewayApi, World
from tests.processes import free_port


async def test_hetzners_own_client_creates_finds_and_deletes_a_server() -> None:
    world = World(port=free_port())
    world.dead_on_arrival = True
    async with world.running(HetznerApi(world, token="hush-key").app()) as url:
        client = hcloud.Client("hush-key", api_endpoint=url)

        where: dict[str, Any] = {
            "location": Location(name="fsn1"),
            "labels": {"clusterodm": "c1"},
            "user_data": "#cloud-config",
        }

        def life() -> None:
            created = client.servers.create("m1", ServerType(name="cx22"), Image(name="x"), **where).server
            assert created.id is not None
            assert created.public_net is not None
            assert created.public_net.ipv4 is not None
            assert created.public_net.ipv4.ip.startswith("127.")
            assert [server.name for server in client.servers.get_all(label_selector="clusterodm==c1")] == ["m1"]
            assert client.servers.get_all(label_selector="clusterodm==c2") == []
            with pytest.raises(hcloud.APIException, match="already used"):
                client.servers.create("m1", ServerType(name="cx22"), Image(name="x"), **where)
            client.servers.delete(created)
            with pytest.raises(hcloud.APIException, match="not found"):
                client.servers.get_by_id(created.id)

        await asyncio.to_thread(life)
    assert world.machines == {}


async def test_digitaloceans_own_client_creates_finds_and_deletes_a_droplet() -> None:
    world = World(port=free_port())
    world.dead_on_arrival = True
    async with world.running(DigitalOceanApi(world, token="hush-key", snapshots={"odm": ["nyc1"]}).app()) as url:
        client = pydo.Client(token="hush-key", endpoint=url)
        plain: dict[str, Any] = {"enforce_https": False}

        def life() -> None:
            body = {
                "name": "m1",
                "region": "nyc1",
                "size": "small",
                "image": "ubuntu",
                "tags": ["a:1"],
                "user_data": "x",
            }
            created = client.droplets.create(body=body, **plain)["droplet"]
            droplets = client.droplets.list(tag_name="a:1", **plain)["droplets"]
            assert [(droplet["id"], droplet["status"]) for droplet in droplets] == [(created["id"], "active")]
            assert client.droplets.list(tag_name="a:2", **plain)["droplets"] == []
            networks = client.droplets.get(created["id"], **plain)["droplet"]["networks"]
            assert networks["v4"][0]["ip_address"].startswith("127.")
            assert [image["name"] for image in client.images.list(private=True, **plain)["images"]] == ["odm"]
            client.droplets.destroy(created["id"], **plain)
            assert client.droplets.get(created["id"], **plain)["id"] == "not_found"

        await asyncio.to_thread(life)
        await asyncio.to_thread(client.close)
    assert world.machines == {}


async def test_scaleways_own_client_lists_switches_on_and_deletes_a_server() -> None:
    world = World(port=free_port())
    world.dead_on_arrival = True
    project = "00000000-0000-4000-8000-000000000000"
    key = "11111111-0000-4000-8000-000000000000"
    async with world.running(ScalewayApi(world, token=key, images=["ubuntu_noble"]).app()) as url:
        client = scaleway.Client(
            access_key="SCWXXXXXXXXXXXXXXXXX", secret_key=key, default_project_id=project, api_url=url
        )
        api = InstanceV1API(client)
        machine = world.create("m1", "small", "fr-par-1", tags=["clusterodm=c1"], uuid=True)
        machine.user_data = "#cloud-config\n{}"

        def life() -> None:
            servers = api.list_servers(zone="fr-par-1", tags=["clusterodm=c1"]).servers
            assert [(server.name, str(server.state)) for server in servers] == [("m1", "stopped")]
            api.server_action(server_id=machine.id, zone="fr-par-1", action=ServerAction.POWERON)
            server = api.get_server(server_id=machine.id, zone="fr-par-1").server
            assert server is not None
            assert str(server.state) == "running"
            assert server.public_ips[0].address.startswith("127.")
            api.server_action(server_id=machine.id, zone="fr-par-1", action=ServerAction.TERMINATE)
            with pytest.raises(scaleway.ScalewayException):
                api.get_server(server_id=machine.id, zone="fr-par-1")

        await asyncio.to_thread(life)
    assert world.machines == {}
