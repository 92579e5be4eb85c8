# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""64 recorded answers of a real NodeODM 2.2.4, compared with what the development node says to the same requests.

What is a matter of that machine (versions, sizes, uuids, times, error texts of JavaScript) is compared by type; the
rest must be the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import Api, Rig, eventually, form, images

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "nodeodm.json").read_bytes())
UUID = "e26f7350-4f4b-43c4-aaaf-05fca4b32315"
SET = "32ffd3e3-5386-40b9-978f-0221804788c9"

#: What the recording leaves out: multipart bodies.
BODIES: dict[str, Any] = {
    "remove unknown, multipart": lambda: form({"other": "x"}),
    "init with options that are not JSON": lambda: form({"options": "{ not"}),
    "init with options that are no list": lambda: form({"options": "{}"}),
    "init with an unknown option": lambda: form({"options": '[{"name": "no-such", "value": 1}]'}),
    "init with an option out of range": lambda: form({"options": '[{"name": "orthophoto-resolution", "value": -1}]'}),
    "init with a value outside the enum": lambda: form({"options": '[{"name": "feature-type", "value": "bogus"}]'}),
    "init with a bool that is none": lambda: form({"options": '[{"name": "dsm", "value": "maybe"}]'}),
    "init with options": lambda: form(
        {
            "name": "real",
            "options": '[{"name": "dsm", "value": "true"}, {"name": "orthophoto-resolution", "value": "2.5"}]',
            "dateCreated": "1700000000000",
        }
    ),
    "upload to an unknown task": lambda: images({"a.jpg": b"a"}),
    "upload without a file": lambda: form({"other": "x"}),
    "upload under another field name": lambda: _file("pictures"),
    "upload one file": lambda: images({"1.jpg": b"1"}),
    "upload the same file again": lambda: images({"1.jpg": b"1"}),
    "upload two files at once": lambda: images({"2.jpg": b"2", "3.jpg": b"3"}),
    "upload a path as a name": lambda: images({"../../4.jpg": b"4"}),
    "upload body.json": lambda: images({"body.json": b"{}", "5.jpg": b"5"}),
    "task/new in one request, files first": lambda: images({"1.jpg": b"1"}, {"name": "first", "options": "[]"}),
    "task/new without files": lambda: form({"name": "x"}),
}
#: A node answers these with Express's own page; ours says the same in JSON.
HTML_404 = {"unknown path", "unknown method", "cache clear", "webhook that is not JSON"}
#: Values that differ from machine to machine or run to run: compared by type and, for objects, by keys.
BY_TYPE = {"info", "info when done", "info with output from line -3", "output from line 2", "output, no line"}


def _file(field: str) -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field(field, b"x", filename="a.jpg")
    return data


async def _ask(api: Api, case: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    request = case["request"]
    options: dict[str, Any] = {key: request[key] for key in ("json", "data", "headers") if key in request}
    if case["case"] in BODIES:
        body = BODIES[case["case"]]()
        options["data"] = body() if isinstance(body, aiohttp.FormData) else body
    if case["case"] == "init with options":
        options["headers"] = {"set-uuid": UUID}
    return await api.raw(request["method"], request["path"], **options)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return ["list"]
    if isinstance(value, bool) or value is None:
        return value
    return "number" if isinstance(value, int | float) else "text"


def _compare(name: str, expected: Any, actual: Any) -> None:
    if name == "options":
        assert actual[:2] == expected[:2]
        assert len(actual) == 80
    elif name.startswith("task list"):
        assert all(set(entry) == {"uuid"} for entry in actual)
    elif name in BY_TYPE or (isinstance(expected, dict) and "uuid" in expected and "set-uuid" not in name):
        assert _shape(actual) == _shape(expected)
    elif name == "init with options that are not JSON":
        assert set(actual) == {"error"}
    else:
        assert actual == expected


async def test_the_development_node_answers_like_a_real_one(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.0, max_images=None)
    api = Api(f"http://127.0.0.1:{cluster.ports[0]}")
    cluster.stack.push_async_callback(api.session.close)
    compared = 0
    for case in RECORDED:
        name = case["case"]
        if name == "info when done":
            await eventually(lambda: cluster.nodes[0].tasks[UUID].code == 40)
        status, headers, body = await _ask(api, case)
        try:
            if name in HTML_404:
                assert (status, set(json.loads(body))) == (404, {"error"})
            elif name == "reference node's page":
                assert headers["Content-Type"].startswith("text/html")
            elif name.startswith("download a"):
                assert status == 200
                if name != "download an unknown asset":
                    assert headers["Content-Type"] == "application/zip"
                    assert "Accept-Ranges" not in headers
                    assert body[:2] == b"PK"
                else:
                    _compare(name, case["body"], json.loads(body))
            elif case["body"] == {"_text": ""}:
                assert (status, body) == (case["status"], b"")
            else:
                assert status == case["status"]
                assert headers["Content-Type"] == case["content_type"]
                _compare(name, case["body"], json.loads(body))
        except AssertionError as error:
            pytest.fail(f"{name}: {error} (answer {status} {body[:200]!r})")
        compared += 1
    assert compared == 64
