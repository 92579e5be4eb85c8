# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shipped configurations of proxies, with the real programs in front of a real cluster. Only ports, certificates
and paths of this machine are put in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from clusterodm.devnode import Knobs, running_devnode
from tests import nginx as shipped_nginx
from tests.needs import need
from tests.processes import free_port, program
from tests.support import Api, eventually, form, images

PROXIES = Path(__file__).parents[2] / "deploy" / "proxies"
BIN = Path(sys.executable).parent
#: The client is somebody else than the proxy.
CLIENT = "127.0.0.2"
#: What a client makes up of itself and of how it called.
SPOOFED = {
    "Forwarded": "for=6.6.6.6;proto=http;host=evil.example",
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "evil",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Server": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Ssl": "evil",
}


class Site:
    """Where everything is: the certificate of maps.example, the proxy's port, the cluster's port."""

    def __init__(self, folder: Path, upstream: int) -> None:
        self.folder, self.upstream, self.port = folder, upstream, free_port()
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("maps.example")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")

    def shipped(self, name: str, **changes: str) -> str:
        """A shipped file; each change must find its place."""
        text = (PROXIES / name).read_text()
        for old, new in {"127.0.0.1:3000": f"127.0.0.1:{self.upstream}", **changes}.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        return text

    def write(self, name: str, text: str) -> str:
        """A file for the proxy; its path."""
        (self.folder / name).write_text(text)
        return str(self.folder / name)


def nginx(site: Site) -> list[str]:
    text = shipped_nginx.config(site.folder, site.port, [site.upstream], tls=True)
    return ["nginx", "-c", site.write("nginx.conf", text), "-e", f"{site.folder}/error.log"]


def haproxy(site: Site) -> list[str]:
    changes = {":443": f"127.0.0.1:{site.port}", "/etc/haproxy/maps.example.pem": f"{site.folder}/both.pem"}
    return ["haproxy", "-db", "-f", site.write("haproxy.cfg", site.shipped("haproxy.cfg", **changes))]


def caddy(site: Site) -> list[str]:
    # a certificate that is there already instead of one from Let's Encrypt, and no admin port
    tls = f"tls {site.folder}/cert.pem {site.folder}/key.pem"
    text = site.shipped("Caddyfile", **{"maps.example {": f"maps.example:{site.port} {{\n\t{tls}"})
    top = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {site.folder}/caddy\n}}\n"
    return [str(BIN / "caddy"), "run", "--adapter", "caddyfile", "--config", site.write("Caddyfile", top + text)]


def traefik(site: Site) -> list[str]:
    # the same: a certificate that is there already
    resolver = "      tls:\n        certResolver: letsencrypt"
    certificate = (
        f"tls:\n  certificates:\n    - certFile: {site.folder}/cert.pem\n      keyFile: {site.folder}/key.pem\n"
    )
    dynamic = site.write("dynamic.yaml", site.shipped("traefik.yaml", **{resolver: "      tls: {}"}) + certificate)
    return [
        str(BIN / "traefik"),
        f"--entryPoints.websecure.address=127.0.0.1:{site.port}",
        "--entryPoints.websecure.transport.respondingTimeouts.readTimeout=0",
        f"--providers.file.filename={dynamic}",
        "--global.sendAnonymousUsage=false",
        "--global.checkNewVersion=false",
        "--accesslog=false",
    ]


MAKERS = {maker.__name__: maker for maker in (nginx, haproxy, caddy, traefik)}


def test_every_shipped_proxy_is_tried() -> None:
    assert {path.name.lower().split(".")[0].removesuffix("file") for path in PROXIES.iterdir()} == set(MAKERS)


