# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Large bodies, which go from the socket to the disk without a copy in between."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterodm.core.tasks import Phase
from clusterodm.http.body import BLOCK
from clusterodm.http.forms import multipart_form
from tests.proxy.test_intake import held
from tests.support import Rig, eventually, images

BOUNDARY = "bnd"
#: What a photo may be full of, to confuse a search for the boundary.
TRICKY = [b"\r", b"\r\n", b"\r\n--", b"\r\n--bn", b"\r\n--bnx", b"--bnd", b"\n--bnd--", b"x" * 50, b""]
PHOTO = st.lists(st.sampled_from(TRICKY), max_size=12).map(b"".join).filter(lambda content: b"\r\n--bnd" not in content)


async def received(body: AsyncIterator[memoryview]) -> list[tuple[str, bytes]]:
    """The files of a multipart body."""
    form = multipart_form(body, BOUNDARY)  # type: ignore[arg-type]
    files = [(name, b"".join([bytes(block) async for block in blocks])) async for name, blocks in form]
    assert (form.fields, form.file_count) == ({}, len(files))
    return files


async def pieces(body: bytes, sizes: list[int]) -> AsyncIterator[memoryview]:
    """The body in blocks of these sizes, over and over; each block is spoilt when the next one is asked for."""
    position, turn = 0, 0
    while position < len(body):
        size = sizes[turn % len(sizes)]
        block = bytearray(body[position : position + size] + b"\r\n--bnd--")  # more memory than content
        view = memoryview(block)[: len(block) - 9]
        yield view
        block[:] = b"?" * len(block)
        position, turn = position + size, turn + 1


@settings(max_examples=1000, deadline=None)
@given(
    contents=st.lists(PHOTO, min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
)
def test_files_come_out_as_they_went_in_wherever_blocks_end(contents: list[bytes], sizes: list[int]) -> None:
    body = b"".join(
        b'--bnd\r\nContent-Disposition: form-data; name="images"; filename="%d"\r\n\r\n%s\r\n' % (number, content)
        for number, content in enumerate(contents)
    )
    files = asyncio.run(received(pieces(body + b"--bnd--\r\n", sizes)))
    assert files == [(str(number), content) for number, content in enumerate(contents)]


async def test_a_file_that_nobody_reads_is_skipped_and_its_end_is_not_taken_for_that_of_the_next() -> None:
    part = b'--bnd\r\nContent-Disposition: form-data; name="images"; filename="%d"\r\n\r\n' + b"content" * 50 + b"\r\n"
    body = b"".join(part % number for number in range(3)) + b"--bnd--\r\n"
    for sizes in ([len(body)], [7], [100]):
        form = multipart_form(pieces(body, sizes), BOUNDARY)  # type: ignore[arg-type]
        contents = {name: content async for name, content in form}
        assert (list(contents), form.file_count) == (["0", "1", "2"], 3)
        assert [block async for block in contents["0"]] == []


def _photos() -> dict[str, bytes]:
    return {
        "a.jpg": os.urandom(3 * BLOCK + 17),
        "b.jpg": b"\r\n--" * BLOCK,
        "c.jpg": b"small",
        "d.jpg": os.urandom(5 * BLOCK),
    }


async def test_several_large_files_in_one_request_are_kept_as_they_are(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    photos = _photos()
    status, headers, body = await api.raw("POST", f"/task/new/upload/{uuid}", data=images(photos))
    assert (status, body) == (200, b'{"success":true}')
    assert headers["Connection"] == "close"
    assert await held(cluster, uuid) == photos


async def test_many_large_uploads_at_once_do_not_mix(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    photos = {f"{number}.jpg": os.urandom(4 * BLOCK + number) for number in range(12)}
    sends = (api.post(f"/task/new/upload/{uuid}", images({name: content})) for name, content in photos.items())
    assert await asyncio.gather(*sends) == [{"success": True}] * 12
    assert await held(cluster, uuid) == photos


async def test_a_large_file_over_https_is_kept_as_it_is(cluster: Rig) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    cluster.folder.joinpath("key.pem").write_bytes(own.private_key_pem.bytes())
    cluster.folder.joinpath("cert.pem").write_bytes(own.cert_chain_pems[0].bytes())
    paths = {"ssl_key": str(cluster.folder / "key.pem"), "ssl_cert": str(cluster.folder / "cert.pem")}
    from tests.processes import free_port

    port = free_port()
    api = await cluster.start(secure_port=port, **paths)
    uuid = await api.init()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    content = os.urandom(5 * BLOCK)
    url = f"https://127.0.0.1:{port}/task/new/upload/{uuid}"
    async with api.session.post(url, data=images({"a.jpg": content}), ssl=trusting) as answer:
        assert await answer.json() == {"success": True}
    assert await held(cluster, uuid) == {"a.jpg": content}


async def _begun(rig: Rig, uuid: str, port: int) -> asyncio.StreamWriter:
    """A large upload of which the end does not come."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="b.jpg"\r\n\r\n' + b"half" * BLOCK
    writer.write(f"{head}Content-Length: {len(part) + 5 * BLOCK}\r\n\r\n".encode() + part)
    await writer.drain()
    parts = rig.folder / "data" / "spool" / uuid / "parts"
    await eventually(lambda: parts.exists() and any(path.stat().st_size > 2 * BLOCK for path in parts.iterdir()))
    return writer


@pytest.mark.parametrize("how", ["close", "abort", "half"])
async def test_a_large_upload_that_is_cut_leaves_no_file(cluster: Rig, how: str) -> None:
    api = await cluster.start()
    uuid = await api.init()
    writer = await _begun(cluster, uuid, cluster.cluster.ports[0])
    {"close": writer.close, "abort": writer.transport.abort, "half": writer.write_eof}[how]()
    parts = cluster.folder / "data" / "spool" / uuid / "parts"
    await eventually(lambda: not parts.exists() or not list(parts.iterdir()))
    assert await held(cluster, uuid) == {}
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING
    assert await api.upload(uuid, b__jpg=b"again") == {"success": True}
    writer.close()


async def test_a_large_upload_that_stalls_is_cut_after_a_while(cluster: Rig) -> None:
    api = await cluster.start(upload_idle_timeout=0.3)
    uuid = await api.init()
    writer = await _begun(cluster, uuid, cluster.cluster.ports[0])
    parts = cluster.folder / "data" / "spool" / uuid / "parts"
    await eventually(lambda: not parts.exists() or not list(parts.iterdir()))
    assert await held(cluster, uuid) == {}
    writer.close()


async def test_a_large_upload_that_is_refused_in_the_middle_is_told_why(cluster: Rig) -> None:
    api = await cluster.start(splitmerge=False)
    uuid = await api.init()
    answer = await api.post(f"/task/new/upload/{uuid}", images({"a.jpg": os.urandom(3 * BLOCK), "seed.zip": b"x"}))
    assert answer == {"error": "seed.zip is not accepted: split-merge is turned off here", "noRetry": True}
    assert list(await held(cluster, uuid)) == ["a.jpg"]
