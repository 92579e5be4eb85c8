# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Held files and kept results on disk."""

from __future__ import annotations

import asyncio
import errno
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.errors import BadRequest, ClientGone, SpoolFull
from clusterodm.core.files import HeldFile
from clusterodm.core.quota import Quota
from clusterodm.files.results import Results
from clusterodm.files.room import Usage
from clusterodm.files.spool import BLOCK, Part, Spool


async def receive(spool: Spool, content: bytes, name: str = "a.jpg") -> str:
    async with spool.received("u", pieces(content)) as part:
        return await spool.publish("u", part, name)


async def pieces(content: bytes, *, then: Exception | None = None) -> AsyncIterator[bytes]:
    """The content in small blocks, and then an error."""
    for start in range(0, len(content), 70_000):
        yield content[start : start + 70_000]
    if then is not None:
        raise then


async def test_a_file_is_invisible_until_it_is_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    part = spool.new_part("u")
    await part.write(b"x" * (BLOCK + 1))
    assert await spool.listing("u") == []
    await part.close()
    await spool.publish("u", part, "a.jpg")
    assert await spool.listing("u") == [HeldFile("a.jpg", BLOCK + 1)]
    assert list((tmp_path / "u" / "parts").iterdir()) == []


async def test_large_files_are_written_as_they_came(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    content = os.urandom(3 * BLOCK + 17)
    await receive(spool, content)
    assert spool.path("u", "a.jpg").read_bytes() == content


async def test_file_systems_without_hard_links_work_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    spool = Spool(tmp_path)
    assert [await receive(spool, content) for content in (b"1", b"1", b"2")] == ["a.jpg", "a.jpg", "a_.jpg"]


async def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    part = spool.new_part("u")
    await part.write(b"x" * BLOCK)
    await part.write(b"y")
    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(SpoolFull):
        await part.close()
    part.drop()
    assert list(tmp_path.iterdir()) == []


async def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    real = os.write
    monkeypatch.setattr(os, "writev", lambda fd, blocks: real(fd, blocks[0][:3]))
    await receive(spool, b"0123456789")
    assert spool.path("u", "a.jpg").read_bytes() == b"0123456789"


async def test_parts_of_an_earlier_process_are_dropped_and_files_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await receive(spool, b"kept")
    await spool.new_part("u").write(b"x" * BLOCK)
    other = Spool(tmp_path, owner="alive").new_part("u")
    await other.write(b"x" * BLOCK)
    await Spool(tmp_path).drop_parts(lambda owner: owner == "alive")
    assert list((tmp_path / "u" / "parts").iterdir()) == [other.path]
    await Spool(tmp_path).drop_parts(lambda owner: False, rested=60.0)
    assert other.path.exists()
    os.utime(other.path, (1.0, 1.0))
    await Spool(tmp_path).drop_parts(lambda owner: False, rested=60.0)
    assert not other.path.exists()
    assert await spool.listing("u") == [HeldFile("a.jpg", 4)]


async def test_nothing_is_left_of_a_file_that_its_client_does_not_finish_or_that_is_not_published(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(ClientGone):
        async with spool.received("u", pieces(b"x" * 2 * BLOCK, then=ClientGone("left"))):
            raise AssertionError("not whole")
    with pytest.raises(BadRequest, match="too many images"):
        async with spool.received("u", pieces(b"x" * 2 * BLOCK)):
            raise BadRequest("too many images")
    assert list(tmp_path.iterdir()) == []
    assert (spool.room.held, spool.receives("u")) == (0, False)


async def test_dropping_twice_is_fine(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await receive(spool, b"x")
    await asyncio.gather(spool.drop("u"), spool.drop("u"))
    assert await spool.tasks() == []


@pytest.fixture
def results(tmp_path: Path) -> Results:
    store = Results(tmp_path)
    (tmp_path / "u").mkdir()
    with zipfile.ZipFile(tmp_path / "u" / "all.zip", "w") as archive:
        archive.writestr("odm_report/report.pdf", b"report")
        archive.writestr("a/same.txt", b"1")
        archive.writestr("b/same.txt", b"2")
    return store


async def test_an_asset_is_found_by_path_or_by_a_unique_name(results: Results) -> None:
    for name in ("odm_report/report.pdf", "report.pdf"):
        asset = await results.asset("u", name)
        assert asset.place is not None
        path, start = asset.place
        assert (asset.size, path.read_bytes()[start : start + asset.size]) == (6, b"report")
        assert [block async for block in asset.blocks(1, 3)] == [b"epo"]
        asset.close()


@pytest.mark.parametrize("name", ["nothing", "same.txt", "../all.zip", "eport.pdf"])
async def test_what_is_not_there_or_not_unique_is_an_invalid_asset(results: Results, name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid asset"):
        await results.asset("u", name)


async def test_a_damaged_archive_is_not_ready(results: Results, tmp_path: Path) -> None:
    (tmp_path / "u" / "all.zip").write_bytes(b"PK")
    with pytest.raises(BadRequest, match="Asset not ready"):
        await results.asset("u", "report.pdf")
    with pytest.raises(BadRequest, match="Asset not ready"):
        await results.asset("v", "report.pdf")


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_what_is_counted_is_what_is_there_however_files_come_and_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Quota(None, 10**9))
    await receive(spool, b"x" * 100_000)
    await receive(spool, b"x" * 100_000)  # once more
    await receive(spool, b"y" * 50_000)
    assert (spool.room.held, spool.room.of("u").files) == (150_000, 2) == (on_disk(tmp_path), 2)
    await spool.discard("u", "a.jpg")
    assert (spool.room.held, spool.room.of("u").files) == (50_000, 1) == (on_disk(tmp_path), 1)
    part = spool.new_part("u")
    await part.write(b"z" * BLOCK)
    assert spool.room.held == 50_000 + BLOCK == on_disk(tmp_path)
    part.drop()
    assert spool.room.held == 50_000 == on_disk(tmp_path)
    await spool.drop("u")
    assert (spool.room.held, spool.room.tasks()) == (0, [])


async def test_counting_anew_loses_nothing_that_comes_or_goes_meanwhile(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Quota(None, 10**9))
    for _ in range(20):
        await asyncio.gather(
            spool.measure(),
            *(receive(spool, bytes([number]) * 300_000, f"{number}.jpg") for number in range(8)),
            spool.measure(),
        )
        assert spool.room.held == on_disk(tmp_path) == 8 * 300_000
        await asyncio.gather(spool.measure(), spool.drop("u"), spool.measure())
        assert spool.room.held == on_disk(tmp_path) == 0


async def test_what_others_wrote_and_deleted_is_found_when_all_is_counted_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Quota(None, 10**6))
    await receive(spool, b"x" * 1000)
    (tmp_path / "other" / "files").mkdir(parents=True)
    (tmp_path / "other" / "files" / "a.jpg").write_bytes(b"y" * 500)
    spool.path("u", "a.jpg").unlink()
    await spool.measure()
    assert (spool.room.held, spool.room.of("other"), spool.room.of("u")) == (500, Usage(500, 1), Usage())
    assert spool.room.free_bytes() == 10**6 - 500


async def test_a_part_that_is_dropped_while_it_is_written_leaves_nothing_and_tells_its_writer(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for _ in range(50):
        parts = [spool.new_part("u") for _ in range(4)]

        async def write(part: Part) -> None:
            while True:
                await part.write(b"x" * BLOCK)

        writing = asyncio.gather(*map(write, parts), return_exceptions=True)
        await asyncio.sleep(0)
        await spool.drop("u")
        ends = await writing
        assert {str(end) for end in ends} == {"Invalid uuid (not found)"}
        assert all(isinstance(end, BadRequest) for end in ends)
        assert list(tmp_path.iterdir()) == []
        assert spool.room.held == 0
        assert not spool.receives("u")


async def test_other_processes_see_that_a_large_file_comes_in(tmp_path: Path) -> None:
    spool, other = Spool(tmp_path, owner="one"), Spool(tmp_path, owner="other")
    part = spool.new_part("u")
    await part.write(b"x" * BLOCK)
    for folder in (tmp_path / "u" / "parts", tmp_path / "u"):
        os.utime(folder, (1000.0, 1000.0))
    await part.write(b"x" * BLOCK)
    assert other.last_change("u") == 1000.0
    await spool.measure()
    assert other.last_change("u") > 1000.0
    part.drop()


async def test_room_is_waited_for_as_long_as_it_may_come(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Quota(None, 1000), patience=30.0)
    await receive(spool, b"x" * 900)
    part = spool.new_part("v")
    await part.write(b"y" * 500)
    async with asyncio.TaskGroup() as group:
        closing = group.create_task(part.close())
        await spool.room.short.wait()
        assert not closing.done()
        await spool.drop("u")
    assert await spool.publish("v", part, "b.jpg") == "b.jpg"
    assert spool.room.held == 500
