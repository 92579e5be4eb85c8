# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Conditional and range requests, row by row of RFC 9110."""

from __future__ import annotations

import pytest

from clusterodm.core.conditional import Verdict, judge

TAG = '"abc"'
AT = 784_111_777
THEN = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
WHOLE = Verdict(200, 0, 100)
PART = Verdict(206, 0, 10)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, WHOLE),
        ({"Range": "bytes=0-9"}, PART),
        ({"Range": "bytes=5-"}, Verdict(206, 5, 95)),
        ({"Range": "bytes=-10"}, Verdict(206, 90, 10)),
        ({"Range": "bytes=-1000"}, Verdict(206, 0, 100)),
        ({"Range": "bytes=0-1000"}, Verdict(206, 0, 100)),
        ({"Range": "bytes=9-5"}, WHOLE),
        ({"Range": "bytes=0-1,5-6"}, WHOLE),
        ({"Range": "items=0-1"}, WHOLE),
        ({"Range": "bytes=-"}, WHOLE),
        ({"Range": "bytes=100-"}, Verdict(416)),
        ({"Range": "bytes=200-300"}, Verdict(416)),
        ({"Range": "bytes=-0"}, Verdict(416)),
        ({"If-None-Match": TAG}, Verdict(304)),
        ({"If-None-Match": 'W/"abc"'}, Verdict(304)),
        ({"If-None-Match": '"x", "abc"'}, Verdict(304)),
        ({"If-None-Match": "*"}, Verdict(304)),
        ({"If-None-Match": '"x"', "If-Modified-Since": THEN}, WHOLE),
        ({"If-None-Match": TAG, "Range": "bytes=0-9"}, Verdict(304)),
        ({"If-Modified-Since": THEN}, Verdict(304)),
        ({"If-Modified-Since": BEFORE}, WHOLE),
        ({"If-Modified-Since": "yesterday"}, WHOLE),
        ({"If-Match": TAG}, WHOLE),
        ({"If-Match": "*"}, WHOLE),
        ({"If-Match": 'W/"abc"'}, Verdict(412)),
        ({"If-Match": '"x"'}, Verdict(412)),
        ({"If-Match": TAG, "If-Unmodified-Since": BEFORE}, WHOLE),
        ({"If-Unmodified-Since": BEFORE}, Verdict(412)),
        ({"If-Unmodified-Since": THEN}, WHOLE),
        ({"If-Range": TAG, "Range": "bytes=0-9"}, PART),
        ({"If-Range": 'W/"abc"', "Range": "bytes=0-9"}, WHOLE),
        ({"If-Range": '"x"', "Range": "bytes=0-9"}, WHOLE),
        ({"If-Range": THEN, "Range": "bytes=0-9"}, PART),
        ({"If-Range": BEFORE, "Range": "bytes=0-9"}, WHOLE),
        ({"If-Range": "nonsense", "Range": "bytes=0-9"}, WHOLE),
    ],
)
def test_what_is_sent(headers: dict[str, str], expected: Verdict) -> None:
    assert judge(headers, size=100, etag=TAG, modified=AT) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"If-None-Match": TAG}, WHOLE),
        ({"If-Match": TAG}, Verdict(412)),
        ({"If-Modified-Since": THEN}, WHOLE),
        ({"If-Range": THEN, "Range": "bytes=0-9"}, WHOLE),
    ],
)
def test_what_has_neither_tag_nor_date_never_fits(headers: dict[str, str], expected: Verdict) -> None:
    assert judge(headers, size=100, etag="", modified=0) == expected


def test_the_part_is_named() -> None:
    assert Verdict(206, 5, 10).content_range(100) == "bytes 5-14/100"
    assert Verdict(416).content_range(100) == "bytes */100"
    assert WHOLE.content_range(100) == ""


def test_of_nothing_there_is_no_part() -> None:
    assert judge({}, size=0, etag=TAG, modified=AT) == Verdict(200, 0, 0)
    assert judge({"Range": "bytes=0-"}, size=0, etag=TAG, modified=AT) == Verdict(416)
