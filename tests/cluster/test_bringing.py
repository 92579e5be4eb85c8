# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What comes back from a node: results that are checked before held files go, and consoles that only grow."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.core.tasks import Phase
from clusterodm.nodeodm import client as node_client
from tests.odd_node import OddNode, OddTask, running_odd_node
from tests.support import Rig, eventually, zipped

GOOD = zipped({"odm_report/report.pdf": b"report" * 1000, "odm_orthophoto/odm_orthophoto.tif": os.urandom(300_000)})
BAD = {
    "nothing": b"",
    "rubbish": b"<html>502 Bad Gateway</html>" * 5000,
    "its first half": GOOD[: len(GOOD) // 2],
    "its first half, with other bytes after it": GOOD[: len(GOOD) // 2] + os.urandom(len(GOOD) - len(GOOD) // 2),
    "all but its last byte": GOOD[:-1],
    "all but its first byte": GOOD[1:],
}


@pytest.fixture
async def odd(cluster: Rig) -> AsyncIterator[OddNode]:
    """A node that is odd, known to the cluster."""
    async with running_odd_node() as node:
        node.work, node.archive = node.done, GOOD
        cluster.ports.append(node.port)
        yield node


def _held(cluster: Rig, uuid: str) -> Path:
    return cluster.folder / "data" / "spool" / uuid


# Results


async def _chunked(request: web.Request, content: bytes) -> web.StreamResponse:
    """Without a length, and with an end in good order, as a proxy makes it of an answer that broke off."""
    answer = web.StreamResponse(headers={"Content-Type": "application/zip"})
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    await answer.write(content)
    await answer.write_eof()
    return answer


async def _ranged(request: web.Request, content: bytes) -> web.StreamResponse:
    start, _, end = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
    last = min(int(end) if end else len(content), len(content) - 1)
    if int(start) > last:
        return web.Response(status=416)
    whole = {"Content-Range": f"bytes {start}-{last}/{len(content)}", "Content-Type": "application/zip"}
    return web.Response(status=206, body=content[int(start) : last + 1], headers=whole)


async def _plain(request: web.Request, content: bytes) -> web.StreamResponse:
    return web.Response(body=content, content_type="application/zip")


@pytest.mark.parametrize("results", ["stream", "keep"])
@pytest.mark.parametrize("serve", [_plain, _chunked, _ranged], ids=["plain", "chunked", "ranged"])
@pytest.mark.parametrize("what", BAD)
async def test_a_node_that_at_first_answers_with_something_else_than_its_archive_is_asked_again(
    cluster: Rig, odd: OddNode, what: str, serve: object, results: str
) -> None:
    if serve is _ranged and results == "keep":
        pytest.skip("a whole download asks for no range")
    requests: list[bool] = []

    async def bad_at_first(request: web.Request) -> web.StreamResponse:
        requests.append(_held(cluster, uuid).exists())
        return await serve(request, BAD[what] if len(requests) <= 2 else GOOD)  # type: ignore[operator,no-any-return]

    odd.download = bad_at_first
    api = await cluster.start(results=results)
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    await api.commit(uuid)
    await api.ends(uuid)
    assert len(requests) > 2
    assert all(requests)  # the held files were there until the results were good
    if results == "keep":
        assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2] == GOOD
    await eventually(lambda: not _held(cluster, uuid).exists())


async def test_a_node_that_never_has_a_whole_archive_fails_its_attempt_and_the_photos_go_elsewhere(
    cluster: Rig, odd: OddNode
) -> None:
    odd.archive = BAD["its first half"]
    api = await cluster.start(results="keep")
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.attempts and cluster.entry(uuid).task.phase is Phase.QUEUED)
    node = await cluster.add_node()
    await api.ends(uuid)
    assert len(node.commits) == 1
    lines = await cluster.timeline(uuid)
    why = "the node says completed, but its results cannot be fetched (all.zip is no whole zip archive: it has no end"
    assert any(why in line for line in lines)


HUGE_SIZE = 70 << 20


