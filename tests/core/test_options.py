# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Task options: read, checked and converted as a node does it. `tests/recorded` compares with a real node."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import pytest

from clusterodm.core.errors import BadRequest
from clusterodm.core.javascript import UNDEFINED, as_text, parse_float, parse_int, parses_as_json
from clusterodm.core.options import (
    check_options,
    exact,
    parse_options,
    parse_outputs,
    unknown_options,
    with_split_cluster,
)

DESCRIBED: list[dict[str, Any]] = json.loads(files("clusterodm").joinpath("nodeodm-options.json").read_bytes())


def test_options_are_described_with_exactly_five_keys() -> None:
    assert exact([{"name": "a", "extra": 1}, {"type": "int"}]) == [
        {"name": "a", "type": "", "value": "", "domain": "", "help": ""}
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dsm", "true", True),
        ("dsm", "1", True),
        ("dsm", False, False),
        ("orthophoto-resolution", "2.5", 2.5),
        ("orthophoto-resolution", "3", 3),
        ("min-num-features", "8000.7", 8000),
        ("mesh-octree-depth", 14, 14),
        ("crop", "1e999", "Infinity"),
        ("crop", "Infinity", "Infinity"),
        ("feature-type", "orb", "orb"),
        ("boundary", '{"a":1}', '{"a":1}'),
        ("mesh-octree-depth", "5abc", 5),
        ("primary-band", {"a": [1]}, '{"a":[1]}'),
        ("primary-band", None, ""),
        ("primary-band", 2.50, "2.5"),
    ],
)
def test_option_values_are_converted(name: str, value: Any, expected: Any) -> None:
    assert check_options([{"name": name, "value": value}], DESCRIBED) == [{"name": name, "value": expected}]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("orthophoto-resolution", -1, "Invalid value -1 (out of range)"),
        ("feature-type", "bogus", "Invalid value bogus (not in enum)"),
        ("dsm", "maybe", "Cannot convert maybe to boolean"),
        ("min-num-features", "x", "Invalid value NaN (out of range)"),
        ("min-num-features", True, "Invalid value NaN (out of range)"),
        ("crop", "nan", "Invalid value NaN (out of range)"),
        ("crop", None, "Invalid value NaN (out of range)"),
        ("crop", "-Infinity", "Invalid value -Infinity (out of range)"),
        ("min-num-features", "9" * 400, "Invalid value Infinity (out of range)"),
        ("mesh-octree-depth", 15, "Invalid value 15 (out of range)"),
        ("mesh-octree-depth", 0, "Invalid value 0 (out of range)"),
        ("mesh-octree-depth", "", "Invalid value NaN (out of range)"),
        ("dsm", 1, "Cannot convert 1 to boolean"),
        ("dsm", "True", "Cannot convert True to boolean"),
        ("boundary", {"a": 1}, "Invalid value [object Object] (out of range)"),
        ("boundary", "{", "Invalid value { (out of range)"),
    ],
)
def test_bad_option_values_are_told_in_a_nodes_own_form(name: str, value: Any, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_options([{"name": name, "value": value}], DESCRIBED)
    assert json.loads(str(caught.value)) == [{"name": name, "error": text}]


@pytest.mark.parametrize(
    ("kind", "domain", "value", "fine"),
    [
        ("int", "negative integer", 1, False),
        ("int", "negative integer", -1, True),
        ("float", "0 < x", 1, False),
        ("float", "float >= 2", 2, True),
        ("float", "float <= 2", 2.5, False),
        ("float", "float < 2", 1.5, True),
        ("float", "float > 2", 2, False),
        ("int", "positive integer", 0, True),
        ("int", "positive integer", -1, False),
        ("int", "integer > 3", "3.9", False),
        ("float", "percent", 100, True),
        ("float", "percent", 100.5, False),
        ("float", "float: 0 <= x <= 1", "0.5", True),
        ("float", "float: 0 <= x <= 1", "1.5", False),
        ("float", "integer", 1.5, False),
        ("string", "path", "/a", True),
        ("string", "integer", "5", False),
        ("int", "", 9, True),
        ("int", "", "x", False),
    ],
)
def test_domains(kind: str, domain: str, value: Any, fine: bool) -> None:
    described = [{"name": "o", "type": kind, "value": "0", "domain": domain, "help": ""}]
    if fine:
        assert check_options([{"name": "o", "value": value}], described)
    else:
        with pytest.raises(BadRequest):
            check_options([{"name": "o", "value": value}], described)


def test_unknown_options_are_left_out() -> None:
    assert check_options([{"name": "no-such", "value": 1}], DESCRIBED) == []


def test_unknown_options_are_told_with_the_nearest_known_one() -> None:
    options = [{"name": name, "value": 1} for name in ("orthophoto-resolutio", "dsm", "zzz", "zzz", "b\na")]
    assert unknown_options(options, DESCRIBED) == [
        "option orthophoto-resolutio is unknown and has no effect; did you mean orthophoto-resolution?",
        "option zzz is unknown and has no effect",
        "option b a is unknown and has no effect",
    ]
    assert len(unknown_options([{"name": f"{number}"} for number in range(99)], DESCRIBED)) == 20


def test_of_two_options_of_one_name_the_first_counts_and_the_order_is_that_of_the_description() -> None:
    options = [{"name": name, "value": value} for name, value in (("dsm", True), ("dtm", True), ("dsm", "maybe"))]
    assert check_options(options, DESCRIBED) == [{"name": "dtm", "value": True}, {"name": "dsm", "value": True}]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0x1F", 31),
        ("0x", None),
        (" 7.9", 7),
        ("-3x", -3),
        ("9" * 399, None),
        ("9" * 500, None),
        (1e21, 1),
        (5e-7, 5),
        ([8, 9], 8),
        (True, None),
        ("0" * 500 + "4", 4),
    ],
)
def test_whole_numbers_are_read_as_javascript_does(value: Any, number: int | None) -> None:
    parsed = parse_int(value)
    assert parsed == number or (number is None and not math.isfinite(parsed))


