# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uploads to a node over its worst sockets: what is sent again, what is not, and what counts as there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clusterodm.aio import Clock
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import FilesLost, NodeForgot, NodeRefused, NodeUnreachable
from clusterodm.core.nodes import make_address
from clusterodm.nodeodm import RateLimit, Transfer, Transfers, Trust, backlog
from tests.support import eventually

MB = 1 << 20
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"success":true}'
FAULT = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 21\r\n\r\nInternal Server Error"


class Request:
    """One upload as it comes in over a connection."""

    def __init__(self, number: int, length: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.length = length
        self.reader = reader
        self.writer = writer

    async def body(self) -> bytes:
        """All of it."""
        return await self.reader.readexactly(self.length)

    def answer(self, content: bytes) -> None:
        """Say something."""
        self.writer.write(content)

    def hang_up(self) -> None:
        """Close the connection, with what came unread on it: the other side gets a reset."""
        self.writer.close()


Behave = Callable[[Request], Awaitable[None]]


@asynccontextmanager
async def server(behave: Behave) -> AsyncIterator[int]:
    """A server that behaves so at each upload; its port."""
    count = 0
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        serving.add(asyncio.current_task())
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                match = re.search(rb"Content-Length: (\d+)", head)
                assert match is not None
                count += 1
                await behave(Request(count, int(match[1]), reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        tasks = [task for task in serving if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks) if tasks else None


@asynccontextmanager
async def transfers(*, connections: int = 1) -> AsyncIterator[Transfers]:
    """Makes transfers."""
    senders = Transfers(Trust(), RateLimit(0, Clock()), connections=connections, most=1, urgent=True)
    yield senders
    senders.close()


def _file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(b"x" * size)
    return path


async def _send(port: int, *files: Path, connections: int = 1) -> Transfer:
    async with transfers(connections=connections) as senders:
        transfer = senders.to(make_address("127.0.0.1", port), "some-uuid")
        for file in files:
            transfer.add(file, file.stat().st_size)
        transfer.end()
        await transfer.run()
        return transfer


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(backlog, "PAUSES", Backoff(first=0.001, longest=0.01))


@pytest.mark.parametrize("how", ["a 500", "a page that is no node's", "a closed connection", "a reset"])
async def test_an_upload_that_fails_with_it_is_sent_again_until_the_node_takes_it(tmp_path: Path, how: str) -> None:
    bodies: list[bytes] = []

    async def behave(request: Request) -> None:
        if request.number <= 5 and how == "a reset":
            request.hang_up()
            return
        bodies.append(await request.body())
        if request.number > 5:
            request.answer(OK)
        elif how == "a closed connection":
            request.hang_up()
        else:
            request.answer(FAULT if how == "a 500" else b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

    async with server(behave) as port:
        transfer = await _send(port, _file(tmp_path, "a.jpg", 1000))
    assert b"x" * 1000 in bodies[-1]
    assert b'name="images"; filename="a.jpg"' in bodies[-1]
    assert (transfer.arrived_files, transfer.arrived_bytes) == (1, 1000)


async def test_a_node_that_takes_nothing_is_given_up_after_five_retries(tmp_path: Path) -> None:
    numbers: list[int] = []

    async def behave(request: Request) -> None:
        await request.body()
        numbers.append(request.number)
        request.answer(FAULT)

    async with server(behave) as port:
        with pytest.raises(NodeUnreachable, match=r"an upload failed 6 times \(HTTP status 500\)"):
            await _send(port, _file(tmp_path, "a.jpg", 10))
    assert len(numbers) == 6


async def test_a_node_that_takes_other_tasks_meanwhile_is_tried_more_often_but_not_without_limit(
    tmp_path: Path,
) -> None:
    refused = 0

    async def behave(request: Request) -> None:
        nonlocal refused
        poison = b"poison.jpg" in await request.body()
        refused += poison
        request.answer(FAULT if poison else OK)

    files = [_file(tmp_path, f"{number}.jpg", 5 * MB) for number in range(backlog.MAX_RETRIES + 10)]
    async with server(behave) as port:
        with pytest.raises(NodeUnreachable):
            await _send(port, _file(tmp_path, "poison.jpg", 10), *files)
    assert backlog.RETRIES + 1 <= refused <= backlog.MAX_RETRIES + 1


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 6\r\n\r\n<html>", NodeRefused, "HTTP status 413"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", NodeRefused, "token missing or rejected"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"error":"ENOSP"}', NodeRefused, "ENOSP"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"error":"not found"}', NodeForgot, "not found"),
    ],
)
async def test_a_refusal_is_never_sent_again(tmp_path: Path, answer: bytes, error: type[Exception], text: str) -> None:
    numbers: list[int] = []

    async def behave(request: Request) -> None:
        await request.body()
        numbers.append(request.number)
        request.answer(answer)

    async with server(behave) as port:
        with pytest.raises(error, match=text):
            await _send(port, _file(tmp_path, "a.jpg", 10))
    assert numbers == [1]


