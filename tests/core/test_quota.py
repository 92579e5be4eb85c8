# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for held files."""

from __future__ import annotations

import pytest

from clusterodm.core.quota import Quota, parse_quota


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
