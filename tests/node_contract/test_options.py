# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which options a node takes, what it makes of their values, and what it adds."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from clusterodm.core.options import KEYS
from tests.node_contract.client import Client, options
from tests.node_contract.conftest import Start
from tests.support import eventually

OWN = [{"name": name, "value": True} for name in ("pc-ept", "cog", "gltf")]

TAKEN = [
    ("dsm", "true", True),
    ("dsm", "1", True),
    ("dsm", True, True),
    ("dsm", "false", False),
    ("dsm", "0", False),
    ("end-with", "odm_dem", "odm_dem"),
    ("boundary", '{"type": "Polygon"}', '{"type": "Polygon"}'),
    ("boundary", "5", "5"),
    ("primary-band", "red", "red"),
    ("sm-cluster", "http://cluster:3000", "http://cluster:3000"),
    ("matcher-neighbors", "8", 8),
    ("matcher-neighbors", 8, 8),
    ("matcher-neighbors", "8.9 of them", 8),
    ("min-num-features", "-5", -5),
    ("mesh-octree-depth", "14", 14),
    ("orthophoto-resolution", "2.5", 2.5),
    ("orthophoto-resolution", "1e1", 10),
    ("dem-resolution", "-.5", -0.5),
    ("split-overlap", "1.5", 1.5),
    ("crop", "0", 0),
    ("gps-accuracy", "Infinity", None),  # JSON has no word for it; the engine gets it
]
REFUSED = [
    ("dsm", "maybe", "Cannot convert maybe to boolean"),
    ("dsm", "True", "Cannot convert True to boolean"),
    ("dsm", 1, "Cannot convert 1 to boolean"),
    ("dsm", "", "Cannot convert  to boolean"),
    ("end-with", "nowhere", "Invalid value nowhere (not in enum)"),
    ("end-with", "", "Invalid value  (not in enum)"),
    ("boundary", "{", "Invalid value { (out of range)"),
    ("boundary", "", "Invalid value  (out of range)"),
    ("cameras", 5, "Invalid value 5 (out of range)"),
    ("matcher-neighbors", "-1", "Invalid value -1 (out of range)"),
    ("matcher-neighbors", "many", "Invalid value NaN (out of range)"),
    ("matcher-neighbors", "", "Invalid value NaN (out of range)"),
    ("min-num-features", "x", "Invalid value NaN (out of range)"),
    ("mesh-octree-depth", "15", "Invalid value 15 (out of range)"),
    ("mesh-octree-depth", "0", "Invalid value 0 (out of range)"),
    ("orthophoto-resolution", "0", "Invalid value 0 (out of range)"),
    ("orthophoto-resolution", "-1", "Invalid value -1 (out of range)"),
    ("dem-resolution", "Infinity", "Invalid value Infinity (out of range)"),
    ("crop", "-0.5", "Invalid value -0.5 (out of range)"),
]


def _one(name: str, value: Any) -> str:
    return json.dumps([{"name": name, "value": value}])


@pytest.fixture
async def waiting(slow: Client) -> Client:
    """A node with a task that holds its slot: what is committed now is shown and never begun."""
    await slow.runs(await slow.created())
    return slow


async def _shown(node: Client, options: str) -> Any:
    uuid = await node.created(options=options, skipPostProcessing="true")
    return (await node.reaches(uuid, 10))["options"]


@pytest.mark.parametrize(("name", "value", "shown"), TAKEN)
async def test_a_value_is_converted_by_the_type_of_its_option(
    waiting: Client, name: str, value: Any, shown: Any
) -> None:
    assert await _shown(waiting, _one(name, value)) == [{"name": name, "value": shown}]


@pytest.mark.parametrize(("name", "value", "why"), REFUSED)
async def test_a_value_outside_its_domain_is_refused(node: Client, name: str, value: Any, why: str) -> None:
    answer = await node.init({"options": _one(name, value)})
    assert json.loads(answer["error"]) == [{"name": name, "error": why}]


