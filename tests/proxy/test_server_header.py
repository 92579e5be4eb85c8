# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""No answer of any port tells which versions it runs on, whatever it answers to."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.admin.support import start
from tests.support import Rig

REQUESTS = {
    "from memory": b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    "by the server": b"GET /task/list HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    "a page": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    "unknown path": b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    "preflight": b"OPTIONS /info HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://a\r\nConnection: close\r\n\r\n",
    "unknown expectation": b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: x\r\nConnection: close\r\n\r\n",
    "no HTTP": b"GARBAGE\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nBad header\r\n\r\n",
    "a header too long": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    "a bad body": b"POST /task/cancel HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("door", ["clients", "operators", "node"])
async def test_no_version_is_told(cluster: Rig, door: str, name: str) -> None:
    await cluster.add_node()
    api, operator = await start(cluster)
    await cluster.ready()
    urls = {"clients": api.url, "operators": operator.url, "node": f"http://127.0.0.1:{cluster.ports[0]}"}
    reader, writer = await asyncio.open_connection("127.0.0.1", int(urls[door].rpartition(":")[2]))
    writer.write(REQUESTS[name])
    head, _, _ = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.")
    assert re.findall(rb"(?im)^server: (.*?)\r?$", head) in ([], [b"ClusterODM"])
    assert not re.search(rb"(?i)python|aiohttp", head)
