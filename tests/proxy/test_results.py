# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kept results: parts of them, single assets, conditions, and the ways that their bytes take."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from clusterodm.http import zero_copy
from clusterodm.http.connections import CONNECTIONS
from tests.processes import free_port
from tests.support import Api, Rig, eventually

STORED = os.urandom(3_000_000)
PACKED = b"".join(b"%08d" % number for number in range(300_000))


@pytest.fixture(params=["lanes", "no lane"])
def lanes(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "no lane":
            for _ in range(zero_copy._LANES):
                assert zero_copy._free.acquire(blocking=False)
                stack.callback(zero_copy._free.release)
        yield request.param


async def kept(cluster: Rig) -> tuple[Api, str, bytes]:
    """A completed task with a known archive, which is kept here."""
    await cluster.add_node()
    api = await cluster.start(results="keep")
    await cluster.ready()
    uuid = await api.create()
    await api.ends(uuid)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("odm_report/packed.txt", PACKED, zipfile.ZIP_DEFLATED)
        archive.writestr("odm_orthophoto/stored.tif", STORED)
    path = cluster.cluster.context.results.archive(uuid)
    assert path is not None
    path.write_bytes(content.getvalue())
    return api, f"/task/{uuid}/download", content.getvalue()


async def test_wholes_parts_and_assets_are_exact_whichever_way_they_take(cluster: Rig, lanes: str) -> None:
    api, path, whole = await kept(cluster)
    for name, content in (("all.zip", whole), ("stored.tif", STORED), ("odm_report/packed.txt", PACKED)):
        status, headers, body = await api.raw("GET", f"{path}/{name}")
        assert (status, headers["Accept-Ranges"], len(body)) == (200, "bytes", len(content))
        assert body == content
        for start, end in ((0, 0), (5, 1_000_004), (2_000_000, len(content) - 1)):
            range_header = {"Range": f"bytes={start}-{end}"}
            status, headers, body = await api.raw("GET", f"{path}/{name}", headers=range_header)
            assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{end}/{len(content)}")
            assert body == content[start : end + 1]
        status, headers, _ = await api.raw("GET", f"{path}/{name}", headers={"Range": f"bytes={len(content)}-"})
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(content)}")


async def test_sixteen_parts_at_once_make_the_whole(cluster: Rig, lanes: str) -> None:
    api, path, whole = await kept(cluster)
    step = -(-len(whole) // 16)
    ranges = [{"Range": f"bytes={start}-{start + step - 1}"} for start in range(0, len(whole), step)]
    parts = await asyncio.gather(*(api.raw("GET", f"{path}/all.zip", headers=each) for each in ranges))
    assert b"".join(body for _, _, body in parts) == whole


@pytest.mark.parametrize("name", ["all.zip", "stored.tif", "packed.txt"])
async def test_a_strong_tag_saves_a_download_and_joins_parts(cluster: Rig, name: str) -> None:
    api, path, _ = await kept(cluster)
    _, headers, body = await api.raw("HEAD", f"{path}/{name}")
    tag, size = headers["Etag"], int(headers["Content-Length"])
    assert tag.startswith('"')
    assert body == b""
    status, headers, body = await api.raw("GET", f"{path}/{name}", headers={"If-None-Match": tag})
    assert (status, headers["Etag"], body) == (304, tag, b"")
    assert (await api.raw("GET", f"{path}/{name}", headers={"If-Modified-Since": headers["Last-Modified"]}))[0] == 304
    assert (await api.raw("GET", f"{path}/{name}", headers={"If-Match": '"other"'}))[0] == 412
    part = {"Range": "bytes=1-3", "If-Range": tag}
    assert (await api.raw("GET", f"{path}/{name}", headers=part))[0] == 206
    status, _, body = await api.raw("GET", f"{path}/{name}", headers=part | {"If-Range": '"other"'})
    assert (status, len(body)) == (200, size)


async def test_assets_of_one_archive_have_different_tags(cluster: Rig) -> None:
    api, path, _ = await kept(cluster)
    tags = {(await api.raw("HEAD", f"{path}/{name}"))[1]["Etag"] for name in ("all.zip", "stored.tif", "packed.txt")}
    assert len(tags) == 3


async def test_a_connection_goes_on_after_bytes_that_went_by_themselves(cluster: Rig) -> None:
    _, path, whole = await kept(cluster)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0])
    for _ in range(3):
        writer.write(f"GET {path}/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(whole)) == whole
    writer.write(b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'"maxParallelTasks"' in await reader.read()
    writer.close()


async def test_a_client_that_leaves_frees_its_lane(cluster: Rig) -> None:
    _, path, _ = await kept(cluster)
    free = zero_copy._free._value
    for _ in range(5):
        reader, writer = await _small_window(cluster)
        writer.write(f"GET {path}/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
    await eventually(lambda: cluster.cluster.app[CONNECTIONS].in_flight == 0)
    assert zero_copy._free._value == free


async def test_the_end_of_the_program_waits_for_nobody_who_does_not_read(cluster: Rig) -> None:
    _, path, _ = await kept(cluster)
    reader, writer = await _small_window(cluster)
    writer.write(f"GET {path}/all.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.wait_for(cluster.stop(), 20)
    writer.close()


async def _small_window(cluster: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose client takes little at a time."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", cluster.cluster.ports[0]))
    return await asyncio.open_connection(sock=small, limit=1024)


async def test_results_go_out_over_tls_as_they_are(cluster: Rig) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key, chain = cluster.folder / "key.pem", cluster.folder / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    for each in issued.cert_chain_pems:
        each.write_to_path(chain, append=True)
    _, path, whole = await kept(cluster)
    await cluster.stop()
    await cluster.start(results="keep", secure_port=free_port(), ssl_key=str(key), ssl_cert=str(chain))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with cluster.api.session.get(f"https://127.0.0.1:{cluster.cluster.ports[1]}{path}/all.zip", ssl=trust) as got:
        assert await got.read() == whole
