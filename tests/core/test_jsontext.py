# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults in JSON files, and where they are."""

from __future__ import annotations

import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.core.jsontext import decode_file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": {\n  "c": "",\n\n }}', "f is not JSON: line 3: trailing comma in object"),
        (b"[1,\n2,\n]", "f is not JSON: line 2: trailing comma in array"),
        (b'{\n// why\n"a": 1}', "f is not JSON: line 2: object keys must be strings"),
        (b'{\n"a" 1}', "f is not JSON: line 2: expected ':'"),
        (b'{\n"a": 1\n', "f is not JSON: line 2: the file ends too early"),
        (b"", "f is not JSON: line 1: the file ends too early"),
        (b'{"a": "\xff"}', "f is not JSON: it is not UTF-8"),
        (b"[" * 100_000, "f is not JSON: it is nested too deeply"),
    ],
)
def test_a_fault_is_said_with_its_line(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_file(content, "f")
    assert str(caught.value) == message


def test_json_of_another_kind_is_said_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^f: Expected `int`, got `str` - at `\$\[0\]`"):
        decode_file(b'["1x"]', "f", list[int], strict=False)


def test_the_mark_that_editors_of_windows_put_first_is_no_fault() -> None:
    assert decode_file(b'\xef\xbb\xbf{"a": 1}', "f") == {"a": 1}
