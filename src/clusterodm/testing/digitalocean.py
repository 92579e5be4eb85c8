# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A fake of DigitalOcean's API, as far as the provider calls it."""

from __future__ import annotations

import math
from typing import Any, Final

from aiohttp import web

from clusterodm.testing.world import FakeMachine, World, page

_STATES: Final = {"running": "active", "stopped": "off", "starting": "new"}


class DigitalOceanApi:
    """The API over a world; `snapshots` maps names to regions."""

    def __init__(self, world: World, *, token: str, snapshots: dict[str, list[str]] | None = None) -> None:
        self._world = world
        self._token = token
        self._snapshots = snapshots or {}
        world.throttled = self._throttle

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refuse(401, "unauthorized", "Unable to authenticate you")
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self._world.find_room(body["size"]):
            return _refuse(422, "unprocessable_entity", "Size is not available in this region.")
        machine = self._world.create(
            body["name"], body["size"], body["region"], tags=body["tags"], user_data=body["user_data"]
        )
        self._world.start(machine)
        return web.json_response({"droplet": _droplet(machine), "links": {"actions": []}}, status=202)

    async def _listed(self, request: web.Request) -> web.Response:
        tag = request.query.get("tag_name")
        machines = [machine for machine in self._world.machines.values() if tag is None or tag in machine.tags]
        droplets = [_droplet(machine) for machine in page(request, machines)]
        return web.json_response({"droplets": droplets, "links": {}, "meta": {"total": len(machines)}})

    async def _get_server(self, request: web.Request) -> web.Response:
        machine = self._world.machines.get(request.match_info["id"])
        if machine is None:
            return _refuse(404, "not_found", "The resource you were accessing could not be found.")
        if request.method == "DELETE":
            self._world.delete(machine)
            return web.Response(status=204)
        return web.json_response({"droplet": _droplet(machine)})

    async def _images(self, request: web.Request) -> web.Response:
        images = [_image(number, name, regions) for number, (name, regions) in enumerate(self._snapshots.items(), 1)]
        return web.json_response({"images": page(request, images), "links": {}, "meta": {"total": len(images)}})

    def _throttle(self, seconds: float) -> web.Response:
        """Refuse as if the quota per minute were exhausted, but not that per hour."""
        response = _refuse(429, "too_many_requests", "API rate limit exceeded.")
        reset = str(math.ceil(self._world.clock() + 3600))
        response.headers.update({"ratelimit-limit": "5000", "ratelimit-remaining": "4750", "ratelimit-reset": reset})
        response.headers["Retry-After"] = str(math.ceil(seconds))
        return response

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._authorized])
        app.add_routes(
            [
                web.post("/v2/droplets", self._create),
                web.get("/v2/droplets", self._listed),
                web.get("/v2/droplets/{id}", self._get_server),
                web.delete("/v2/droplets/{id}", self._get_server),
                web.get("/v2/images", self._images),
            ]
        )
        return app


def _refuse(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"id": kind, "message": message, "request_id": "r"}, status=status)


def _image(number: int, name: str, regions: list[str]) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "distribution": "Ubuntu",
        "slug": None,
        "public": False,
        "regions": regions,
        "created_at": "2026-01-01T00:00:00Z",
        "min_disk_size": 20,
        "size_gigabytes": 2.0,
        "type": "snapshot",
        "status": "available",
    }


def _droplet(machine: FakeMachine) -> dict[str, Any]:
    address = {"ip_address": machine.address, "netmask": "255.0.0.0", "gateway": "127.0.0.1", "type": "public"}
    return {
        "id": int(machine.id),
        "name": machine.name,
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "locked": False,
        "status": _STATES[machine.state],
        "created_at": "2026-01-01T00:00:00Z",
        "features": [],
        "backup_ids": [],
        "next_backup_window": None,
        "snapshot_ids": [],
        "image": _image(1, "ubuntu", []),
        "volume_ids": [],
        "size": {
            "slug": machine.size,
            "memory": 1024,
            "vcpus": 1,
            "disk": 25,
            "transfer": 1.0,
            "price_monthly": 5.0,
            "price_hourly": 0.007,
            "regions": [],
            "available": True,
            "description": "Basic",
        },
        "size_slug": machine.size,
        "networks": {"v4": [address], "v6": []},
        "region": {
            "name": machine.location,
            "slug": machine.location,
            "sizes": [],
            "features": [],
            "available": True,
        },
        "tags": machine.tags,
        "vpc_uuid": "00000000-0000-4000-8000-000000000000",
    }
