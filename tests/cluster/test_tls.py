# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""HTTPS on both sides."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from pathlib import Path

import aiohttp
import pytest
import trustme

from clusterodm.core.errors import ConfigError
from clusterodm.core.nodes import parse_address
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.server import serving
from tests.processes import free_port, program
from tests.support import Rig, eventually, images


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Files of a key and of the certificates for it."""
    issued = authority.issue_cert("127.0.0.1")
    key, chain = folder / "key.pem", folder / "cert.pem"
    issued.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    return key, chain


async def test_clients_may_use_https(cluster: Rig, authority: trustme.CA, tmp_path: Path) -> None:
    key, chain = certificate(authority, tmp_path)
    port = free_port()
    await cluster.start(secure_port=port, ssl_key=str(key), ssl_cert=str(chain))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    async with aiohttp.ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{port}/info", ssl=context) as response:
            assert (await response.json())["version"] == "2.2.4"
        uuid = await cluster.api.init()
        url = f"https://127.0.0.1:{port}/task/new/upload/{uuid}"
        async with session.post(url, data=images({"a.jpg": b"x" * 500_000}), ssl=context) as response:
            assert await response.json() == {"success": True}


async def test_with_a_certificate_and_no_other_port_there_is_no_plain_one(
    cluster: Rig, authority: trustme.CA, tmp_path: Path
) -> None:
    key, chain = certificate(authority, tmp_path)
    await cluster.start(ssl_key=str(key), ssl_cert=str(chain))
    assert len(cluster.cluster.ports) == 1
    assert cluster.cluster.url.startswith("https://")
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{cluster.cluster.url}/info", ssl=context) as response:
            assert (await response.json())["version"] == "2.2.4"
        with pytest.raises(aiohttp.ClientError):
            await session.get(cluster.cluster.url.replace("https", "http") + "/info")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"secure-port \(flags\) needs --ssl-cert and --ssl-key"),
        ({"ssl_key": "/nowhere", "ssl_cert": "/nowhere"}, "the certificate or key cannot be used"),
    ],
)
async def test_https_without_a_usable_certificate_is_refused(
    cluster: Rig, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await cluster.start(secure_port=free_port(), **settings)


async def test_a_node_may_use_https_and_its_certificate_is_verified(
    cluster: Rig, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    node, port = await cluster.stack.enter_async_context(running_devnode(Knobs(seconds=0), tls=context))
    trusting = await cluster.stack.enter_async_context(program(tmp_path / "1", node=f"https://localhost:{port}"))
    trusting.environ["SSL_CERT_FILE"] = str(ca)
    stranger = await cluster.stack.enter_async_context(program(tmp_path / "2", node=f"https://localhost:{port}"))
    for running in (trusting, stranger):
        running.log.parent.mkdir()
        await running.start()
    uuid = await trusting.api.create(3)
    await trusting.api.ends(uuid)
    assert node.commits == [uuid]
    refused = await stranger.api.create(1)
    await eventually(lambda: "node is o" not in stranger.log.read_text())
    assert await stranger.api.code(refused) == 10
    assert node.commits == [uuid]


async def test_the_operators_own_authority_is_trusted_and_any_certificate_where_verification_is_off(
    cluster: Rig, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    node, port = await cluster.stack.enter_async_context(running_devnode(Knobs(seconds=0), tls=context))
    api = await cluster.start(node=f"https://127.0.0.1:{port}", nodes_ca=ca)
    registry = cluster.cluster.context.registry
    await eventually(lambda: "its certificate is for another name (" in registry.nodes()[0].error)
    uuid = await api.create(2)
    assert await api.code(uuid) == 10, "its certificate is for another name"
    await registry.add(parse_address(f"https://localhost:{port}"))
    assert [str(node.address) for node in registry.nodes()] == [f"localhost:{port}"]
    info = await api.ends(uuid)
    assert info["imagesCount"] == 2
    assert node.commits == [uuid]
    await cluster.stop()

    api = await cluster.start(node=f"https://127.0.0.1:{port}/?insecure=true")
    registry = cluster.cluster.context.registry
    insecure = registry.find(parse_address(f"https://127.0.0.1:{port}"))
    assert insecure is not None
    await eventually(lambda: insecure.online)
    assert len(registry.nodes()) == 1, "localhost and 127.0.0.1 of one port are one node"
    second = await api.create(3)
    await api.ends(second)
    assert node.commits == [uuid, second]


async def test_a_file_of_authorities_that_is_none_is_refused(cluster: Rig, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"--nodes-ca .* cannot be used"):
        await cluster.start(nodes_ca=tmp_path / "ca.pem")


async def test_old_versions_of_tls_are_refused(cluster: Rig, authority: trustme.CA, tmp_path: Path) -> None:
    (key, chain), port = certificate(authority, tmp_path), free_port()
    await cluster.start(secure_port=port, ssl_key=str(key), ssl_cert=str(chain))
    old = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_a_renewed_certificate_is_taken_and_open_connections_go_on(
    cluster: Rig, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_RENEW", 0.02)
    key, chain, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()

    def issue(name: str) -> None:
        issued = authority.issue_cert("127.0.0.1", common_name=name)
        key.write_bytes(issued.private_key_pem.bytes())
        chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))

    issue("first")
    await cluster.start(secure_port=port, ssl_key=str(key), ssl_cert=str(chain))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())

    async def connected() -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        subject = dict(pair for group in writer.get_extra_info("peercert")["subject"] for pair in group)
        return str(subject["commonName"]), reader, writer

    name, reader, writer = await connected()
    assert name == "first"
    chain.write_text("half written")
    issue("second")

    async def renewed() -> bool:
        common_name, _, other = await connected()
        other.close()
        return common_name == "second"

    await eventually(renewed)
    writer.write(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
