# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenAPI 3.1 document of the admin API, made from its table of routes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clusterodm import __version__
from clusterodm.admin.api import ROUTES, Route
from clusterodm.admin.views import View

_TEMPLATE: Final = "#/components/schemas/{name}"


class Problem(View):
    """Why a request was refused."""

    error: str


_ERRORS: Final = {
    "400": "The request is not what is described here.",
    "401": "The password is missing or wrong.",
    "403": "The request comes from a page of another origin.",
    "404": "There is no such node or task.",
    "409": "It cannot be carried out now; the text says why.",
    "429": "Too many wrong passwords came from this address; Retry-After says when the next one is looked at.",
    "502": "A node or a provider of machines does not answer, or not as it should.",
    "503": "The database, or another service that is needed, does not answer now.",
}


def document() -> dict[str, Any]:
    """The whole document."""
    types: list[Any] = [Problem]
    for route in ROUTES:
        types += [route.answer, route.path_type, route.query_type]
        types += [route.body_type] if route.body_type else []
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    by_type = {str(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    parameters = {kind.__name__ for route in ROUTES for kind in (route.path_type, route.query_type)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ClusterODM admin API",
            "version": __version__,
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in parameters},
            "securitySchemes": {"password": {"type": "http", "scheme": "basic"}},
        },
        "security": [{"password": []}, {}],
    }


def _operation(route: Route, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    refused = _content(by_type[str(Problem)])
    made: dict[str, Any] = {
        "operationId": route.run.__name__.lstrip("_"),
        "summary": route.summary,
        "parameters": [
            *_parameters("path", route.path_type, components),
            *_parameters("query", route.query_type, components),
        ],
        "responses": {
            "200": {"description": route.summary, "content": _content(by_type[str(route.answer)])},
            **{code: {"description": text, "content": refused} for code, text in _ERRORS.items()},
        },
    }
    if route.body_type is not None:
        made["requestBody"] = {"required": True, "content": _content(by_type[str(route.body_type)])}
    return made


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameters(where: str, kind: type[View], components: dict[str, Any]) -> list[dict[str, Any]]:
    described = components[kind.__name__]
    required = set(described.get("required", ()))
    return [
        {"name": name, "in": where, "required": where == "path" or name in required, "schema": schema}
        for name, schema in described["properties"].items()
    ]
