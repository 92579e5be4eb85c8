# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Console lines on disk."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from clusterodm.files.console import STRIDE, Console, Consoles


def read(console: Console, start: int) -> list[str]:
    lines: list[str] = json.loads(console.read(start))
    return lines


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=200), max_size=4),
    st.integers(-500, 500),
)
def test_any_lines_are_read_back_from_any_line_before_and_after_a_restart(
    tmp_path_factory: object, batches: list[list[str]], start: int
) -> None:
    path = Path(tmp_path_factory.mktemp("c")) / "x.jsonl"  # type: ignore[attr-defined]
    console, lines = Console(path), []
    for batch in batches:
        console.append(batch)
        lines += batch
    again = Console(path)
    again.refresh()
    expected = lines[start:] if start >= 0 or -start <= len(lines) else lines
    assert read(console, start) == read(again, start) == expected
    assert console.count == again.count == len(lines)


def test_tails_around_the_marks_of_the_index_are_exact(tmp_path: Path) -> None:
    console = Console(tmp_path / "x")
    lines = [str(number) for number in range(3 * STRIDE + 1)]
    console.append(lines)
    for start in (0, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE, 3 * STRIDE + 1):
        assert read(console, start) == lines[start:]


def test_a_half_written_line_is_cut_off_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x"
    console = Console(path)
    console.append(["one", "two"])
    with path.open("ab") as file:
        file.write(b'"thr')
    again = Console(path)
    again.refresh()
    again.append(["four"])
    assert read(again, 0) == ["one", "two", "four"]


async def test_consoles_that_fall_out_of_memory_are_read_again(tmp_path: Path) -> None:
    consoles = Consoles(tmp_path, keep=2)
    for uuid in ("aa", "bb", "cc"):
        await consoles.append(uuid, [uuid])
    assert await consoles.read("aa", 0) == b'["aa"]'
    assert await consoles.count("dd") == 0
    assert await consoles.read("dd", 0) == b"[]"
    await consoles.drop("aa")
    assert await consoles.count("aa") == 0


async def test_a_console_that_begins_anew_is_read_from_line_0_by_everybody(tmp_path: Path) -> None:
    writer, other = Consoles(tmp_path, shared=True), Consoles(tmp_path, shared=True)
    await writer.append("abc", ["old"] * 300)
    assert json.loads(await other.read("abc", -1)) == ["old"]
    await writer.reset("abc")
    assert await writer.count("abc") == 0
    await writer.append("abc", ["new"] * 500)
    assert json.loads(await other.read("abc", 0)) == ["new"] * 500
    assert await other.count("abc") == 500
    await writer.reset("abc")
    assert json.loads(await other.read("abc", 0)) == []
    await writer.reset("none")
    assert await writer.count("none") == 0
