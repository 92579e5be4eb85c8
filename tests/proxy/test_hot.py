# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is answered before the web server sees it says the same as the web server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest

from clusterodm.auth import Grant
from clusterodm.http.connections import CONNECTIONS
from clusterodm.proxy import fastpath
from tests.support import FAST, Rig, eventually

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
COLD = b"X_Y: makes it a request for the web server\r\n"


def _request(target: str, headers: bytes = b"") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode() + headers + b"\r\n"


async def _ask(cluster: Rig, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0])
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = int(next(line for line in lines if line.startswith(b"content-length:")).partition(b":")[2])
    body = await reader.readexactly(length)
    writer.close()
    return head, body


@pytest.fixture
async def running(cluster: Rig) -> Rig:
    node = await cluster.add_node(seconds=60)
    await cluster.start(task_poll_interval=600, node_poll_interval=600)
    uuid = await cluster.api.create(uuid=UUID)
    await eventually(lambda: node.commits)
    await cluster.cluster.context.consoles.append(uuid, [f"line {number}" for number in range(300)])
    return cluster


@pytest.fixture
def fast_path_log(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request took the fast path."""
    if FAST["fast_paths"] == "off":
        pytest.skip("this run is without fast paths")
    log: list[bool] = []
    answer = fastpath.FastPath.answer

    def watched(self: fastpath.FastPath, request: bytes) -> tuple[bytes, bool] | None:
        response = answer(self, request)
        log.append(response is not None)
        return response

    monkeypatch.setattr(fastpath.FastPath, "answer", watched)
    return log


@pytest.mark.parametrize(
    "target",
    [
        "/info",
        "/info?token=ignored",
        "/options",
        f"/task/{UUID}/info",
        f"/task/{UUID}/info?token=x",
        f"/task/{UUID}/info?with_output=298",
        f"/task/{UUID}/info?with_output=-3&token=x",
        f"/task/{UUID}/output",
        f"/task/{UUID}/output?line=299",
        f"/task/{UUID}/output?line=1000",
        f"/task/{UUID}/output?line=-2",
    ],
)
async def test_both_ways_say_the_same(running: Rig, fast_path_log: list[bool], target: str) -> None:
    head, body = await _ask(running, _request(target))
    cold_head, cold_body = await _ask(running, _request(target, COLD))
    assert fast_path_log == [True, False]
    assert json.loads(body) == json.loads(cold_body)
    prefixes = (b"HTTP/1.1 200", b"content-type", b"content-length", b"date")
    for each in prefixes:
        mine = [line for line in head.split(b"\r\n") if line.lower().startswith(each.lower())]
        theirs = [line for line in cold_head.split(b"\r\n") if line.lower().startswith(each.lower())]
        assert len(mine) == len(theirs) == 1
        if each != b"date":
            assert mine[0].lower() == theirs[0].lower()


@pytest.mark.parametrize(
    "request_",
    [
        _request(f"/task/{UUID}/info", b"Content-Length: 5\r\n"),
        _request(f"/task/{UUID}/info", b"Transfer-Encoding: chunked\r\n"),
        _request("/info", b"Transfer-Encoding : chunked\r\n"),
        _request("/info", b" folded: x\r\n"),
        _request("/info", b"Origin: http://page.example\r\n"),
        _request("/info", b"Authorization: Bearer x\r\n"),
        _request("/info", b"Connection: Upgrade\r\n"),
        _request("/info", b"Expect: 100-continue\r\n"),
        b"GET /info HTTP/1.1\nHost: x\n\n",
        b"GET /info HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\n",
        b"GET /info HTTP/1.0\r\nHost: x\r\n\r\n",
        b"HEAD /info HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\n\r\n",
        _request("/info") + _request("/info"),
        _request("/info")[:-1],
        _request("/info?token=%41"),
        _request("/info?other=1"),
        _request("/info?token=a&token=b"),
        _request(f"/task/{UUID}/info?with_output=1&with_output=2"),
        _request(f"/task/{UUID}/info?with_output=1.5"),
        _request(f"/task/{UUID}/info?with_output"),
        _request(f"/task/{UUID}/output?line=1&line=2&x=3"),
        _request(f"/task/{UUID.upper()}/info"),
        _request("/task/ffffffff-ffff-4fff-8fff-ffffffffffff/info"),
        _request("/task/list"),
        _request("/info", b"X: " + b"x" * 9000 + b"\r\n"),
    ],
)
async def test_everything_unusual_is_left_to_the_web_server(
    running: Rig, fast_path_log: list[bool], request_: bytes
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", running.cluster.ports[0])
    writer.write(request_)
    await eventually(lambda: fast_path_log)
    assert fast_path_log == [False]
    writer.close()


async def test_a_connection_that_asked_something_else_stays_with_the_web_server(
    running: Rig, fast_path_log: list[bool]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.cluster.ports[0])
    for target in ("/info", f"/task/{UUID}/info", "/task/list", "/info"):
        writer.write(_request(target))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
    assert fast_path_log == [True, True, False]
    writer.close()


async def test_a_client_that_wants_it_is_hung_up_on(running: Rig, fast_path_log: list[bool]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.cluster.ports[0])
    writer.write(_request("/info", b"Connection: close\r\n"))
    answer = await reader.read()
    assert b"\r\nConnection: close\r\n" in answer
    assert fast_path_log == [True]
    writer.close()


async def test_nothing_is_kept_of_connections_that_were_closed(running: Rig, fast_path_log: list[bool]) -> None:
    for _ in range(3):
        await _ask(running, _request("/info", b"Connection: close\r\n"))
        await _ask(running, _request("/info"))
    assert fast_path_log == [True] * 6
    await eventually(lambda: not running.cluster.app[CONNECTIONS]._waiting)


async def test_a_request_in_pieces_is_answered_too(running: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.cluster.ports[0])
    for piece in (b"GET /in", b"fo HTTP/1.1\r\nHost: x\r\nConn", b"ection: close\r\n\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    assert b'"taskQueueCount"' in await reader.read()
    writer.close()


async def test_a_task_of_another_owner_does_not_exist(cluster: Rig, tmp_path: Path, fast_path_log: list[bool]) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text('[alice]\ntoken = "hush-alice"\n[bob]\ntoken = "hush-bobby"\n')
    await cluster.add_node()
    await cluster.start(cloud_provider="tokens", tokens_file=path, token="")
    cluster.api.query = {"token": "hush-alice"}
    uuid = await cluster.api.create()
    await cluster.api.ends(uuid)
    target = f"/task/{uuid}/info?token="
    fast_path_log.clear()
    assert b'"imagesCount":2' in (await _ask(cluster, _request(target + "hush-alice")))[1]
    assert b"not found" in (await _ask(cluster, _request(target + "hush-bobby")))[1]
    head, _ = await _ask(cluster, _request(target + "hush-wrong"))
    assert head.startswith(b"HTTP/1.1 401")
    assert fast_path_log == [True, False, False]


async def test_a_client_that_does_not_take_its_answers_is_not_asked_on(running: Rig, fast_path_log: list[bool]) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", running.cluster.ports[0], limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    request_ = _request("/options")

    async def ask() -> None:
        while True:
            writer.write(request_)
            await writer.drain()
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask())  # noqa: TID251 - canceled below
    count = -1
    while count != len(fast_path_log):  # until no more is read from it
        count = len(fast_path_log)
        await asyncio.sleep(0.3)
    asking.cancel()
    waiting = running.cluster.app[CONNECTIONS]._waiting
    assert sum(each.get_write_buffer_size() for each in waiting) < 1_000_000
    writer.transport.abort()


async def test_silent_connections_are_closed_and_at_the_end_all_are(cluster: Rig) -> None:
    await cluster.start(connection_idle_timeout=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0])
    writer.write(_request("/info"))
    await reader.readuntil(b"\r\n\r\n")
    with suppress(ConnectionError):
        assert b'"engine"' in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.ports[0])
    writer.write(_request("/info"))
    await reader.readuntil(b"\r\n\r\n")
    await cluster.stop()
    assert b'"engine"' in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_a_grant_is_given_at_once_only_where_nobody_has_to_be_asked(cluster: Rig) -> None:
    await cluster.start(token="hush-token")
    authenticator = cluster.cluster.context.authenticator
    assert isinstance(authenticator.cached("hush-token"), Grant)
    assert authenticator.cached("hush-wrong") is None
    assert authenticator.cached("") is None
