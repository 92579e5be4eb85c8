# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an operator reads when a node cannot be talked to: the reason in words, and never the token."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import trustme

from clusterodm.aio import Clock
from clusterodm.commands.doctor import findings
from clusterodm.core.errors import NodeUnreachable
from clusterodm.core.nodes import NodeAddress, parse_address
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.http import reasons
from clusterodm.nodeodm import NodeClient, RateLimit, Transfers, Trust

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(tls)
    return tls


class World:
    """Servers on loopback that are no good nodes."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self.stack = stack
        self.authority = trustme.CA()
        self.authorities = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.authorities)

    async def serve(self, answer: Serve, tls: ssl.SSLContext | None = None) -> int:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
        self.stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def says(self, content: bytes, tls: ssl.SSLContext | None = None) -> int:
        """A server that says this to everybody, and no more."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(content)
            if writer.can_write_eof():
                writer.write_eof()
                await reader.read()
            writer.close()

        return await self.serve(answer, tls)

    async def resets(self) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        return await self.serve(answer)

    async def node(self, name: str = "", *, authority: trustme.CA | None = None) -> int:
        """A node, over HTTPS if it has a name."""
        tls = certified(authority or self.authority, name) if name else None
        _, port = await self.stack.enter_async_context(running_devnode(Knobs(), tls=tls))
        return port


async def https_of_a_plain_node(world: World) -> str:
    return f"https://127.0.0.1:{await world.node()}"


async def plain_http_of_a_node_with_https(world: World) -> str:
    return f"http://127.0.0.1:{await world.node('127.0.0.1')}"


async def plain_http_of_nginx_with_https(world: World) -> str:
    page = b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>"
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)
    return f"http://127.0.0.1:{await world.says(head + page)}"


async def plain_http_that_leads_to_https(world: World) -> str:
    head = b"HTTP/1.1 301 Moved\r\nLocation: https://node.example/info\r\nContent-Length: 0\r\n\r\n"
    return f"http://127.0.0.1:{await world.says(head)}"


async def a_certificate_of_another_name(world: World) -> str:
    return f"https://127.0.0.1:{await world.node('other.example')}"


async def a_certificate_of_another_host(world: World) -> str:
    return f"https://localhost:{await world.node('other.example')}"


async def a_certificate_of_nobody(world: World) -> str:
    return f"https://127.0.0.1:{await world.node('127.0.0.1', authority=trustme.CA())}"


async def a_name_that_there_is_not(world: World) -> str:
    return "http://nothing.invalid:3000"


async def a_port_where_nobody_is(world: World) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


async def a_connection_that_is_reset(world: World) -> str:
    return f"http://127.0.0.1:{await world.resets()}"


async def something_that_is_no_http(world: World) -> str:
    return f"http://127.0.0.1:{await world.says(b'220 smtp.example ESMTP ready' + bytes(2))}"


async def an_answer_that_is_cut(world: World) -> str:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    return f"http://127.0.0.1:{await world.says(answer)}"


HTTPS = "; it seems to require HTTPS (https:// in front of its address)"


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (https_of_a_plain_node, "no connection (it does not speak HTTPS there)"),
        (plain_http_of_a_node_with_https, f"the connection was closed without an answer{HTTPS}"),
        (plain_http_of_nginx_with_https, f"HTTP status 400{HTTPS}"),
        (plain_http_that_leads_to_https, f"HTTP status 301{HTTPS}"),
        (
            a_certificate_of_another_name,
            "its certificate is for another name (IP address mismatch, certificate is not valid for '127.0.0.1')",
        ),
        (
            a_certificate_of_another_host,
            "its certificate is for another name (Hostname mismatch, certificate is not valid for 'localhost')",
        ),
        (a_certificate_of_nobody, "its certificate is not trusted (unable to get local issuer certificate)"),
        (a_name_that_there_is_not, "no connection (its name cannot be looked up: "),
        (a_port_where_nobody_is, "no connection (Connection refused)"),
        (a_connection_that_is_reset, "Connection reset by peer"),
        (something_that_is_no_http, f"the answer is not HTTP{HTTPS}"),
        (an_answer_that_is_cut, "the connection was closed in the middle of an answer"),
    ],
)
async def test_calls_and_the_doctor_say_what_is_wrong_with_an_address(
    trouble: Callable[[World], Awaitable[str]], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack, tmp_path)
        address = f"{await trouble(world)}/?token=hush-node"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        with pytest.raises(NodeUnreachable) as raised:
            await NodeClient(session, Trust(world.authorities)).info(parse_address(address))
        assert str(raised.value).startswith(reason)
        assert "hush" not in str(raised.value)
        monkeypatch.setenv("CLUSTERODM_NODE", address)
        monkeypatch.setenv("CLUSTERODM_NODES_CA", str(world.authorities))
        results = [each async for each in findings(None, tmp_path / "data") if each.what.startswith("node ")]
        assert [(each.verdict, each.text) for each in results] == [("error", str(raised.value))]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (https_of_a_plain_node, "it does not speak HTTPS there"),
        (a_certificate_of_another_name, "its certificate is for another name"),
        (a_certificate_of_nobody, "its certificate is not trusted"),
        (a_name_that_there_is_not, "its name cannot be looked up: "),
        (a_port_where_nobody_is, "Connection refused"),
        (a_connection_that_is_reset, "Connection reset by peer"),
        (something_that_is_no_http, "the answer is not HTTP"),
    ],
)
async def test_uploads_say_the_same(
    trouble: Callable[[World], Awaitable[str]], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack, tmp_path)
        (tmp_path / "a.jpg").write_bytes(b"photo")
        address: NodeAddress = parse_address(f"{await trouble(world)}/?token=hush-node")
        transfers = Transfers(Trust(world.authorities), RateLimit(0, Clock()), connections=1, most=1, urgent=True)
        stack.callback(transfers.close)
        transfer = transfers.to(address, "11111111-1111-4111-8111-111111111111")
        transfer.add(tmp_path / "a.jpg", 5)
        transfer.end()
        with pytest.raises(NodeUnreachable) as raised:
            await transfer.run()
        assert reason in str(raised.value)
        assert "hush" not in str(raised.value)


async def test_a_clock_that_goes_wrong_is_noticed_where_a_certificate_is_that_of_the_operators_own_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack, tmp_path)
        info = b'{"version":"2.2.4"}'
        head = b"HTTP/1.1 200 OK\r\nDate: Wed, 01 Jan 2020 00:00:00 GMT\r\nContent-Type: application/json\r\n"
        answer = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(info) + info
        port = await world.says(answer, certified(world.authority, "127.0.0.1"))
        monkeypatch.setenv("CLUSTERODM_NODE", f"https://127.0.0.1:{port}")
        monkeypatch.setenv("CLUSTERODM_NODES_CA", str(world.authorities))
        [result] = [each async for each in findings(None, tmp_path / "data") if each.what.startswith("node ")]
        assert result.verdict == "warning"
        assert "behind" in result.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "no answer in time"),
        (ssl.SSLError(1, "what"), "HTTPS failed: SSLError"),
        (OSError(), "OSError"),
        (OSError(-7, "odd"), "odd"),
        (socket.gaierror(), "its name cannot be looked up: no reason is known"),
        (aiohttp.InvalidURL("http://x/?token=hush"), "the address is no URL"),
        (ValueError("hush"), "ValueError"),
    ],
)
def test_whatever_comes_has_words(error: Exception, reason: str) -> None:
    assert reasons.describe(error) == reason
