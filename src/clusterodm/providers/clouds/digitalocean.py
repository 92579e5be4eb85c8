# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""DigitalOcean: droplets over its REST API, version 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from clusterodm.core.errors import OutOfCapacity, ProviderError, Rejected
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, CloudProvider, MachineSpec, MachineStatus, ProviderMachine
from clusterodm.providers.config import CloudConfig, as_list, read_entry
from clusterodm.providers.rest import RestClient, RestResponse, require_field

_URL: Final = "https://api.digitalocean.com"
_STATUS: Final = {
    "new": MachineStatus.STARTING,
    "active": MachineStatus.RUNNING,
    "off": MachineStatus.STOPPED,
    "archive": MachineStatus.STOPPED,
}
#: Messages if the limit of the account or the capacity of the region is reached.
_NO_CAPACITY: Final = ("limit", "not available", "unavailable", "capacity", "no available")


class DigitalOceanConfig(CloudConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    access_token: str
    region: str | list[str]
    image: str
    #: True if the image is the name of a snapshot.
    snapshot: bool = False
    tags: tuple[str, ...] = ()
    monitoring: bool = False


class DigitalOcean(CloudProvider):
    """Machines are droplets."""

    config: DigitalOceanConfig

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(DigitalOceanConfig, entry)
        super().__init__(config)
        headers = {"Authorization": f"Bearer {config.access_token}"}
        self._rest = RestClient(context, config.api_url or _URL, headers, _refusal)

    def locations(self) -> Iterable[str]:
        """Return regions."""
        return as_list(self.config.region)

    async def check(self) -> None:
        """Call with the token, and look up the image."""
        await self._rest.call("GET", "/v2/droplets", query={"per_page": "1"})
        await self._image(next(iter(self.locations())))

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a droplet unless there is one of that name: the API has no idempotency key."""
        for machine in await self.list_machines(spec.cluster):
            if machine.name == spec.name:
                return machine
        config = self.config
        body = {
            "name": spec.name,
            "region": spec.offering.location,
            "size": spec.offering.size,
            "image": await self._image(spec.offering.location),
            "user_data": spec.bootstrap,
            "tags": [_tag(spec.cluster), *config.tags],
            "monitoring": config.monitoring,
            "ssh_keys": [config.ssh_key.fingerprint] if config.ssh_key else [],
        }
        return _machine(require_field(await self._rest.call("POST", "/v2/droplets", json=body), "droplet", dict))

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a droplet."""
        response = await self._rest.call("GET", f"/v2/droplets/{machine_id}")
        return None if response.status == 404 else _machine(require_field(response, "droplet", dict))

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return droplets with the tag."""
        query = {"tag_name": _tag(cluster), "per_page": "200"}
        return [_machine(item) async for item in self._rest.pages("/v2/droplets", query, "droplets")]

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a droplet; its disk is deleted with it."""
        await self._rest.call("DELETE", f"/v2/droplets/{machine.id}")

    async def _image(self, region: str) -> str | int:
        """Return the slug of a public image, or the id of a snapshot."""
        if not self.config.snapshot:
            return self.config.image
        query = {"private": "true", "per_page": "200"}
        async for image in self._rest.pages("/v2/images", query, "images"):
            if self.config.image in (image.get("name"), str(image.get("id"))):
                if region not in image.get("regions", []):
                    raise Rejected(f"the snapshot {self.config.image} is not in {region}")
                return int(image["id"])
        raise Rejected(f"there is no snapshot {self.config.image}")


def _tag(cluster: str) -> str:
    return f"{TAG}:{cluster}"


def _machine(droplet: dict[str, Any]) -> ProviderMachine:
    addresses = droplet.get("networks", {}).get("v4", [])
    public = [address["ip_address"] for address in addresses if address.get("type") == "public"]
    return ProviderMachine(
        id=str(droplet["id"]),
        name=droplet["name"],
        status=_STATUS.get(droplet.get("status", ""), MachineStatus.STARTING),
        location=droplet.get("region", {}).get("slug", ""),
        address=public[0] if public else "",
    )


def _refusal(response: RestResponse) -> ProviderError:
    text = str(response.body.get("message", "")) if isinstance(response.body, dict) else ""
    if response.status in (403, 422) and any(part in text.lower() for part in _NO_CAPACITY):
        return OutOfCapacity(text[:200])
    return Rejected(text[:200] or f"HTTP status {response.status}")
