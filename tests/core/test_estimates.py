# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guesses of waits, and lists of nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.durations import span
from clusterodm.core.errors import ConfigError
from clusterodm.core.estimates import Pace, Running, pace, remaining, waits
from clusterodm.core.membership import Listed, changes, lease_terms, parse_nodes_file
from clusterodm.core.nodes import NodeRecord, Origin, make_address


def test_a_pace_is_the_median_of_enough_tasks() -> None:
    assert pace([(10, 100.0), (10, 300.0)]) == Pace()
    assert pace([(10, 100.0), (10, 300.0), (1, 1000.0), (5, -1.0)]) == Pace(30.0)
    assert not Pace().known


def test_what_remains_is_told_by_pace_and_by_progress() -> None:
    typical = Pace(2.0)
    assert remaining(Running(100, 50.0, 0.0), typical) == 150.0
    assert remaining(Running(100, 500.0, 0.0), typical) == 50.0  # never "in a moment" for hours
    assert remaining(Running(100, 50.0, 50.0), typical) == (150.0 + 50.0) / 2


def test_the_queue_gets_the_slots_that_come_free_first() -> None:
    running = [Running(10, 0.0, 0.0), Running(10, 5.0, 0.0)]
    assert waits([10, 10, 10, 10], running, 3, Pace(1.0)) == [0.0, 5.0, 10.0, 10.0]
    assert waits([1, 2], running, 0, Pace(1.0)) == [None, None]
    assert waits([1], running, 3, Pace()) == [None]
    assert waits([10], running * 5, 1, Pace(1.0)) == [10.0]


@given(
    st.lists(st.integers(0, 1000), max_size=30),
    st.lists(st.builds(Running, st.integers(0, 1000), st.floats(0, 1e5), st.floats(0, 100)), max_size=20),
    st.integers(1, 10),
    st.floats(0.001, 1000),
)
def test_nobody_waits_less_than_who_comes_before(
    queue: list[int], running: list[Running], slots: int, per_image: float
) -> None:
    guessed = [wait for wait in waits(queue, running, slots, Pace(per_image)) if wait is not None]
    assert len(guessed) == len(queue)
    assert guessed == sorted(guessed)
    assert all(wait >= 0 for wait in guessed)


def record(number: int, host: str, origin: Origin, **terms: object) -> NodeRecord:
    return NodeRecord(id=number, address=make_address(host, 3000), origin=origin, **terms)  # type: ignore[arg-type]


def test_a_list_changes_only_its_own_nodes() -> None:
    records = [
        record(1, "own", Origin.CONFIGURED),
        record(2, "stays", Origin.FILE),
        record(3, "goes", Origin.FILE),
        record(4, "other", Origin.DNS),
        record(5, "back", Origin.FILE, removed=True),
    ]
    listed = [Listed(make_address(host, 3000)) for host in ("own", "stays", "back", "new", "new")]
    difference = changes(records, listed, Origin.FILE)
    assert [entry.address.host for entry in difference.add] == ["back", "new"]
    assert [entry.id for entry in difference.remove] == [3]
    renewed = changes(records, [Listed(make_address("stays", 3000, "token"))], Origin.FILE)
    assert [entry.address.host for entry in renewed.add] == ["stays"]


def test_a_nodes_file_is_json_or_lines() -> None:
    lines = parse_nodes_file(b"\n# all\na:1\n http://b:2/?token=t # x\n")
    assert [(str(entry.address), entry.address.token) for entry in lines] == [("a:1", ""), ("b:2", "t")]
    [entry] = parse_nodes_file(b' [{"hostname": "c", "port": "3", "token": null, "locked": true}]')
    assert (str(entry.address), entry.locked) == ("c:3", True)
    for bad in (b"[1]", b"\xff", b"a b:1"):
        with pytest.raises(ConfigError):
            parse_nodes_file(bad)


@pytest.mark.parametrize(
    ("terms", "closed", "leaving"),
    [
        ({}, "", False),
        ({"locked": True}, "locked", False),
        ({"draining": True}, "draining", True),
        ({"removed": True}, "removed", True),
        ({"ends_at": 200.0}, "", False),
        ({"ends_at": 150.0, "drain_before": 60.0}, "about to end", True),
        ({"lease_until": 200.0}, "", False),
        ({"lease_until": 100.0}, "without a lease", False),
    ],
)
def test_why_a_node_gets_nothing_new(terms: dict[str, object], closed: str, leaving: bool) -> None:
    node = record(1, "n", Origin.LEASE, **terms)
    assert node.closed(100.0) == closed
    assert node.leaving(100.0) == leaving


def test_the_terms_of_a_lease() -> None:
    request = {"labels": {"a": "b"}, "slots": 2, "ttl": 30.0, "ends_in": None, "drain_before": 5.0}
    terms = lease_terms(100.0, request)
    assert (terms["lease_until"], terms["ends_at"], terms["origin"]) == (130.0, 0.0, Origin.LEASE)
    assert lease_terms(100.0, request | {"ends_in": 50.0})["ends_at"] == 150.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-1.0, "-"), (0.0, "0 s"), (89.4, "89 s"), (90.0, "2 min"), (5399.0, "90 min"), (5400.0, "1.5 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert span(seconds) == text
