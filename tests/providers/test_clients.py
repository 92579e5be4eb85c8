"""The pretended clouds answer the clouds' own client too, so that they are not only what we believe them to be."""

from __future__ import annotations

import asyncio
from typing import Any

import hcloud
import pytest
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from clusterodm.testing import HetznerApi, World
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
            made = client.servers.create("m1", ServerType(name="cx22"), Image(name="x"), **where).server
            assert made.id is not None
            assert made.public_net is not None
            assert made.public_net.ipv4 is not None
            assert made.public_net.ipv4.ip.startswith("127.")
            assert [server.name for server in client.servers.get_all(label_selector="clusterodm==c1")] == ["m1"]
            assert client.servers.get_all(label_selector="clusterodm==c2") == []
            with pytest.raises(hcloud.APIException, match="already used"):
                client.servers.create("m1", ServerType(name="cx22"), Image(name="x"), **where)
            client.servers.delete(made)
            with pytest.raises(hcloud.APIException, match="not found"):
                client.servers.get_by_id(made.id)

        await asyncio.to_thread(life)
    assert world.machines == {}
