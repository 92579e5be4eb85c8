# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Scaleway: instances over its REST API.

A server is created stopped, then gets its user data, then is powered on. A crash may follow each step, so `create`
resumes where an earlier attempt has ended. Terminating a server leaves its block volumes, which are deleted separately.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from clusterodm.core.errors import ConfigError, OutOfCapacity, ProviderError, Rejected, Unreachable
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, CloudProvider, MachineSpec, MachineStatus, ProviderMachine
from clusterodm.providers.config import CloudConfig, as_list, read_entry
from clusterodm.providers.rest import RestClient, RestResponse, require_field

_URL: Final = "https://api.scaleway.com"
_STATUS: Final = {
    "running": MachineStatus.RUNNING,
    "starting": MachineStatus.STARTING,
    "stopping": MachineStatus.ENDING,
    "stopped": MachineStatus.STOPPED,
    "stopped in place": MachineStatus.STOPPED,
    "locked": MachineStatus.STOPPED,
}
#: Former names of zones.
_ZONES: Final = {"par1": "fr-par-1", "ams1": "nl-ams-1"}
_RETIRED: Final = ("ubuntu-16-04", "ubuntu_xenial", "ubuntu-xenial", "ubuntu_bionic", "ubuntu-18-04")
_NO_CAPACITY: Final = ("out_of_stock", "quotas_exceeded", "resource_exhausted")
_BUSY: Final = ("transient_state", "precondition_failed", "resource_not_ready", "conflict")


class ScalewayConfig(CloudConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    secret_token: str
    #: The project.
    organization: str
    region: str | list[str]
    image: str


class Scaleway(CloudProvider):
    """Machines are instances."""

    config: ScalewayConfig

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(ScalewayConfig, {("region" if key == "zone" else key): entry[key] for key in entry})
        super().__init__(config)
        if config.image.lower() in _RETIRED:
            raise ConfigError(f"provider scaleway: image {config.image} is retired; use ubuntu_jammy or a later one")
        self._rest = RestClient(context, config.api_url or _URL, {"X-Auth-Token": config.secret_token}, _refusal)

    def locations(self) -> Iterable[str]:
        """Return zones."""
        return list(dict.fromkeys(_ZONES.get(zone, zone) for zone in as_list(self.config.region)))

    async def check(self) -> None:
        """Look up the image."""
        await self._image(next(iter(self.locations())), self.config.image_size_mapping[0].slug)

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create the server, set its user data, power it on: each step unless it is done already."""
        zone = spec.offering.location
        server = await self._named(spec.name, spec.cluster, zone)
        if server is None:
            body = {
                "name": spec.name,
                "commercial_type": spec.offering.size,
                "image": await self._image(zone, spec.offering.size),
                "project": self.config.organization,
                "dynamic_ip_required": True,
                "tags": [_tag(spec.cluster)],
            }
            storage = self.config.size(spec.offering.size).storage
            if storage is not None:
                body["volumes"] = {"0": {"size": storage * 10**9, "volume_type": "sbs_volume", "boot": True}}
            server = require_field(await self._rest.call("POST", _servers(zone), json=body), "server", dict)
        if server["state"] == "stopped":
            path = f"{_servers(zone)}/{server['id']}"
            plain = {"Content-Type": "text/plain"}
            await self._rest.call("PATCH", f"{path}/user_data/cloud-init", data=spec.bootstrap.encode(), headers=plain)
            await self._rest.call("POST", f"{path}/action", json={"action": "poweron"})
        return _machine(server, zone)

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a server."""
        response = await self._rest.call("GET", f"{_servers(location)}/{machine_id}")
        return None if response.status == 404 else _machine(require_field(response, "server", dict), location)

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return servers with the tag in all zones, also those that were never powered on."""
        return [
            _machine(server, zone)
            for zone in dict.fromkeys(self.locations())
            for server in await self._all(cluster, zone)
        ]

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete the server first, and its volumes once it is gone."""
        path = f"{_servers(machine.location)}/{machine.id}"
        current = await self.get(machine.id, machine.location)
        if current is None:
            for volume in machine.volumes:
                await self._delete_volume(machine.location, volume)
        elif current.status is MachineStatus.STOPPED:
            await self._rest.call("DELETE", path)
        elif current.status is not MachineStatus.ENDING:
            await self._rest.call("POST", f"{path}/action", json={"action": "terminate"})

    async def _delete_volume(self, zone: str, volume: str) -> None:
        response = await self._rest.call("DELETE", f"/block/v1alpha1/zones/{zone}/volumes/{volume}")
        if response.status == 404:
            await self._rest.call("DELETE", f"/instance/v1/zones/{zone}/volumes/{volume}")

    async def _all(self, cluster: str, zone: str) -> list[dict[str, Any]]:
        query = {"tags": _tag(cluster), "per_page": "100"}
        return [server async for server in self._rest.pages(_servers(zone), query, "servers")]

    async def _named(self, name: str, cluster: str, zone: str) -> dict[str, Any] | None:
        return next((server for server in await self._all(cluster, zone) if server["name"] == name), None)

    async def _image(self, zone: str, size: str) -> str:
        """Return the id of an image that is given by its label."""
        if len(self.config.image) == 36 and self.config.image.count("-") == 4:
            return self.config.image
        query = {"image_label": self.config.image.replace("-", "_"), "zone": zone, "type": "instance_sbs"}
        images = require_field(
            await self._rest.call("GET", "/marketplace/v2/local-images", query=query), "local_images", list
        )
        matching = [image for image in images if size in image.get("compatible_commercial_types", [size])]
        if not matching:
            raise Rejected(f"there is no image {self.config.image} for {size} in {zone}")
        return str(matching[0]["id"])


def _tag(cluster: str) -> str:
    return f"{TAG}={cluster}"


def _servers(zone: str) -> str:
    return f"/instance/v1/zones/{zone}/servers"


def _machine(server: dict[str, Any], zone: str) -> ProviderMachine:
    addresses = [address["address"] for address in server.get("public_ips") or [] if address.get("family") != "inet6"]
    old = (server.get("public_ip") or {}).get("address")
    return ProviderMachine(
        id=str(server["id"]),
        name=server["name"],
        status=_STATUS.get(server.get("state", ""), MachineStatus.STARTING),
        location=zone,
        address=next(iter(addresses), old or ""),
        volumes=[str(volume["id"]) for volume in (server.get("volumes") or {}).values() if volume.get("id")],
    )


def _refusal(response: RestResponse) -> ProviderError:
    body = response.body if isinstance(response.body, dict) else {}
    kind, text = str(body.get("type", "")), str(body.get("message", ""))[:200]
    if kind in _NO_CAPACITY:
        return OutOfCapacity(text or kind)
    if kind in _BUSY or response.status == 409:
        return Unreachable(f"{kind}: {text}")
    return Rejected(text or f"HTTP status {response.status}")
