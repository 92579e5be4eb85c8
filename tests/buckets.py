# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Buckets: of a pretended S3, of a real Ceph object gateway, and either behind a gate that refuses what it is told."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import botocore.config
import botocore.session
from aiohttp import web
from moto.server import ThreadedMotoServer
from yarl import URL

from clusterodm.providers.config import S3
from tests.processes import free_port

ACCESS, SECRET = "ODMACCESSKEY", "hush-bucket-key"
RUN_CEPH = Path(__file__).parent / "providers" / "run-ceph"
#: What `run-ceph` runs.
CEPH = ("radosgw", "ceph-mon", "ceph-osd", "curl", "uuidgen")


@dataclass
class Gateway:
    """An S3 endpoint with a bucket."""

    url: str
    client: Any

    def keys(self) -> list[str]:
        objects = self.client.list_objects_v2(Bucket="maps").get("Contents", [])
        return sorted(item["Key"] for item in objects)

    def close(self) -> None:
        for key in self.keys():
            self.client.delete_object(Bucket="maps", Key=key)
        self.client.close()

    def config(self, **fields: Any) -> S3:
        defaults: dict[str, Any] = {
            "endpoint": self.url,
            "bucket": "maps",
            "access_key": ACCESS,
            "secret_key": SECRET,
        }
        return S3(**(defaults | fields))

    def entry(self, **fields: Any) -> dict[str, Any]:
        return {"endpoint": self.url, "bucket": "maps", "accessKey": ACCESS, "secretKey": SECRET, **fields}


def make_gateway(url: str) -> Gateway:
    client = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket="maps")
    return Gateway(url, client)


@asynccontextmanager
async def running_moto() -> AsyncIterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def running_ceph(folder: Path) -> Iterator[str]:
    """The URL of a real gateway; what it says of itself is in its folder."""
    ports = [str(free_port()) for _ in range(3)]
    command = [str(RUN_CEPH), str(folder), *ports, ACCESS, SECRET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "up"
        yield f"http://127.0.0.1:{ports[0]}"


def anonymous(url: str) -> int:
    """The status with which a bucket answers somebody without keys."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


#: Headers that are between two hosts alone.
_HOP = ("Connection", "Expect", "Transfer-Encoding")


@dataclass
class Gate:
    """What goes to a bucket goes through here."""

    url: str = ""
    #: The code with which a write is refused, by its path and headers; empty: it is not.
    refuses: Callable[[str, Mapping[str, str]], str] = lambda path, headers: ""
    #: Paths of writes, and the ACL that each asks for.
    writes: list[tuple[str, str]] = field(default_factory=list)


@asynccontextmanager
async def running_gate(url: str) -> AsyncIterator[Gate]:
    """A gate before the bucket at `url`; signatures stay good, because the host that was signed stays."""
    gate = Gate()

    async def forward(request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "PUT":
            gate.writes.append((request.path, request.headers.get("x-amz-acl", "")))
            if code := gate.refuses(request.path, request.headers):
                text = f"<Error><Code>{code}</Code><Message>refused</Message></Error>"
                return web.Response(status=403, text=text, content_type="application/xml")
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        target = URL(url + request.raw_path, encoded=True)
        async with session.request(request.method, target, headers=headers, data=body or None) as response:
            end_to_end = {name: value for name, value in response.headers.items() if name not in _HOP}
            body = await response.read()
        return web.Response(status=response.status, body=body if request.method != "HEAD" else None, headers=end_to_end)

    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            gate.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield gate
        finally:
            await runner.cleanup()
