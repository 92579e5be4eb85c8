# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hetzner Cloud: servers over its REST API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from clusterodm.core.errors import OutOfCapacity, ProviderError, Rejected, Unreachable
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, CloudProvider, MachineSpec, MachineStatus, ProviderMachine
from clusterodm.providers.config import CloudConfig, as_list, read_entry
from clusterodm.providers.rest import RestClient, RestResponse, require_field

_URL: Final = "https://api.hetzner.cloud/v1"
_STATUS: Final = {
    "initializing": MachineStatus.STARTING,
    "starting": MachineStatus.STARTING,
    "running": MachineStatus.RUNNING,
    "stopping": MachineStatus.STOPPED,
    "off": MachineStatus.STOPPED,
    "deleting": MachineStatus.ENDING,
}
_NO_CAPACITY: Final = ("resource_unavailable", "resource_limit_exceeded", "placement_error")
_BUSY: Final = ("conflict", "locked", "timeout", "unavailable", "maintenance")


class HetznerConfig(CloudConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    api_token: str
    location: str | list[str]
    image: str
    #: True if the image is the description of a snapshot.
    snapshot: bool = False


class Hetzner(CloudProvider):
    """Machines are servers."""

    config: HetznerConfig

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(HetznerConfig, entry)
        super().__init__(config)
        headers = {"Authorization": f"Bearer {config.api_token}"}
        self._rest = RestClient(context, config.api_url or _URL, headers, _refusal)

    def locations(self) -> Iterable[str]:
        """Return locations."""
        return as_list(self.config.location)

    async def check(self) -> None:
        """Look up the image and the SSH key."""
        await self._image()
        await self._keys()

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a server. Names are unique: if it is taken, return the server that has it."""
        body = {
            "name": spec.name,
            "server_type": spec.offering.size,
            "image": await self._image(),
            "location": spec.offering.location,
            "user_data": spec.bootstrap,
            "labels": {TAG: spec.cluster},
            "start_after_create": True,
        }
        if keys := await self._keys():
            body["ssh_keys"] = keys
        try:
            return _machine(require_field(await self._rest.call("POST", "/servers", json=body), "server", dict))
        except _NameTaken:
            for machine in await self.list_machines(spec.cluster):
                if machine.name == spec.name:
                    return machine
            raise Unreachable("the name is taken, but no server has it yet") from None

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a server."""
        response = await self._rest.call("GET", f"/servers/{machine_id}")
        return None if response.status == 404 else _machine(require_field(response, "server", dict))

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return servers with the label."""
        query = {"label_selector": f"{TAG}=={cluster}", "per_page": "50"}
        return [_machine(item) async for item in self._rest.pages("/servers", query, "servers")]

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a server; its disk and addresses are deleted with it."""
        await self._rest.call("DELETE", f"/servers/{machine.id}")

    async def _image(self) -> str:
        if not self.config.snapshot:
            return self.config.image
        query = {"type": "snapshot", "per_page": "50"}
        async for image in self._rest.pages("/images", query, "images"):
            if self.config.image in (image.get("description"), str(image.get("id"))):
                return str(image["id"])
        raise Rejected(f"there is no snapshot {self.config.image}")

    async def _keys(self) -> list[str]:
        key = self.config.ssh_key
        if key is None or not key.fingerprint:
            return []
        response = await self._rest.call("GET", "/ssh_keys", query={"fingerprint": key.fingerprint})
        keys = require_field(response, "ssh_keys", list)
        if not keys:
            raise Rejected(f"there is no SSH key {key.fingerprint}")
        return [str(keys[0]["id"])]


class _NameTaken(ProviderError):
    """A server of that name exists."""


def _machine(server: dict[str, Any]) -> ProviderMachine:
    address = (server.get("public_net") or {}).get("ipv4") or {}
    location = server.get("location") or (server.get("datacenter") or {}).get("location") or {}
    return ProviderMachine(
        id=str(server["id"]),
        name=server["name"],
        status=_STATUS.get(server.get("status", ""), MachineStatus.STARTING),
        location=location.get("name", ""),
        address=address.get("ip") or "",
    )


def _refusal(response: RestResponse) -> ProviderError:
    error = response.body.get("error") if isinstance(response.body, dict) else None
    code, text = (error.get("code", ""), str(error.get("message", ""))) if isinstance(error, dict) else ("", "")
    if code == "uniqueness_error":
        return _NameTaken(text[:200])
    if code in _NO_CAPACITY:
        return OutOfCapacity(text[:200] or code)
    if code in _BUSY:
        return Unreachable(f"{code}: {text[:200]}")
    return Rejected(text[:200] or f"HTTP status {response.status}")
