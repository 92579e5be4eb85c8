# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for held files, and which of them go when it is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.quota import Holding, Quota, Rank, parse_quota, shortage, to_release


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("90%", Quota(0.9, 0)),
        ("100 %", Quota(1.0, 0)),
        ("500GB", Quota(None, 500 * 10**9)),
        ("1.5t", Quota(None, 1500 * 10**9)),
        ("1000", Quota(None, 1000)),
    ],
)
def test_quotas_are_read(text: str, quota: Quota) -> None:
    assert parse_quota(text) == quota


@pytest.mark.parametrize("text", ["", "0%", "101%", "-5", "much", "5 lightyears"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_quota(text)


@pytest.mark.parametrize(
    ("quota", "room", "size"),
    [(Quota(0.9, 0), 30, 90), (Quota(0.5, 0), -10, 50), (Quota(None, 50), 20, 50), (Quota(None, 500), 40, 500)],
)
def test_room_is_what_is_left_of_the_share_or_of_the_size(quota: Quota, room: int, size: int) -> None:
    assert quota.room(disk_total=100, disk_free=40, held=30) == room
    assert quota.size(100) == size


@pytest.mark.parametrize(
    ("needs", "room", "releasable", "missing"),
    [
        ([], 0, 100, 0),
        ([], -50, 100, 0),
        ([10], 10, 100, 0),
        ([10], 4, 100, 6),
        ([10], -5, 100, 15),
        ([10, 20], 0, 30, 30),
        ([20, 10], 0, 29, 10),
        ([20], 0, 19, 0),
        ([1000, 3], 1, 50, 2),
    ],
)
def test_as_much_goes_as_those_need_who_can_be_served(
    needs: list[int], room: int, releasable: int, missing: int
) -> None:
    assert shortage(needs, room=room, releasable=releasable) == missing


def test_abandoned_uploads_go_first_and_of_equals_what_rests_longest() -> None:
    runs, over = Holding("runs", 10, Rank.RUNNING, 1.0), Holding("over", 10, Rank.LEFTOVER, 2.0)
    older, newer = Holding("older", 10, Rank.ABANDONED, 3.0), Holding("newer", 10, Rank.ABANDONED, 4.0)
    all_of_them = [runs, newer, Holding("empty", 0, Rank.ABANDONED, 0.0), over, older]
    assert to_release(all_of_them, 0) == []
    assert to_release(all_of_them, 1) == [older]
    assert to_release(all_of_them, 10) == [older]
    assert to_release(all_of_them, 11) == [older, newer]
    assert to_release(all_of_them, 35) == [older, newer, over, runs]
    assert to_release(all_of_them, 99) == [older, newer, over, runs]


_HOLDINGS = st.lists(
    st.builds(Holding, st.uuids().map(str), st.integers(0, 100), st.sampled_from(Rank), st.floats(0, 1e9))
)


@given(_HOLDINGS, st.lists(st.integers(1, 200)), st.integers(-100, 100))
def test_what_goes_is_enough_and_not_one_task_too_many(holdings: list[Holding], needs: list[int], room: int) -> None:
    releasable = sum(each.size for each in holdings)
    missing = shortage(needs, room=room, releasable=releasable)
    released = to_release(holdings, missing)
    assert 0 <= missing <= releasable
    assert sum(each.size for each in released) >= missing
    assert not released or sum(each.size for each in released[:-1]) < missing
    retained = [each for each in holdings if each not in released and each.size]
    assert all((one.rank, one.since) <= (other.rank, other.since) for one in released for other in retained)