async def test_all_errors_are_reported_at_once(node: Client) -> None:
    answer = await node.init({"options": options(dsm="maybe", crop="-1", dtm="true")})
    assert {error["name"] for error in json.loads(answer["error"])} == {"dsm", "crop"}


async def test_unknown_options_are_dropped_the_first_of_a_name_counts_and_the_order_is_the_nodes(
    waiting: Client,
) -> None:
    order = [option["name"] for option in await waiting.get("/options")]
    pairs = [("no-such", "1"), ("dtm", "true"), ("dsm", "true"), ("dsm", "false"), ("project-path", "/")]
    shown = await _shown(waiting, json.dumps([{"name": name, "value": value} for name, value in pairs]))
    expected = [{"name": name, "value": True} for name in ("dtm", "dsm")]
    assert shown == sorted(expected, key=lambda option: order.index(option["name"]))


@pytest.mark.parametrize("text", ["{}", "5", "null", '"text"'])
async def test_options_that_are_no_list_are_none(waiting: Client, text: str) -> None:
    assert await _shown(waiting, text) == []


@pytest.mark.parametrize("text", ["[", "no JSON", "[{]"])
async def test_options_that_are_no_json_are_refused(node: Client, text: str) -> None:
    assert set(await node.init({"options": text})) == {"error"}


async def test_options_without_a_text_are_refused_at_the_commit_only(node: Client) -> None:
    uuid = await node.announced(options="")
    assert set(await node.commit(uuid)) == {"error"}
    await eventually(lambda: not (node.program.uploads / uuid).exists())


async def test_a_node_adds_options_of_its_own_unless_it_is_not_to_post_process(waiting: Client) -> None:
    for fields, added in ({"skipPostProcessing": "true"}, []), ({"skipPostProcessing": "True"}, OWN), ({}, OWN):
        uuid = await waiting.created(**fields)
        assert (await waiting.reaches(uuid, 10))["options"] == added
    uuid = await waiting.created(options=options(cog="false"))
    shown = (await waiting.reaches(uuid, 10))["options"]
    assert shown == [{"name": "cog", "value": False}, OWN[0], OWN[2]]


async def test_a_limit_of_concurrency_is_put_on_every_task(start: Start) -> None:
    node = start("--max-concurrency", "3", "-q", "1", "--test-seconds", "600")
    shown = []
    try:
        for fields in ({}, {"options": options(max_concurrency="9")}, {"options": options(max_concurrency="2")}):
            info = await node.reaches(await node.created(**fields), 10, 20)
            shown += [option["value"] for option in info["options"] if option["name"] == "max-concurrency"]
    except aiohttp.ClientError:
        await _known_bug(node)
    assert shown == [3, 3, 2]


async def test_a_task_with_a_number_among_its_options_runs(start: Start) -> None:
    node = start("--test-seconds", "0")
    try:
        await node.completed(options=options(orthophoto_resolution="2.5"))
    except aiohttp.ClientError:
        await _known_bug(node)


async def _known_bug(node: Client) -> None:
    """NodeODM since 2026-04 quotes what it hands to the engine, and fails where that is a number: its process ends,
    whatever form the client sent, because it converts texts to numbers itself."""
    assert node.program.kind == "NODEODM", node.program.log()
    await eventually(lambda: not node.program.runs())
    assert "s.replace is not a function" in node.program.log()
    pytest.xfail("NodeODM ends with any number among a task's options")


async def test_options_are_described_with_exactly_these_keys(node: Client) -> None:
    described = await node.get("/options")
    assert len(described) > 50
    for option in described:
        assert set(option) == set(KEYS)
        assert option["type"] in ("int", "float", "string", "bool", "enum")
        assert isinstance(option["value"], str)
        assert isinstance(option["domain"], list) is (option["type"] == "enum")
    assert {"pc-ept", "cog", "gltf", "boundary", "split"} <= {option["name"] for option in described}
