# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A fake of Scaleway's API, as far as the provider calls it: servers are created stopped, and their block volumes
outlive them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from clusterodm.testing.world import FakeMachine, World, page

_PATH = "/instance/v1/zones/{zone}"


class ScalewayApi:
    """The API over a world; `images` are labels of the marketplace."""

    def __init__(self, world: World, *, token: str, images: list[str]) -> None:
        self._world = world
        self._token = token
        self._images = images
        world.throttled = _throttle

    def _find(self, request: web.Request) -> FakeMachine | None:
        machine = self._world.machines.get(request.match_info["id"])
        return machine if machine is not None and machine.location == request.match_info["zone"] else None

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> Any:
        if request.headers.get("X-Auth-Token") != self._token:
            return _refuse(401, "denied_authentication", "authentication is denied")
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self._world.find_room(body["commercial_type"]):
            return _refuse(403, "quotas_exceeded", "quota exceeded")
        machine = self._world.create(
            body["name"], body["commercial_type"], request.match_info["zone"], tags=body["tags"], uuid=True
        )
        return web.json_response({"server": _server(machine)}, status=201)

    async def _listed(self, request: web.Request) -> web.Response:
        tag, zone = request.query.get("tags"), request.match_info["zone"]
        machines = [
            machine
            for machine in self._world.machines.values()
            if machine.location == zone and (tag is None or tag in machine.tags)
        ]
        return web.json_response(
            {"servers": [_server(machine) for machine in page(request, machines)], "total_count": len(machines)}
        )

    async def _get_server(self, request: web.Request) -> web.Response:
        machine = self._find(request)
        if machine is None:
            return _refuse(404, "not_found", "resource is not found")
        if request.method == "GET":
            return web.json_response({"server": _server(machine)})
        if machine.state != "stopped":
            return _refuse(400, "precondition_failed", "server should be stopped")
        self._world.delete(machine, keep_volumes=True)
        return web.Response(status=204)

    async def _user_data(self, request: web.Request) -> web.Response:
        machine = self._find(request)
        if machine is None:
            return _refuse(404, "not_found", "resource is not found")
        if request.content_type != "text/plain":
            return _refuse(400, "invalid_arguments", "content type")
        machine.user_data = await request.text()
        return web.Response(status=204)

    async def _act(self, request: web.Request) -> web.Response:
        machine, action = self._find(request), (await request.json())["action"]
        if machine is None:
            return _refuse(404, "not_found", "resource is not found")
        if action == "poweron" and machine.state == "stopped":
            self._world.start(machine)
        elif action == "terminate" and machine.state == "running":
            self._world.delete(machine, keep_volumes=True)
        else:
            return _refuse(400, "precondition_failed", f"cannot {action} a server that is {machine.state}")
        return web.json_response({"task": {"id": machine.id, "description": action, "status": "pending"}}, status=202)

    async def _volume(self, request: web.Request) -> web.Response:
        volume = request.match_info["id"]
        if any(volume in machine.volumes for machine in self._world.machines.values()):
            return _refuse(400, "precondition_failed", "volume is attached")
        if volume not in self._world.volumes:
            return _refuse(404, "not_found", "resource is not found")
        self._world.volumes.discard(volume)
        return web.Response(status=204)

    async def _local_images(self, request: web.Request) -> web.Response:
        label = request.query["image_label"]
        images = (
            [{"id": f"image-{label}", "label": label, "zone": request.query["zone"]}] if label in self._images else []
        )
        return web.json_response({"local_images": images, "total_count": len(images)})

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._authorized])
        app.add_routes(
            [
                web.post(f"{_PATH}/servers", self._create),
                web.get(f"{_PATH}/servers", self._listed),
                web.get(_PATH + "/servers/{id}", self._get_server),
                web.delete(_PATH + "/servers/{id}", self._get_server),
                web.patch(_PATH + "/servers/{id}/user_data/cloud-init", self._user_data),
                web.post(_PATH + "/servers/{id}/action", self._act),
                web.delete("/block/v1alpha1/zones/{zone}/volumes/{id}", self._volume),
                web.get("/marketplace/v2/local-images", self._local_images),
            ]
        )
        return app


def _refuse(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"type": kind, "message": message}, status=status)


def _throttle(seconds: float) -> web.Response:
    """Refuse as the gateway does, without a time."""
    return web.Response(status=429, headers={"x-envoy-ratelimited": "true"})


def _server(machine: FakeMachine) -> dict[str, Any]:
    address = {"id": machine.id, "address": machine.address, "family": "inet", "dynamic": True}
    return {
        "id": machine.id,
        "name": machine.name,
        "commercial_type": machine.size,
        "state": machine.state,
        "tags": machine.tags,
        "zone": machine.location,
        "public_ip": address if machine.state == "running" else None,
        "public_ips": [address] if machine.state == "running" else [],
        "volumes": {
            str(number): {"id": volume, "volume_type": "sbs_volume", "boot": number == 0}
            for number, volume in enumerate(machine.volumes)
        },
    }
