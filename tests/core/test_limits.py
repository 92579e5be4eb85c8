# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tokens may do, and what that makes of options."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.errors import BadRequest
from clusterodm.core.limits import Limits, check_images, check_tasks_allowed, limited_options, shown_options

DESCRIBED: list[dict[str, Any]] = [
    {"name": "dsm", "type": "bool", "value": "false", "domain": "", "help": "h"},
    {"name": "resize-to", "type": "int", "value": "2048", "domain": "integer", "help": "h"},
    {"name": "pc-quality", "type": "enum", "value": "medium", "domain": ["high", "medium", "low"], "help": "h"},
    {"name": "max-concurrency", "type": "int", "value": "4", "domain": "positive integer", "help": "h"},
]


def limits(**options: Any) -> Limits:
    return msgspec.convert({"options": {name.replace("_", "-"): limit for name, limit in options.items()}}, Limits)


def names(options: list[dict[str, Any]]) -> list[str]:
    return [option["name"] for option in options]


def test_without_limits_everything_is_as_it_was() -> None:
    assert shown_options(DESCRIBED, Limits()) is DESCRIBED
    assert limited_options([{"name": "max-concurrency", "value": 9}], DESCRIBED, Limits()) == [
        {"name": "max-concurrency", "value": 9}
    ]


def test_any_limit_hides_max_concurrency() -> None:
    assert "max-concurrency" not in names(shown_options(DESCRIBED, Limits(max_images=5)))
    assert limited_options([{"name": "max-concurrency", "value": 9}], DESCRIBED, Limits(max_images=5)) == []


def test_options_are_removed_and_replaced_in_exact_objects() -> None:
    shown = shown_options(DESCRIBED, limits(dsm={"remove": True}, pc_quality={"value": "low", "domain": ["low"]}))
    assert names(shown) == ["resize-to", "pc-quality"]
    assert shown[1] == {"name": "pc-quality", "type": "enum", "value": "low", "domain": ["low"], "help": "h"}
    assert shown_options(DESCRIBED, limits(resize_to={"value": 100}))[1]["value"] == "100"


def test_removed_options_are_not_taken_and_a_narrower_domain_holds() -> None:
    narrow = limits(dsm={"remove": True}, pc_quality={"domain": ["low", "medium"]})
    options: list[dict[str, Any]] = [{"name": "dsm", "value": True}, {"name": "pc-quality", "value": "low"}]
    assert limited_options(options, DESCRIBED, narrow) == [{"name": "pc-quality", "value": "low"}]
    with pytest.raises(BadRequest, match="not in enum"):
        limited_options([{"name": "pc-quality", "value": "high"}], DESCRIBED, narrow)


def test_an_infinite_number_is_brought_into_a_range() -> None:
    described = [{"name": "crop", "type": "float", "value": "3", "domain": "positive float", "help": "h"}]
    options = [{"name": "crop", "value": "Infinity"}]
    assert limited_options(options, described, limits(crop={"between": {"max": 9}})) == [{"name": "crop", "value": 9}]
    assert limited_options(options, described, limits(crop={"between": {"min": 1}})) == options


def test_assured_options_are_added_unless_given() -> None:
    assured = limits(dsm={"assure": True, "value": True}, resize_to={"assure": True})
    assert limited_options([], DESCRIBED, assured) == [{"name": "dsm", "value": True}]
    assert limited_options([{"name": "dsm", "value": False}], DESCRIBED, assured) == [{"name": "dsm", "value": False}]


@pytest.mark.parametrize(
    ("between", "value", "expected"),
    [
        ({"min": 10, "max": 20}, 5, 10),
        ({"min": 10, "max": 20}, 15, 15),
        ({"min": 10, "max": 20}, 25, 20),
        ({"min": "10", "max": "20", "max_if_equal_to": "-1"}, -1, 20),
        ({"max": 20, "max_if_equal_to": 0}, 0, 20),
        ({"min": 10, "max_if_equal_to": 0}, 0, 10),
        ({"max": "many"}, 25, 25),
    ],
)
def test_numbers_are_brought_into_their_range(between: dict[str, Any], value: int, expected: int) -> None:
    bounded = limits(resize_to={"between": between})
    assert limited_options([{"name": "resize-to", "value": value}], DESCRIBED, bounded) == [
        {"name": "resize-to", "value": expected}
    ]


def test_what_is_no_number_is_left_alone_and_text_stays_text() -> None:
    described: list[dict[str, Any]] = [{"name": "size", "type": "string", "value": "", "domain": "string", "help": ""}]
    bounded = limits(size={"between": {"max": 2.5}})
    for value, expected in (("9", "2.5"), ("1", "1"), ("auto", "auto"), ("inf", "inf")):
        assert limited_options([{"name": "size", "value": value}], described, bounded)[0]["value"] == expected
    assert limited_options([{"name": "dsm", "value": True}], DESCRIBED, limits(dsm={"between": {"max": 0}})) == [
        {"name": "dsm", "value": True}
    ]


@given(st.integers(-(10**6), 10**6), st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(-5, 5))
def test_a_clamped_number_is_always_inside(value: int, one: int, other: int, special: int) -> None:
    low, high = sorted((one, other))
    bounded = limits(resize_to={"between": {"min": low, "max": high, "max_if_equal_to": special}})
    [option] = limited_options([{"name": "resize-to", "value": value}], DESCRIBED, bounded)
    assert low <= option["value"] <= high


def test_counts_are_limited() -> None:
    check_images(10**9, Limits())
    check_images(5, Limits(max_images=5))
    with pytest.raises(BadRequest, match="at most 5") as refused:
        check_images(6, Limits(max_images=5))
    assert refused.value.no_retry
    check_tasks_allowed(Limits(max_concurrent_tasks=1))
    with pytest.raises(BadRequest, match="no tasks"):
        check_tasks_allowed(Limits(max_concurrent_tasks=0))
