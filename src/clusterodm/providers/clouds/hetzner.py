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
_NO_ROOM: Final = ("resource_unavailable", "resource_limit_exceeded", "placement_error")
_BUSY: Final = ("conflict", "locked", "timeout", "unavailable", "maintenance")


class HetznerConfig(CloudConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    api_token: str
    location: str | list[str]
    image: str
    #: The image is a snapshot with that description.
    snapshot: bool = False


class Hetzner(CloudProvider):
    """Servers."""

    config: HetznerConfig

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(HetznerConfig, entry)
        super().__init__(config)
        headers = {"Authorization": f"Bearer {config.api_token}"}
        self._rest = RestClient(context, config.api_url or _URL, headers, _refusal)

    def locations(self) -> Iterable[str]:
        """Locations."""
        return as_list(self.config.location)

    async def check(self) -> None:
        """Whether the token is good, and image and key are there."""
        await self._image()
        await self._keys()

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """One server. Names are unique, so a second one is refused and the first one is looked up."""
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
            raise Unreachable("the name is taken, but nothing has it yet") from None

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """One server."""
        answer = await self._rest.call("GET", f"/servers/{machine_id}")
        return None if answer.status == 404 else _machine(require_field(answer, "server", dict))

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Servers with our label."""
        query = {"label_selector": f"{TAG}=={cluster}", "per_page": "50"}
        return [_machine(item) async for item in self._rest.pages("/servers", query, "servers")]

    async def delete(self, machine: ProviderMachine) -> None:
        """Its disk and its addresses go with it."""
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
        answer = await self._rest.call("GET", "/ssh_keys", query={"fingerprint": key.fingerprint})
        found = require_field(answer, "ssh_keys", list)
        if not found:
            raise Rejected(f"there is no SSH key {key.fingerprint}")
        return [str(found[0]["id"])]


class _NameTaken(ProviderError):
    """There is a server of that name."""


def _machine(server: dict[str, Any]) -> ProviderMachine:
    address = (server.get("public_net") or {}).get("ipv4") or {}
    place = server.get("location") or (server.get("datacenter") or {}).get("location") or {}
    return ProviderMachine(
        id=str(server["id"]),
        name=server["name"],
        status=_STATUS.get(server.get("status", ""), MachineStatus.STARTING),
        location=place.get("name", ""),
        address=address.get("ip") or "",
    )


def _refusal(answer: RestResponse) -> ProviderError:
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    code, said = (error.get("code", ""), str(error.get("message", ""))) if isinstance(error, dict) else ("", "")
    if code == "uniqueness_error":
        return _NameTaken(said[:200])
    if code in _NO_ROOM:
        return OutOfCapacity(said[:200] or code)
    if code in _BUSY:
        return Unreachable(f"{code}: {said[:200]}")
    return Rejected(said[:200] or f"HTTP status {answer.status}")
