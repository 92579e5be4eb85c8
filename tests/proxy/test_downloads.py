# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Downloads from nodes that stop in the middle, and to clients that do."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web

from clusterodm.cluster import delivery
from tests.support import Api, Rig, eventually

SIZE = 3_000_000
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def completed(rig: Rig, serve: Serve, **settings: Any) -> tuple[Api, str]:
    """A completed task whose results come from `serve`."""
    node = await rig.add_node()
    api = await rig.start(**settings)
    uuid = await api.create()
    await api.ends(uuid)
    await rig.stop_node(0)
    app = web.Application()
    app.router.add_get(f"/task/{node.commits[0]}/download/all.zip", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    rig.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", rig.ports[0]).start()
    return api, uuid


def _archive() -> bytes:
    """A whole archive of SIZE bytes; its records take 100 of them."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", os.urandom(SIZE - 100))
    assert content.tell() == SIZE
    return content.getvalue()


class Stuttering:
    """Serves bytes and hangs up after so many, some times."""

    def __init__(
        self, cuts: list[int], *, ranges: bool = False, etag: Callable[[int], str] = lambda call: "same"
    ) -> None:
        self.content = _archive()
        self.cuts = cuts
        self.calls = 0
        self.requested_ranges: list[str] = []
        self._ranges = ranges
        self._etag = etag

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        range_header = request.headers.get("Range", "") if self._ranges else ""
        self.requested_ranges.append(range_header)
        start = int(range_header.removeprefix("bytes=").removesuffix("-")) if range_header else 0
        headers = {"ETag": f'"{self._etag(self.calls)}"', "Content-Type": "application/zip"}
        headers |= {"Accept-Ranges": "bytes"} if self._ranges else {}
        headers |= {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if range_header else {}
        response = web.StreamResponse(status=206 if range_header else 200, headers=headers)
        response.content_length = SIZE - start
        await response.prepare(request)
        end = self.cuts.pop(0) if self.cuts else SIZE
        await response.write(self.content[start:end])
        if end < SIZE:
            await asyncio.sleep(0.05)  # what was sent shall arrive before the end
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.mark.parametrize("ranges", [False, True])
async def test_a_download_goes_on_where_its_node_cut_it(cluster: Rig, ranges: bool) -> None:
    node = Stuttering([1_000_000, 2_000_000], ranges=ranges)
    api, uuid = await completed(cluster, node.serve)
    status, headers, body = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert (status, headers["Content-Length"]) == (200, str(SIZE))
    assert body == node.content
    assert node.calls == 3
    assert bool(node.requested_ranges[1]) == ranges


@pytest.mark.parametrize("ranges", [False, True])
async def test_a_file_that_changed_meanwhile_is_never_mixed(cluster: Rig, ranges: bool) -> None:
    node = Stuttering([1_000_000], ranges=ranges, etag=str)
    api, uuid = await completed(cluster, node.serve)
    with pytest.raises(ClientPayloadError):
        await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert node.calls == 4


async def test_kept_results_are_pulled_whole_although_the_node_stutters(cluster: Rig) -> None:
    node = Stuttering([2_000_000])
    api, uuid = await completed(cluster, node.serve)
    collector = cluster.cluster.context.collector
    path = await collector.archive(cluster.entry(uuid))
    assert path.read_bytes() == node.content
    assert (await api.raw("GET", f"/task/{uuid}/download/all.zip"))[2] == node.content


async def _open_download(rig: Rig, uuid: str) -> asyncio.StreamWriter:
    """Ask for results and take only the beginning of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.cluster.ports[0], limit=1024)
    writer.write(f"GET /task/{uuid}/download/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    return writer


def _connections(rig: Rig) -> int:
    from clusterodm.http.connections import CONNECTIONS

    return rig.cluster.app[CONNECTIONS].in_flight


class Endless:
    """Serves zeros for ever, and knows when nobody wants more."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/zip"})
        response.content_length = 1 << 40
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 20))
        except ConnectionError:
            self.ended.set()
        return response


async def test_a_client_that_leaves_in_the_middle_frees_everything(cluster: Rig) -> None:
    node = Endless()
    _, uuid = await completed(cluster, node.serve)
    writer = await _open_download(cluster, uuid)
    writer.transport.abort()
    await asyncio.wait_for(node.ended.wait(), 20)
    await eventually(lambda: _connections(cluster) == 0)


async def test_a_client_that_stops_reading_is_cut_after_a_while(cluster: Rig) -> None:
    node = Endless()
    _, uuid = await completed(cluster, node.serve, upload_idle_timeout=1.0)
    writer = await _open_download(cluster, uuid)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.wait_for(node.ended.wait(), 30)
    await eventually(lambda: _connections(cluster) == 0)
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /info HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_without_a_whole_request_is_closed_and_others_are_not(cluster: Rig, sent: bytes) -> None:
    api = await cluster.start(connection_idle_timeout=0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0])
    writer.write(sent)

    async def drip() -> None:
        while sent:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())  # noqa: TID251 - canceled below
    uuid = await api.init()
    busy = asyncio.create_task(_slow_upload(cluster, uuid))  # noqa: TID251 - awaited below
    try:
        assert await asyncio.wait_for(_rest(reader), 20) == b""
    finally:
        dripping.cancel()
    assert b'{"success":true}' in await busy
    writer.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _slow_upload(rig: Rig, uuid: str) -> bytes:
    """An upload that takes longer than a connection may be silent, a byte at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.cluster.ports[0])
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n' + b"x" * 20 + b"\r\n--b--\r\n"
    )
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:-20])
    for byte in body[-20:]:
        await asyncio.sleep(0.05)
        writer.write(bytes([byte]))
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("settings", [{}, {"results": "keep"}])
async def test_a_download_is_named_as_a_node_names_it(cluster: Rig, settings: dict[str, str]) -> None:
    await cluster.add_node()
    api = await cluster.start(**settings)
    uuid = await api.create()
    await api.ends(uuid)
    _, _, archive = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    asset = next(name for name in zipfile.ZipFile(io.BytesIO(archive)).namelist() if "/" in name)
    for path in ("all.zip", asset):
        status, headers, _ = await api.raw("GET", f"/task/{uuid}/download/{path}")
        name = path.rpartition("/")[2]
        assert (status, headers["Content-Disposition"]) == (200, f"attachment; filename={name}")


@pytest.mark.parametrize(
    ("asset", "named"),
    [
        ("odm_report/report.pdf", "report.pdf"),
        ("a b.tif", "\"a b.tif\"; filename*=UTF-8''a%20b.tif"),
        ('say "ü"; x=1.tif', "\"say ___; x=1.tif\"; filename*=UTF-8''say%20%22%C3%BC%22%3B%20x%3D1.tif"),
        ("line\r\nbreak", "\"line__break\"; filename*=UTF-8''line%0D%0Abreak"),
    ],
)
def test_the_name_of_a_file_cannot_say_more_than_its_name(asset: str, named: str) -> None:
    assert delivery._attachment(asset)["Content-Disposition"] == f"attachment; filename={named}"
