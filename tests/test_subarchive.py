# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Folders of archives as archives of their own."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.files import subarchive
from clusterodm.files.subarchive import Piece, cut, folder_pieces

FILES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\/:"), min_size=1, max_size=8),
    st.binary(max_size=300),
    max_size=5,
)


def packed(files: dict[str, bytes], kind: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as archive:
        archive.writestr("other/x", b"x" * 50)
        archive.mkdir("folder")
        for name, value in files.items():
            archive.writestr(f"folder/{name}", value)
    return content.getvalue()


def read(whole: bytes, pieces: list[Piece]) -> bytes:
    return b"".join(piece.content or whole[piece.start : piece.start + piece.length] for piece in pieces)


@given(FILES, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.integers(0, 400), st.integers(0, 400))
def test_a_folder_is_an_archive_of_the_same_files_whole_and_in_parts(
    files: dict[str, bytes], kind: int, start: int, length: int
) -> None:
    whole = packed(files, kind)
    file = io.BytesIO(whole)
    pieces = folder_pieces(zipfile.ZipFile(file), file, "folder/")
    assert bool(pieces) is bool(files)
    content = read(whole, pieces)
    assert len(content) == sum(piece.length for piece in pieces)
    assert read(whole, list(cut(pieces, start, length))) == content[start : start + length]
    if files:
        inside = zipfile.ZipFile(io.BytesIO(content))
        assert inside.testzip() is None
        assert {name: inside.read(name) for name in inside.namelist()} == files


def test_what_does_not_fit_into_an_old_archive_stands_where_a_new_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subarchive, "_MAX16", 3)
    files = {f"{number}.jpg": b"%d" % number * 1000 for number in range(10)}
    whole = packed(files, zipfile.ZIP_STORED)
    file = io.BytesIO(whole)
    content = read(whole, folder_pieces(zipfile.ZipFile(file), file, "folder/"))
    assert b"PK\x06\x06" in content
    # a count of 3 in the old record would be believed, so it is set as a real large archive has it
    end = content.rindex(b"PK\x05\x06")
    content = content[: end + 8] + b"\xff\xff\xff\xff" + content[end + 12 :]
    inside = zipfile.ZipFile(io.BytesIO(content))
    assert {name: inside.read(name) for name in inside.namelist()} == files


def test_sizes_and_offsets_beyond_4_gigabytes_are_written_in_full(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    with source.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/large", b"")
        archive.writestr("folder/small", b"behind")
    with source.open("rb") as reader:
        archive = zipfile.ZipFile(reader)
        large = archive.getinfo("folder/large")
        large.file_size = large.compress_size = 5 << 30
        pieces = folder_pieces(archive, reader, "folder/")
    content = source.read_bytes()
    archive_path = tmp_path / "made.zip"
    with archive_path.open("wb") as target:
        for piece in pieces:
            if piece.length > 1 << 30:
                target.seek(piece.length, os.SEEK_CUR)  # a hole
            else:
                target.write(piece.content or content[piece.start : piece.start + piece.length])
    with zipfile.ZipFile(archive_path) as inside:
        assert [(entry.filename, entry.file_size) for entry in inside.infolist()] == [("large", 5 << 30), ("small", 6)]
        assert inside.read("small") == b"behind"
        with inside.open("large") as hole:
            assert hole.read(1000) == bytes(1000)
