# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""URLs that are called as they were written."""

from __future__ import annotations

import pytest

from clusterodm.http.urls import as_written, without


@pytest.mark.parametrize(
    ("url", "host", "sent"),
    [
        ("http://h.example", "h.example", "/"),
        ("http://h.example/a%2Fb?x=%2F&y=a+b&z=%7e", "h.example", "/a%2Fb?x=%2F&y=a+b&z=%7e"),
        ("https://h.example/?X-Amz-Signature=a%2Bb%3D&q=%20", "h.example", "/?X-Amz-Signature=a%2Bb%3D&q=%20"),
        ("http://h.example/%zz/[1]|{2}", "h.example", "/%zz/[1]|{2}"),
        ("http://h.example/a/../b//c", "h.example", "/a/../b//c"),
        ("http://h.example/a b?c d#fragment", "h.example", "/a%20b?c%20d"),
        ("http://bücher.example/ü?ü", "bücher.example", "/%C3%BC?%C3%BC"),
        ("http://h.example/\udcff", "h.example", "/%FF"),  # bytes of a header that are no UTF-8
        ("http://[::1]:8080/x", "::1", "/x"),
        ("http://user:p%40@h.example/x", "h.example", "/x"),
        ("http://１２７.0.0.1/", "127.0.0.1", "/"),
    ],
)
def test_path_and_query_go_out_character_for_character(url: str, host: str, sent: str) -> None:
    parsed = as_written(url)
    assert (parsed.host, parsed.raw_path_qs) == (host, sent)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h/",
        "//h/",
        "http:///x",
        "http://h:0/",
        "http://h:99999/",
        "http://h:x/",
        "http://[/",
        "http://127.0.0.1\\@h/",
        "http://a b/",
        "http://h/\ud8ff",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        as_written(url)


def test_a_parameter_is_taken_out_and_the_rest_stays_as_it_is() -> None:
    assert without("a=%2F&token=x&b&tok%65n=y&b=+", "token") == "a=%2F&b&b=+"
    assert without("", "token") == ""
