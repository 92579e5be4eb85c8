# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether an archive is whole is told by its begin and its end, whatever its size and whoever wrote it."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from clusterodm.core.errors import BadArchive
from clusterodm.files.archives import TAIL, Tail, check_whole


def _archive(entries: int = 3, *, size: int = 1000, comment: bytes = b"", large: bool = False) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(entries):
            with archive.open(f"{number}.bin", "w", force_zip64=large) as file:
                file.write(random.Random(number).randbytes(size))
        archive.comment = comment
    return content.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "small": _archive,
    "empty": partial(_archive, 0),
    "with a comment": partial(_archive, comment=b"PK\x05\x06 is how it ends" * 100),
    "with the longest comment": partial(_archive, comment=b"c" * 65_535),
    "with more entries than the end can count": partial(_archive, 70_000, size=0),
    "with a table of contents that is longer than what is read of the end": partial(_archive, 5000, size=10),
    "with fields for large files": partial(_archive, large=True),
}


@cache
def _whole(kind: str) -> bytes:
    return WHOLE[kind]()


def _streamed(content: bytes, block: int = 1000) -> None:
    tail = Tail()
    for start in range(0, len(content), block):
        tail.add(content[start : start + block])
    tail.check()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_archive_is_one_from_disk_and_from_a_stream(kind: str) -> None:
    whole = _whole(kind)
    check_whole(io.BytesIO(whole))
    _streamed(whole, block=max(1000, len(whole) // 100))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_archive_is_none_wherever_it_was_cut(kind: str) -> None:
    whole = _whole(kind)
    for cut in {0, 1, 21, len(whole) // 2, len(whole) - 23, len(whole) - 1} - {len(whole)}:
        if 0 <= cut < len(whole):
            with pytest.raises(BadArchive):
                check_whole(io.BytesIO(whole[:cut]))
            with pytest.raises(BadArchive):
                _streamed(whole[:cut], block=max(1000, len(whole) // 100))


def test_a_hole_where_the_table_of_contents_was_is_noticed() -> None:
    whole = _whole("small")
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    with pytest.raises(BadArchive, match="table of contents"):
        check_whole(io.BytesIO(whole[:start] + bytes(end - start) + whole[end:]))


def test_a_table_of_contents_with_fewer_entries_than_the_end_says_is_noticed() -> None:
    whole = _whole("small")
    second = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    damaged = whole[:second] + bytes(4) + whole[second + 4 :]
    with pytest.raises(BadArchive, match="table of contents"):
        check_whole(io.BytesIO(damaged))
    with pytest.raises(BadArchive, match="table of contents"):
        _streamed(damaged)


def test_of_a_stream_no_more_is_kept_than_its_end() -> None:
    tail = Tail()
    content = random.Random(1).randbytes(3 * TAIL)
    for size in (1, 1000, TAIL - 1, TAIL, TAIL + 1, 10):
        tail.add(content[:size])
        assert len(tail.end) <= TAIL
    assert tail.end == (content[: TAIL + 1] + content[:10])[-TAIL:]


def test_of_an_archive_of_many_gigabytes_only_begin_and_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small", b"x")
        # a file of 6 GB that takes no room: what is between its header and the next is a hole
        entry = zipfile.ZipInfo("large")
        entry.file_size = entry.compress_size = 6 << 30
        entry.CRC = 0
        entry.header_offset = archive.fp.tell()  # type: ignore[union-attr]
        archive.fp.write(entry.FileHeader(zip64=True))  # type: ignore[union-attr]
        archive.fp.seek(6 << 30, 1)  # type: ignore[union-attr]
        archive.filelist.append(entry)
        archive.NameToInfo["large"] = entry
        archive.start_dir = archive.fp.tell()  # type: ignore[union-attr]
        archive._didModify = True  # type: ignore[attr-defined]
    assert path.stat().st_size > 6 << 30
    read = 0

    class Counting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            content = super().read(size)
            read += len(content)
            return content

    with Counting(path) as file:
        check_whole(file)
    assert read <= TAIL + 100
    with Counting(path, "r+b") as file:
        file.truncate(file.seek(0, 2) - 10)
        with pytest.raises(BadArchive):
            check_whole(file)
