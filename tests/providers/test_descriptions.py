# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests and answers, ours and those of the pretended clouds, against the clouds' official descriptions.

They are large and not ours: OPENAPI_FOLDER says where they are (hetzner.json, digitalocean.json); without it these
tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from clusterodm.core.errors import Throttled
from clusterodm.providers import MachineStatus
from clusterodm.testing.world import THROTTLE
from tests.providers.support import provider_of, running_cloud, spec
from tests.support import eventually

FOLDER = os.environ.get("OPENAPI_FOLDER")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs the clouds' official descriptions: OPENAPI_FOLDER=folder")


def nullable(value: Any) -> Any:
    """OpenAPI 3.0 says null in another way than JSON Schema."""
    if isinstance(value, list):
        return [nullable(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: nullable(item) for key, item in value.items() if key != "example"}
    if changed.pop("nullable", False) is True:
        if isinstance(changed.get("type"), str):
            changed["type"] = [changed["type"], "null"]
        if "enum" in changed:
            changed["enum"] = [*changed["enum"], None]
        if "type" not in changed:
            return {"anyOf": [changed, {"type": "null"}]}
    if isinstance(changed.get("exclusiveMinimum"), bool):
        del changed["exclusiveMinimum"]
    return changed


class Description:
    """One official description."""

    def __init__(self, name: str, base: str) -> None:
        assert FOLDER
        self.document = nullable(json.loads((Path(FOLDER) / f"{name}.json").read_text()))
        resource = DRAFT202012.create_resource(self.document)
        self._registry: Any = Registry().with_resource("urn:description", resource)
        self._base = base
        self.checked: set[str] = set()

    def watch(self, request: web.Request, body: bytes, response: web.Response) -> None:
        """Check one request and its answer."""
        path = request.path.removeprefix(self._base)
        template = next(each for each in self.document["paths"] if re.fullmatch(re.sub(r"{\w+}", r"[^/]+", each), path))
        operation = self.resolve(self.document["paths"][template][request.method.lower()])
        parameters = {self.resolve(each)["name"] for each in operation.get("parameters", [])}
        assert set(request.query) <= parameters, f"{template}: {set(request.query) - parameters} is no parameter"
        if body:
            self._check(operation["requestBody"], json.loads(body))
        answer = self.resolve(operation["responses"].get(str(response.status)) or operation["responses"]["4xx"])
        if response.body:
            self._check(answer, json.loads(bytes(response.body)))  # type: ignore[arg-type]
        self.checked.add(f"{request.method} {template} {response.status}")

    def _check(self, where: Any, value: Any) -> None:
        schema = self.resolve(where)["content"]["application/json"]["schema"]
        validator = Draft202012Validator(self._absolute(schema), registry=self._registry)
        errors = [f"{list(error.absolute_path)}: {error.message[:300]}" for error in validator.iter_errors(value)]
        assert not errors, errors[:5]

    def resolve(self, value: Any) -> Any:
        while isinstance(value, dict) and "$ref" in value:
            node = self.document
            for part in value["$ref"].removeprefix("#/").split("/"):
                node = node[part.replace("~1", "/").replace("~0", "~")]
            value = node
        return value

    def _absolute(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: f"urn:description{item}" if key == "$ref" else self._absolute(item) for key, item in value.items()
            }
        return [self._absolute(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "operations"), [("digitalocean", 6), ("hetzner", 7)])
async def test_requests_and_answers_match_the_official_description(tmp_path: Path, name: str, operations: int) -> None:
    description = Description(name, "")
    async with running_cloud(name) as cloud, provider_of(tmp_path, cloud.entry) as provider:
        assert cloud.world is not None
        cloud.world.watch = description.watch
        await provider.check()
        machine = await provider.create(spec(provider))

        async def runs() -> bool:
            current = await provider.get(machine.id, machine.location)
            return current is not None and current.status is MachineStatus.RUNNING

        await eventually(runs)
        assert await provider.list_machines("c1")
        await provider.delete(machine)
        assert await provider.get(machine.id, machine.location) is None
        snapshots = cloud.entry | {"snapshot": True, "image": "odm"}
        async with provider_of(tmp_path, snapshots) as other:
            await other.check()
        cloud.world.misbehave = lambda request: THROTTLE
        with pytest.raises(Throttled):
            await provider.create(spec(provider))
    assert any(each.endswith(" 429") for each in description.checked)
    assert len(description.checked) >= operations, description.checked


def test_the_checks_can_fail() -> None:
    description = Description("hetzner", "")
    with pytest.raises(AssertionError):
        description._check(description.document["paths"]["/servers"]["post"]["requestBody"], {"name": 5})