def test_numbers_are_read_as_javascript_does() -> None:
    assert [parse_float(text) for text in ("1e3x", ".5", "-2.", "-Infinity")] == [1000, 0.5, -2, -math.inf]
    assert math.isnan(parse_float("e5"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (UNDEFINED, "undefined"),
        ([1, None, ["a"]], "1,,a"),
        ({}, "[object Object]"),
        (-0.0, "0"),
        (1.0, "1"),
        (1e20, "100000000000000000000"),
        (1.5e21, "1.5e+21"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (10**400, "Infinity"),
        (-(10**400), "-Infinity"),
    ],
)
def test_values_are_written_as_javascript_does(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(("text", "fine"), [("{}", True), ("NaN", False), ("[" * 100_000, False), ("1" * 9000, True)])
def test_json_is_what_javascript_takes(text: str, fine: bool) -> None:
    assert parses_as_json(text) is fine


@pytest.mark.parametrize(("text", "count"), [("", 0), ("{}", 0), ("5", 0), ('[1, {"value": 1}, {"name": "a"}]', 1)])
def test_options_that_are_no_list_count_as_none(text: str, count: int) -> None:
    assert len(parse_options(text)) == count


@pytest.mark.parametrize("text", ["{not", "[" * 100_000, "[null]"])
def test_options_that_are_not_json_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="Invalid options"):
        parse_options(text)


def test_outputs_are_a_list_of_paths() -> None:
    assert (parse_outputs(""), parse_outputs('["odm_orthophoto"]')) == ([], ["odm_orthophoto"])
    for text in ('{"a": 1}', "[1]", "[", "[" * 100_000):
        with pytest.raises(BadRequest, match="a JSON list of paths"):
            parse_outputs(text)


def test_sm_cluster_is_set_by_the_cluster_alone() -> None:
    options: list[dict[str, Any]] = [{"name": "split", "value": 100}, {"name": "sm-cluster", "value": "http://theirs"}]
    assert with_split_cluster(options, "http://ours") == [options[0], {"name": "sm-cluster", "value": "http://ours"}]
    assert with_split_cluster(options, None) == [options[0]]
    assert with_split_cluster(options[1:], "http://ours") == []