@pytest.mark.parametrize("size", [100, 40 * MB])
async def test_an_answer_that_comes_before_the_body_was_read_is_heard(tmp_path: Path, size: int) -> None:
    async def behave(request: Request) -> None:
        if request.number == 1:
            request.answer(FAULT)
            await asyncio.sleep(0.05)
            request.hang_up()
        elif request.number == 2:
            request.answer(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await asyncio.Event().wait()  # it neither reads nor closes

    async with server(behave) as port:
        with pytest.raises(NodeRefused, match="413"):
            await _send(port, _file(tmp_path, "a.jpg", size))


async def test_small_files_share_a_request_and_large_ones_do_not(tmp_path: Path) -> None:
    requests: list[list[bytes]] = []

    async def behave(request: Request) -> None:
        body = await request.body()
        requests.append(re.findall(rb'filename="([^"]+)"', body))
        request.answer(OK)

    small = [_file(tmp_path, f"small{number}.jpg", 1000) for number in range(100)]
    large = [_file(tmp_path, f"large{number}.jpg", 3 * MB) for number in range(3)]
    async with server(behave) as port:
        transfer = await _send(port, *small, *large)
    assert [len(names) for names in requests] == [32, 32, 32, 5, 1, 1]
    assert sorted(name for names in requests for name in names) == sorted(
        path.name.encode() for path in [*small, *large]
    )
    assert transfer.arrived_files == 103


async def test_a_few_small_files_go_side_by_side(tmp_path: Path) -> None:
    inside = asyncio.Barrier(4)

    async def behave(request: Request) -> None:
        await request.body()
        await inside.wait()  # all four are here at the same time
        request.answer(OK)

    async with server(behave) as port:
        await _send(port, *(_file(tmp_path, f"{number}.jpg", 10) for number in range(4)), connections=4)


async def test_only_what_a_node_confirmed_counts_as_there_whatever_the_kernel_has_taken(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def behave(request: Request) -> None:
        if request.number == 1:
            await request.body()
            request.answer(OK)
        else:
            await stop.wait()
            await request.body()
            request.answer(OK)

    async with server(behave) as port, transfers() as senders:
        transfer = senders.to(make_address("127.0.0.1", port), "some-uuid")
        for name in ("a.jpg", "b.jpg"):
            transfer.add(_file(tmp_path, name, 5 * MB), 5 * MB)
        transfer.end()
        async with asyncio.TaskGroup() as group:
            group.create_task(transfer.run())
            await eventually(lambda: transfer.sent_bytes > 5 * MB)
            assert (transfer.arrived_files, transfer.arrived_bytes) == (1, 5 * MB)
            assert 0 <= transfer.under_way <= transfer.sent_bytes - 5 * MB
            stop.set()
        assert (transfer.arrived_bytes, transfer.under_way) == (10 * MB, 0)


async def test_a_file_that_is_not_as_long_as_it_was_is_no_fault_of_the_node(tmp_path: Path) -> None:
    async def behave(request: Request) -> None:
        raise AssertionError("nothing is sent")

    async with server(behave) as port, transfers() as senders:
        for damage, text in ((lambda path: path.write_bytes(b"x"), "1 of 10 bytes"), (Path.unlink, "missing")):
            transfer = senders.to(make_address("127.0.0.1", port), "some-uuid")
            path = _file(tmp_path, "a.jpg", 10)
            transfer.add(path, 10)
            transfer.end()
            damage(path)
            with pytest.raises(FilesLost, match=text):
                await transfer.run()
