# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One setting turns all three ways around the web server on and off."""

from __future__ import annotations

import asyncio
import os

import pytest

from clusterodm.http import zero_copy
from clusterodm.http.connections import CONNECTIONS
from tests.support import Rig, eventually

LARGE = os.urandom(3 << 20)
INFO = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"

both = pytest.mark.parametrize("fast_paths", ["on", "off"])


async def connect(cluster: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0], limit=1024)


async def is_answered(reader: asyncio.StreamReader) -> bool:
    try:
        return bool(await reader.readline())
    except ConnectionError:
        return False


@both
async def test_a_poller_is_answered_before_or_by_the_web_server(cluster: Rig, fast_paths: str) -> None:
    await cluster.start(fast_paths=fast_paths)
    reader, writer = await connect(cluster)
    writer.write(INFO)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert len(cluster.cluster.app[CONNECTIONS]._waiting) == (fast_paths == "on")
    writer.close()


@both
async def test_a_large_upload_ends_its_connection_only_if_it_went_around_the_parser(
    cluster: Rig, fast_paths: str
) -> None:
    api = await cluster.start(fast_paths=fast_paths)
    uuid = await api.init()
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n' + LARGE + b"\r\n--b--\r\n"
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    reader, writer = await connect(cluster)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert b'{"success":true}' in await reader.readuntil(b"}")
    writer.write(INFO)
    assert await is_answered(reader) == (fast_paths == "off")
    assert cluster.cluster.context.spool.path(uuid, "a.jpg").read_bytes() == LARGE
    writer.close()


@both
async def test_a_download_takes_a_lane_or_goes_block_by_block(cluster: Rig, fast_paths: str) -> None:
    await cluster.add_node()
    api = await cluster.start(results="keep", fast_paths=fast_paths)
    uuid = await api.create()
    await api.ends(uuid)
    archive = cluster.cluster.context.results.archive(uuid)
    assert archive is not None
    archive.write_bytes(LARGE * 20)
    free = zero_copy._free._value
    reader, writer = await connect(cluster)
    writer.write(f"GET /task/{uuid}/download/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    lanes = int(fast_paths == "on")
    await eventually(lambda: cluster.cluster.app[CONNECTIONS].in_flight == 1)
    assert free - zero_copy._free._value == lanes
    writer.transport.abort()
    await eventually(lambda: cluster.cluster.app[CONNECTIONS].in_flight == 0)