async def _huge(request: web.Request, *, whole: bool) -> web.StreamResponse:
    """An archive as large as those of real maps, with its length and without ranges, as real nodes send it."""
    end = GOOD if whole else GOOD[: len(GOOD) // 2]
    size = HUGE_SIZE + len(end)
    answer = web.StreamResponse(headers={"Content-Type": "application/zip", "Content-Length": str(size)})
    await answer.prepare(request)
    await answer.write(GOOD[:100] + bytes((1 << 20) - 100))
    for _ in range(HUGE_SIZE // (1 << 20) - 1):
        await answer.write(bytes(1 << 20))
    # the places in an archive count from its begin
    await answer.write(_moved(end, HUGE_SIZE) if whole else end)
    await answer.write_eof()
    return answer


def _moved(archive: bytes, offset: int) -> bytes:
    """An archive whose table of contents is found behind so many other bytes."""
    at = archive.rindex(b"PK\x05\x06") + 16
    return archive[:at] + struct.pack("<L", struct.unpack_from("<L", archive, at)[0] + offset) + archive[at + 4 :]


async def test_a_large_archive_that_stays_on_a_node_without_ranges_is_read_to_its_end(
    cluster: Rig, odd: OddNode
) -> None:
    requests: list[bool] = []

    async def bad_at_first(request: web.Request) -> web.StreamResponse:
        requests.append(_held(cluster, uuid).exists())
        return await _huge(request, whole=len(requests) > 1)

    odd.download = bad_at_first
    api = await cluster.start()
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    await api.commit(uuid)
    await api.ends(uuid)
    assert requests == [True, True]


async def test_a_canceled_task_ends_the_reading_of_its_archive(cluster: Rig, odd: OddNode) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/zip"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(1 << 10))
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    odd.download = endless
    api = await cluster.start()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.COLLECTING)
    await api.post("/task/cancel", {"uuid": uuid})
    await asyncio.wait_for(ended.wait(), 20)


# Consoles


async def _running(cluster: Rig, odd: OddNode, lines: list[str]) -> str:
    def work(task: OddTask) -> None:
        task.processing_time, task.console = 100, lines

    odd.work = work
    uuid = await cluster.api.create()
    await _shows(cluster, uuid, len(lines))
    return uuid


async def _shows(cluster: Rig, uuid: str, count: int) -> list[str]:
    async def enough() -> bool:
        return len(await cluster.api.get(f"/task/{uuid}/output")) >= count

    await eventually(enough)
    lines: list[str] = await cluster.api.get(f"/task/{uuid}/output")
    return lines


@pytest.mark.parametrize("fresh", [0, 1, 3, 20], ids=lambda count: f"{count} lines")
async def test_a_console_goes_on_when_its_node_numbers_the_lines_anew(cluster: Rig, odd: OddNode, fresh: int) -> None:
    await cluster.start()
    before = [f"first run {number}" for number in range(10)]
    uuid = await _running(cluster, odd, list(before))
    after = [f"second run {number}" for number in range(fresh)]
    odd.last.console = list(after)
    assert await _shows(cluster, uuid, 10 + fresh) == before + after
    odd.last.console.append("the end")
    odd.done(odd.last)
    await cluster.api.ends(uuid)
    assert await cluster.api.get(f"/task/{uuid}/output") == [*before, *after, "the end"]


async def test_a_console_whose_last_line_comes_again_in_its_place_is_noticed_by_the_lines_before_it(
    cluster: Rig, odd: OddNode
) -> None:
    await cluster.start()
    uuid = await _running(cluster, odd, ["one", "two", ""])
    odd.last.console = ["another", "run", "", "more"]
    assert await _shows(cluster, uuid, 7) == ["one", "two", "", "another", "run", "", "more"]


async def test_a_node_that_never_says_the_same_twice_does_not_fill_the_disk(cluster: Rig, odd: OddNode) -> None:
    await cluster.start()
    uuid = await _running(cluster, odd, ["0"])
    for number in range(1, 40):
        odd.last.console = [str(number)]
        polls = cluster.entry(uuid)
        await eventually(lambda polls=polls: polls.unreachable_since == 0)  # type: ignore[misc]
    odd.done(odd.last)
    await cluster.api.ends(uuid)
    assert len(await cluster.api.get(f"/task/{uuid}/output")) <= 40


async def test_a_console_of_any_length_reaches_its_end_in_bounded_memory(
    cluster: Rig, odd: OddNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "MAX_TASK", 100_000)
    await cluster.start()
    before = ["begin"]
    uuid = await _running(cluster, odd, list(before))
    new = [f'{number} "quoted" \\ ä \N{SNOWMAN} ' + "x" * 200 for number in range(60_000)]
    odd.last.console += new
    odd.done(odd.last)
    await cluster.api.ends(uuid)
    assert await cluster.api.get(f"/task/{uuid}/output") == before + new
    assert cluster.entry(uuid).task.attempts == 1


async def test_a_long_console_that_is_numbered_anew_is_shown_from_its_beginning(
    cluster: Rig, odd: OddNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "MAX_TASK", 10_000)
    await cluster.start()
    uuid = await _running(cluster, odd, ["first run"])
    new = [f"second run {number}" for number in range(5000)]
    odd.last.console = new
    assert await _shows(cluster, uuid, 5001) == ["first run", *new]


async def test_the_end_of_a_task_is_seen_although_its_console_cannot_be_read(
    cluster: Rig, odd: OddNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "MAX_TASK", 10_000)
    monkeypatch.setattr("clusterodm.cluster.tasks.relay._PAUSES", (0.0, 0.0))
    await cluster.start()
    uuid = await _running(cluster, odd, ["begin"])

    async def broken(request: web.Request) -> web.Response:
        return web.json_response({"what": "is this"})

    monkeypatch.setattr(odd, "answer_output", broken)
    odd.last.console += ["x" * 20_000]
    odd.done(odd.last)
    await cluster.api.ends(uuid)
    lines = await cluster.api.get(f"/task/{uuid}/output")
    assert lines == ["begin", "[clusterodm] the rest of the output could not be read from the node"]
