# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenAPI 3.1 document of the admin API, made from the table of operations."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clusterodm import __version__
from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.table import ROUTES
from clusterodm.admin.views import View

_TEMPLATE: Final = "#/components/schemas/{name}"


class Problem(View):
    """Why a request was refused."""

    error: str


_ERRORS: Final = {
    "400": "The request does not match this description.",
    "401": "The password is missing or wrong.",
    "403": "The request comes from a page of another origin.",
    "404": "There is no such node, task or machine.",
    "409": "The request cannot be carried out now; the text says why.",
    "429": "Too many wrong passwords from this address; Retry-After says when the next one is checked.",
    "502": "A node or provider does not answer, or not as expected.",
    "503": "The database or another service does not answer.",
}


def document() -> dict[str, Any]:
    """Return the whole document."""
    types: list[Any] = [Problem]
    for route in ROUTES:
        types += [route.result, route.subject, route.parameters]
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    by_type = {str(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    bodies = {route.parameters for route in ROUTES if route.has_body}
    inline = {kind.__name__ for route in ROUTES for kind in {route.subject, route.parameters} - bodies}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ClusterODM admin API",
            "version": __version__,
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in inline},
            "securitySchemes": {"password": {"type": "http", "scheme": "basic"}},
        },
        "security": [{"password": []}, {}],
    }


def _operation(route: Operation, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    refused = _content(by_type[str(Problem)])
    described: dict[str, Any] = {
        "operationId": route.name.replace(".", "_"),
        "summary": route.summary,
        "parameters": [
            *_parameters("path", route.subject, components),
            *([] if route.has_body else _parameters("query", route.parameters, components)),
        ],
        "responses": {
            "200": {"description": route.summary, "content": _content(by_type[str(route.result)])},
            **{code: {"description": text, "content": refused} for code, text in _ERRORS.items()},
        },
    }
    if route.has_body:
        described["requestBody"] = {"required": True, "content": _content(by_type[str(route.parameters)])}
    return described


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameters(where: str, kind: type[View], components: dict[str, Any]) -> list[dict[str, Any]]:
    described = components[kind.__name__]
    required = set(described.get("required", ()))
    return [
        {"name": name, "in": where, "required": where == "path" or name in required, "schema": schema}
        for name, schema in described["properties"].items()
    ]