class _ToProxy(aiohttp.abc.AbstractResolver):
    """maps.example is here."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def in_front(site: Site, command: list[str]) -> AsyncIterator[Api]:
    """A client that reaches the cluster through the proxy, as maps.example with a certificate that it checks. Skips the
    test where the proxy is not installed: uvloop does not end after a program that could not be started."""
    need(command[0])
    trust = ssl.create_default_context()
    site.authority.configure_trust(trust)
    with (site.folder / "proxy.log").open("wb") as log:
        proxy = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env={"HOME": str(site.folder), "PATH": os.environ["PATH"]}
        )
    try:
        api = Api(f"https://maps.example:{site.port}", "hush-client")
        await api.session.close()
        connector = aiohttp.TCPConnector(resolver=_ToProxy(), ssl=trust, force_close=True, local_addr=(CLIENT, 0))
        async with aiohttp.ClientSession(connector=connector) as api.session:

            async def answers() -> bool:
                assert proxy.returncode is None, (site.folder / "proxy.log").read_text()
                try:
                    return "version" in await api.get("/info")
                except (aiohttp.ClientError, ValueError):
                    return False

            await eventually(answers)
            yield api
    finally:
        if proxy.returncode is None:
            proxy.terminate()
        await proxy.wait()


@pytest.mark.parametrize("name", MAKERS)
async def test_tasks_go_through(name: str, tmp_path: Path) -> None:
    make: Callable[[Site], list[str]] = MAKERS[name]
    async with running_devnode(Knobs(seconds=0.1), port=0) as (_, node):
        settings = {
            "node": f"127.0.0.1:{node}",
            "token": "hush-client",
            "trusted-proxies": "127.0.0.1",
            "results": "keep",
        }
        async with program(tmp_path, **settings) as cluster:
            cluster.environ |= {"CLUSTERODM_ACCESS_LOG": "-"}
            await cluster.start()
            site = Site(tmp_path, cluster.port)
            command = make(site)
            async with in_front(site, command) as api:
                uuid = await api.init()
                await api.post(f"/task/new/upload/{uuid}", images({"a.jpg": b"x" * 20_000_000}))
                await api.commit(uuid)
                await api.ends(uuid)
                whole = (await api.post("/task/new", images({"b.jpg": b"photo"})))["uuid"]
                await api.ends(whole)
                status, headers, archive = await api.raw("GET", f"/task/{uuid}/download/all.zip")
                assert status == 200
                assert int(headers["Content-Length"]) == len(archive)
                part = {"Range": "bytes=10-19"}
                status, _, some = await api.raw("GET", f"/task/{uuid}/download/all.zip", headers=part)
                assert (status, some) == (206, archive[10:20])
                api.query = {}
                assert (await api.raw("GET", f"/task/{uuid}/info"))[0] == 401
                await cluster.end()
                assert (await api.raw("GET", "/info"))[0] >= 500  # it has gone to no other place
                await cluster.start()
                api.query = {"token": "hush-client"}

                async def is_back() -> bool:
                    status, _, body = await api.raw("GET", f"/task/{uuid}/info")
                    return status == 200 and b'"code":40' in body

                await eventually(is_back)
    logs = [path for path in tmp_path.glob("*.log") if "hush-" in path.read_text()]
    assert logs == []


@asynccontextmanager
async def echo(headers: list[tuple[str, str]]) -> AsyncIterator[int]:
    """A server that keeps the headers of what it is asked, in place of the cluster; its port."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        headers[:] = request.headers.items()
        return web.json_response({"version": "1"})

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", MAKERS)
async def test_what_a_client_makes_up_of_itself_does_not_get_through(name: str, tmp_path: Path) -> None:
    headers: list[tuple[str, str]] = []
    async with echo(headers) as upstream:
        site = Site(tmp_path, upstream)
        command = MAKERS[name](site)
        async with in_front(site, command) as api:
            await api.raw("GET", "/info", headers=SPOOFED)
            forged = [(key, value) for key, value in headers if "6" in value or "evil" in value]
            by_name = {key.lower(): value for key, value in headers}
    assert [each for each in forged if str(site.port) not in each[1]] == []
    assert (by_name["x-forwarded-for"], by_name["x-forwarded-proto"]) == (CLIENT, "https")
    assert by_name["host"].partition(":")[0] == "maps.example"


@pytest.mark.parametrize("headers", ["", "x-forwarded-for,x-forwarded-proto,x-forwarded-host", "forwarded"])
@pytest.mark.parametrize("name", MAKERS)
async def test_the_cluster_trusts_the_proxy_alone(name: str, headers: str, tmp_path: Path) -> None:
    announced = {"proxy-headers": headers} if headers else {}
    async with program(tmp_path, **{"trusted-proxies": "127.0.0.1"}, **announced) as cluster:
        cluster.environ |= {"CLUSTERODM_ACCESS_LOG": "-"}
        await cluster.start()
        site = Site(tmp_path, cluster.port)
        command = MAKERS[name](site)
        async with in_front(site, command) as api:
            fields = form({"options": json.dumps([{"name": "split", "value": 1}])})
            status, _, body = await api.raw("POST", "/task/new/init", data=fields, headers=SPOOFED)
            assert status == 200, body
        believed = [json.loads(line) for line in cluster.log.read_text().splitlines() if "/task/new/init" in line]
        assert [line["remote"] for line in believed] == ["127.0.0.1" if headers == "forwarded" else CLIENT]
        await cluster.end(signal.SIGTERM)
        with closing(sqlite3.connect(tmp_path / "data" / "clusterodm.db")) as database:
            ((options,),) = database.execute("SELECT options FROM tasks").fetchall()
        [address] = [option["value"] for option in json.loads(options) if option["name"] == "sm-cluster"]
        scheme = "http" if headers == "forwarded" else "https"
        assert address.partition("?")[0] in {f"{scheme}://maps.example:{site.port}", f"{scheme}://maps.example"}
