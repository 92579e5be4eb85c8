# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Options: what passes here passes on a real node, and the reverse. `NODEODM=<checkout>` or `NODEODX=<checkout>` has a
real node's own check run beside ours; a recorded table of its answers is always compared."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterodm.core.errors import BadRequest
from clusterodm.core.options import check_options, parse_options
from tests.needs import NEEDS
from tests.recorded.filtering import Filter, checkout, running_filter

TABLE = Path(__file__).with_name("options.json")
RECORDED: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
#: Values that nodes and Python read differently unless somebody takes care.
ODD: list[Any] = [
    *(0, -1, 1, 14, 15, 3, 3.5, 0.5, 1e21, 1.5e300, 5e-7, 1e-6, 123456789012345678, -0.0, True, False, None),
    *("", " ", "0", "-0", "+5", "10.7", "5abc", "0x1F", "0x", "1e3", "1e400", ".5", "5.", "-.5e1x", "--5", "Infinity"),
    *("-Infinity", "NaN", "nan", "inf", "1_000", "\u0665", "\u00a07", "\t\n 8", "\u200b9", "\x1c9", "true", "True"),
    *("false", "1", "FALSE", "low", "Low", "high", [], [5], ["7", 8], [[9]], [None], {}, {"a": 1}, "{", "{}", "null"),
    *('{"a":NaN}', '{"type":"Polygon","coordinates":[[[1,2]]]}', "[1,]", "\ufeff{}", " {} ", "'a'", "50", 50, 100.5),
]
NO_NUMBER = [f"Invalid value {value} (out of range)" for value in ("NaN", "Infinity", "-Infinity")]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("0123456789.eExX+- aInfinity", max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(st.sampled_from(ODD[:20]), max_size=3),
)


def verdict(text: str, described: list[dict[str, Any]]) -> dict[str, Any]:
    """What the cluster says of an `options` field, in the form of the table."""
    try:
        return {"result": check_options(parse_options(text), described)}
    except BadRequest as error:
        return {"error": str(error)}


def infinite(answer: dict[str, Any], described: list[dict[str, Any]]) -> bool:
    """True if the node accepted a number that JSON cannot express: it shows null, and passes the number on."""
    numbers = {option["name"] for option in described if option["type"] in ("int", "float")}
    return any(entry["name"] in numbers and entry["value"] is None for entry in answer.get("result", []))


def agree_on_infinity(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Infinity goes on as text, which the node converts again; only NaN, which no engine can use, is refused."""
    if "error" in ours:
        assert "NaN" in ours["error"]
        return
    for own, other in zip(ours["result"], theirs["result"], strict=True):
        assert own["name"] == other["name"]
        assert other["value"] is not None or own["value"] in ("Infinity", "-Infinity")


def agree(ours: dict[str, Any], theirs: dict[str, Any], described: list[dict[str, Any]]) -> None:
    """The same verdict, the same errors, the same values but for their JSON type where any would do."""
    assert ours.keys() == theirs.keys()
    if "error" in theirs:
        errors = [(error["name"], error["error"]) for error in json.loads(theirs["error"])]
        own = [(error["name"], error["error"]) for error in json.loads(ours["error"])]
        assert [error for error in own if error in errors or error[1] not in NO_NUMBER] == errors
        return
    texts = {option["name"] for option in described if option["type"] == "string"}
    for own, other in zip(ours["result"], theirs["result"], strict=True):
        assert own["name"] == other["name"]
        if own["name"] in texts:
            assert isinstance(own["value"], str)
            assert own["value"] == other.get("value", "") or not isinstance(other.get("value"), str)
        elif isinstance(own["value"], bool | str):
            assert own == other
        else:
            assert math.isclose(own["value"], other["value"], rel_tol=1e-15)


DESCRIBED = {option["name"]: option for option in RECORDED["described"]}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_verdict_is_the_recorded_one_of_a_real_node(name: str) -> None:
    answers = {text: answer for text, answer in RECORDED["answers"].items() if f'"{name}"' in text}
    assert answers
    for text, answer in answers.items():
        if infinite(answer, RECORDED["described"]):
            agree_on_infinity(verdict(text, RECORDED["described"]), answer)
        else:
            agree(verdict(text, RECORDED["described"]), answer, RECORDED["described"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filter]:
    root = checkout()
    if root is None or shutil.which("node") is None:
        pytest.skip(f"{NEEDS}a real node: NODEODM=checkout or NODEODX=checkout, and Node.js")
    with running_filter(root, tmp_path_factory.mktemp("filter")) as running:
        yield running


@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_verdict_is_that_of_a_real_node_now(node: Filter, data: st.DataObject) -> None:
    names = st.sampled_from([option["name"] for option in node.options] + ["no-such-option"])
    entry = st.one_of(
        st.builds(lambda name, value: {"name": name, "value": value}, names, VALUES),
        st.builds(lambda name: {"name": name}, names),
        st.sampled_from([5, "x", [], {}, {"value": 1}]),
    )
    text = json.dumps(data.draw(st.lists(entry, max_size=4)))
    theirs, ours = node.check(text), verdict(text, node.options)
    if infinite(theirs, node.options):
        agree_on_infinity(ours, theirs)
        return
    agree(ours, theirs, node.options)
    if "result" in ours:  # and what is sent on is taken there, as the same
        second_pass = node.check(json.dumps(ours["result"]))
        agree(ours, second_pass, node.options)


def record(root: Path, folder: Path) -> None:
    """Write the table anew: each odd value for each option."""
    with running_filter(root, folder) as running:
        answers = {}
        for option in running.options:
            for value in ODD:
                text = json.dumps([{"name": option["name"], "value": value}])
                answers[text] = running.check(text)
        for text in ('[{"name":"no-such","value":1}]', '{"a":1}', "5", '[5,{"name":"dsm","value":true}]'):
            answers[text] = running.check(text)
        doubled = '[{"name":"dsm","value":true},{"name":"dsm","value":"maybe"}]'
        answers[doubled] = running.check(doubled)
        table = {"described": running.options, "answers": answers}
    TABLE.write_text(json.dumps(table).replace('}, "[', '},\n"[') + "\n", encoding="utf-8")
