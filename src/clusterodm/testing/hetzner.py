# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A fake of Hetzner Cloud's API, as far as the provider calls it."""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web

from clusterodm.testing.world import FakeMachine, World, page

_CREATED = "2026-01-01T00:00:00+00:00"


class HetznerApi:
    """The API over a world; `snapshots` are descriptions, `keys` fingerprints of SSH keys."""

    def __init__(
        self, world: World, *, token: str, snapshots: list[str] | None = None, keys: list[str] | None = None
    ) -> None:
        self._world = world
        self._token = token
        self._snapshots = snapshots or []
        self._keys = keys or []
        world.throttled = self._throttle

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refuse(401, "unauthorized", "unable to authenticate")
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if any(machine.name == body["name"] for machine in self._world.machines.values()):
            return _refuse(409, "uniqueness_error", "server name is already used")
        if not self._world.find_room(body["server_type"]):
            text = "we are unable to provision servers for this location"  # quoted
            return _refuse(412, "resource_unavailable", text)
        machine = self._world.create(
            body["name"], body["server_type"], body["location"], labels=body["labels"], user_data=body["user_data"]
        )
        self._world.start(machine)
        created: dict[str, Any] = {
            "server": _server(machine),
            "action": _action(machine, "create_server"),
            "next_actions": [],
            "root_password": None,
        }
        return web.json_response(created, status=201)

    async def _listed(self, request: web.Request) -> web.Response:
        key, _, value = request.query.get("label_selector", "").partition("==")
        name = request.query.get("name")
        machines = [
            machine
            for machine in self._world.machines.values()
            if (not key or machine.labels.get(key) == value) and name in (None, machine.name)
        ]
        return _paged(request, "servers", [_server(machine) for machine in machines])

    async def _get_server(self, request: web.Request) -> web.Response:
        machine = self._world.machines.get(request.match_info["id"])
        if machine is None:
            return _refuse(404, "not_found", "server not found")
        if request.method == "DELETE":
            self._world.delete(machine)
            return web.json_response({"action": _action(machine, "delete_server")})
        return web.json_response({"server": _server(machine)})

    async def _images(self, request: web.Request) -> web.Response:
        return _paged(request, "images", [_image(n, text) for n, text in enumerate(self._snapshots, 1)])

    async def _ssh_keys(self, request: web.Request) -> web.Response:
        fingerprint = request.query.get("fingerprint")
        keys = [_key(n, each) for n, each in enumerate(self._keys, 1) if fingerprint in (None, each)]
        return _paged(request, "ssh_keys", keys)

    def _throttle(self, seconds: float) -> web.Response:
        """Refuse as if the quota were exhausted; the reset is when all of it has recovered."""
        response = _refuse(429, "rate_limit_exceeded", "limit of 3600 requests per hour reached")
        reset = str(math.ceil(self._world.clock() + seconds))
        response.headers.update({"RateLimit-Limit": "3600", "RateLimit-Remaining": "0", "RateLimit-Reset": reset})
        return response

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._authorized])
        app.add_routes(
            [
                web.post("/servers", self._create),
                web.get("/servers", self._listed),
                web.get("/servers/{id}", self._get_server),
                web.delete("/servers/{id}", self._get_server),
                web.get("/images", self._images),
                web.get("/ssh_keys", self._ssh_keys),
            ]
        )
        return app


def _refuse(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "details": None}}, status=status)


def _paged(request: web.Request, key: str, items: list[Any]) -> web.Response:
    size, number = int(request.query.get("per_page", 25)), int(request.query.get("page", 1))
    last = max(1, -(-len(items) // size))
    pagination = {
        "page": number,
        "per_page": size,
        "previous_page": number - 1 if number > 1 else None,
        "next_page": number + 1 if number < last else None,
        "last_page": last,
        "total_entries": len(items),
    }
    return web.json_response({key: page(request, items), "meta": {"pagination": pagination}})


def _action(machine: FakeMachine, command: str) -> dict[str, Any]:
    return {
        "id": 1,
        "command": command,
        "status": "running",
        "progress": 0,
        "started": _CREATED,
        "finished": None,
        "resources": [{"id": int(machine.id), "type": "server"}],
        "error": None,
    }


def _image(number: int, description: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": "snapshot",
        "status": "available",
        "name": None,
        "description": description,
        "image_size": 2.3,
        "disk_size": 10,
        "created": _CREATED,
        "created_from": None,
        "bound_to": None,
        "os_flavor": "ubuntu",
        "os_version": "24.04",
        "architecture": "x86",
        "rapid_deploy": False,
        "protection": {"delete": False},
        "deprecated": None,
        "deleted": None,
        "labels": {},
    }


def _key(number: int, fingerprint: str) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"key {number}",
        "fingerprint": fingerprint,
        "public_key": "ssh-ed25519 AAAA",
        "labels": {},
        "created": _CREATED,
    }


def _server(machine: FakeMachine) -> dict[str, Any]:
    location = {
        "id": 1,
        "name": machine.location,
        "description": "somewhere",
        "country": "DE",
        "city": "Falkenstein",
        "latitude": 50.47612,
        "longitude": 12.370071,
        "network_zone": "eu-central",
    }
    ipv4 = {"id": 1, "ip": machine.address, "blocked": False, "dns_ptr": "here.example"}
    return {
        "id": int(machine.id),
        "name": machine.name,
        "status": "off" if machine.state == "stopped" else machine.state,
        "created": _CREATED,
        "public_net": {"ipv4": ipv4, "ipv6": None, "floating_ips": [], "firewalls": []},
        "private_net": [],
        "server_type": {
            "id": 1,
            "name": machine.size,
            "description": machine.size,
            "cores": 2,
            "memory": 4.0,
            "disk": 40,
            "prices": [],
            "storage_type": "local",
            "cpu_type": "shared",
            "category": "Shared vCPU",
            "architecture": "x86",
            "deprecated": False,
            "deprecation": None,
            "locations": [],
        },
        "location": location,
        "datacenter": {
            "id": 1,
            "name": f"{machine.location}-dc1",
            "description": "somewhere",
            "location": location,
            "server_types": {"supported": [], "available": [], "available_for_migration": []},
        },
        "image": _image(1, "image"),
        "iso": None,
        "rescue_enabled": False,
        "locked": False,
        "backup_window": None,
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 0,
        "protection": {"delete": False, "rebuild": False},
        "labels": machine.labels,
        "volumes": [],
        "load_balancers": [],
        "primary_disk_size": 40,
        "placement_group": None,
    }
