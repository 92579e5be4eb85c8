# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin shell over real sockets: what is typed, and what telnet adds to it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from clusterodm import __version__
from clusterodm.admin import verbs
from clusterodm.admin.operations.table import VERBS
from clusterodm.http import logins
from tests.admin.support import PASSWORD, start
from tests.needs import need
from tests.support import Rig, eventually


class Session:
    """One session, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def until(self, prompt: bytes = b"#> ") -> list[str]:
        """Everything up to the next prompt, as lines."""
        output = await asyncio.wait_for(self.reader.readuntil(prompt), 20)
        assert b"\n" not in output.replace(b"\r\n", b"")
        return output.removesuffix(prompt).decode().split("\r\n")[:-1]

    async def say(self, line: str, prompt: bytes = b"#> ") -> list[str]:
        """Type a line; the answer."""
        self.writer.write(line.encode() + b"\r\n")
        return await self.until(prompt)

    async def listed(self, line: str) -> list[str]:
        """Ask for a list, which ends with an empty line; what stands in it."""
        *lines, last = await self.say(line)
        assert last == ""
        return lines

    async def json(self, line: str) -> Any:
        """Ask for what is JSON; its value."""
        return json.loads("\n".join(await self.say(line)))


async def opened(rig: Rig) -> Session:
    """A session."""
    session = Session(*await asyncio.open_connection("127.0.0.1", rig.cluster.shell_port))
    rig.stack.callback(session.writer.close)
    return session


async def greeted(rig: Rig) -> Session:
    """A session after its greeting."""
    session = await opened(rig)
    assert (await session.until())[0].endswith(f" ClusterODM:{__version__}")
    return session


async def test_nodes_are_listed_added_locked_and_deleted_in_the_words_of_the_original(cluster: Rig) -> None:
    node = await cluster.add_node(slots=2, max_images=100)
    await start(cluster)
    await cluster.ready()
    session = await greeted(cluster)
    line = f"1) 127.0.0.1:{cluster.ports[0]} [online] [0/2] <engine: odm development> <API: 2.2.4>"
    assert await session.listed("NODE LIST") == [line]
    assert await session.say("node lock 1") == ["OK"]
    assert await session.listed("NODE LIST") == [f"{line} [L]"]
    none = f"No best node available: no acceptable node: 127.0.0.1:{cluster.ports[0]}"
    assert await session.say("NODE BEST 10") == [f"{none} is locked"]
    assert await session.say("Node Unlock 1") == ["OK"]
    assert await session.say("NODE BEST 10") == [line]
    assert await session.say("NODE BEST 101") == [f"{none} takes at most 100 images"]
    assert await session.say("NODE ADD other.example 3001 hush-token") == ["OK"]
    assert (await session.say("!!")) == ["OK"]
    assert [text.split(" [")[0] for text in await session.listed("NODE LIST")] == [
        f"1) 127.0.0.1:{cluster.ports[0]}",
        "2) other.example:3001",
    ]
    assert "hush" not in "".join(await session.say("NODE INFO 2"))
    assert await session.say("NODE ADD http://OTHER.example.:3001 hush-other") == ["OK"]
    assert [text.split(" [")[0] for text in await session.listed("NODE LIST")][1:] == ["2) other.example.:3001"]
    for words in ("https://third.example", "fourth.example:3002", "http://fifth.example 3003", "localhost:1"):
        assert await session.say(f"NODE ADD {words}") == ["OK"]
    assert [text.split(" [")[0] for text in await session.listed("NODE LIST")][2:] == [
        "3) third.example:443",
        "4) fourth.example:3002",
        "5) fifth.example:3003",
        "6) localhost:1",
    ]
    for _ in range(4):
        assert await session.say("NODE DEL 3") == ["OK"]
    assert await session.say("NODE DEL 2") == ["OK"]
    assert len(await session.listed("NODE LIST")) == 1
    assert await session.say("NODE UPDATE") == ["OK"]
    assert node.knobs.slots == 2


async def test_a_node_of_this_machine_is_one_however_it_is_written(cluster: Rig) -> None:
    await cluster.add_node()
    await start(cluster)
    port, session = cluster.ports[0], await greeted(cluster)
    spellings = (f"[::1] {port}", f"::1 {port}", f"[::ffff:127.0.0.1] {port}", f"0.0.0.0 {port}", f"[::]:{port}")
    for words in (*spellings, f"LOCALHOST. {port}", f"127.0.0.1 {port}"):
        assert await session.say(f"NODE ADD {words}") == ["OK"]
        assert len(await session.listed("NODE LIST")) == 1
    refused = f"FAIL: 127.0.0.2:{port} may be the same node as 127.0.0.1:{port}; remove that first"
    assert await session.say(f"NODE ADD 127.0.0.2 {port}") == [refused]
    assert await session.say(f"NODE ADD 127.0.0.2 {port + 1}") == ["OK"]
    assert await session.say(f"NODE ADD 127.0.0.2 {port + 1} hush-token") == ["OK"]
    assert len(await session.listed("NODE LIST")) == 2


async def test_tasks_are_listed_explained_prioritized_and_canceled(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    api, _ = await start(cluster)
    await cluster.ready()
    running, waiting = await api.create(name="first"), await api.create(name="second")
    await eventually(lambda: cluster.entry(running).task.phase == "running")
    await eventually(lambda: cluster.entry(waiting).wait)
    session = await greeted(cluster)
    name = f"127.0.0.1:{cluster.ports[0]}"
    listed = await session.json("TASK LIST")
    assert [(task["uuid"], task["phase"], task["node"]) for task in listed] == [
        (waiting, "queued", ""),
        (running, "running", name),
    ]
    assert [task["uuid"] for task in await session.json("TASK LIST 1")] == [running]
    assert await session.say(f"TASK WHY {waiting[:8]}") == [
        "waiting: all acceptable nodes are busy "
        "(position 1 of 1; priority 0; its owner used less than a node-minute lately "
        "and has 1 task running or ahead of it)"
    ]
    assert (await session.say(f"TASK WHY {running}"))[0].startswith(f"running on 127.0.0.1:{cluster.ports[0]}, ")
    assert await session.listed("QUEUE LIST") == [f"1) {waiting} 2 images, priority 0: all acceptable nodes are busy"]
    assert await session.say(f"TASK PRIORITY {waiting} 7") == ["OK"]
    assert cluster.entry(waiting).task.priority == 7
    assert any("priority set to 7" in line for line in await session.say(f"TASK TIMELINE {waiting}"))
    route = await session.json(f"ROUTE INFO {running}")
    assert route["node"] == {"hostname": "127.0.0.1", "port": cluster.ports[0], "locked": False}
    assert await session.json("ROUTE LIST") == await session.json("ROUTE LIST 1") == {running: route}
    assert await session.say(f"ROUTE INFO {waiting}") == ["INVALID: the task has no node yet"]
    assert (await session.json(f"TASK INFO {running}"))["name"] == "first"
    assert await session.json(f"TASK CANCEL {waiting}") == {"success": True}
    assert await api.code(waiting) == 50
    assert await session.say(f"TASK RETRY {waiting}") == [f"OK, {waiting} restarted"]
    assert await session.json(f"TASK REMOVE {waiting}") == {"success": True}
    assert await session.say(f"TASK INFO {waiting}") == [f"INVALID: {waiting} not found"]


async def test_uploads_are_listed_and_dropped(cluster: Rig) -> None:
    api, _ = await start(cluster)
    session = await greeted(cluster)
    assert await session.listed("UPLOAD LIST") == ["0 of 0"]
    uuid = await api.init(name="field")
    await api.upload(uuid, a__jpg=b"photo")
    listed = await session.listed("UPLOAD LIST")
    assert listed == [f"{uuid} [idle] idle for 0 s, 1 files, 5 bytes, local 'field'", "1 of 1"]
    assert await session.say(f"UPLOAD DROP {uuid[:8]}") == [f"OK, {uuid} dropped"]
    assert await session.listed("UPLOAD LIST 5") == ["0 of 0"]
    assert await session.say(f"UPLOAD DROP {uuid}") == [f"FAIL: {uuid} not found"]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("NODE FLY 1", "INVALID: unknown command NODE FLY; HELP lists all"),
        ("hello", "INVALID: unknown command HELLO; HELP lists all"),
        ("NODE LOCK", "INVALID: usage: NODE LOCK <number>"),
        ("NODE LOCK x", "INVALID: 'x' is not a number"),
        ("NODE LOCK 7", "FAIL: there is no node 7"),
        ("NODE ADD", "INVALID: usage: NODE ADD <host> <port> [token]"),
        ("NODE ADD host", "INVALID: usage: NODE ADD <host> <port> [token]"),
        ("NODE ADD http://host:3000 a b", "INVALID: usage: NODE ADD <host> <port> [token]"),
        (
            "NODE ADD http://host:3000/odm/",
            "FAIL: a node answers at the root of its port: leave out '/odm/' of its address",
        ),
        ("NODE ADD host 99999", "FAIL: a port is between 1 and 65535, not 99999"),
        ("NODE ADD ba?d 1", "FAIL: bad host name for a node: 'ba?d'"),
        ("NODE INFO 7", "INVALID: there is no node 7"),
        ("ROUTE LIST 7", "INVALID: there is no node 7"),
        ("TASK LIST 7", "INVALID: there is no node 7"),
        ("TASK WHY nothing-like-it", "INVALID: nothing-like-it not found"),
        ("TASK PRIORITY nothing-like-it 1", "INVALID: nothing-like-it not found"),
        ("TASK PRIORITY x", "INVALID: usage: TASK PRIORITY <task> <n>"),
        ("UPLOAD DROP", "INVALID: usage: UPLOAD DROP <upload>"),
        ("TASK LIST many", "INVALID: 'many' is not a number"),
        ("UPLOAD LIST many", "INVALID: 'many' is not a number"),
        ("ASR VIEWCMD 10", "FAIL: there is no autoscaler (--asr)"),
        ('NODE LOCK "1', "INVALID: '\"1' is not a number"),
    ],
)
async def test_impossible_orders_give_clear_errors(cluster: Rig, line: str, answer: str) -> None:
    await start(cluster)
    assert await (await greeted(cluster)).say(line) == [answer]


async def test_help_names_every_command(cluster: Rig) -> None:
    await start(cluster)
    lines = await (await greeted(cluster)).say("help")
    assert all(any(line.startswith(name) for line in lines) for name in VERBS)


async def test_split_and_joined_packets_and_what_telnet_says_to_itself_are_understood(cluster: Rig) -> None:
    await cluster.add_node()
    await start(cluster)
    await cluster.ready()
    session = await greeted(cluster)
    for piece in (
        b"\xff\xfd",
        b"\x03\xff\xfb\x18NO",
        b"DE LI\xff",
        b"\xf1ST\r",
        b"\0\nNODE LOCK 1\r\n\xff\xfa\x18\0x",
        b"\xff\xf0NODE UNLX\x7fOCK 1\n",
    ):
        session.writer.write(piece)
        await session.writer.drain()
        await asyncio.sleep(0.01)  # packets of their own
    assert (await session.until())[0].startswith("1) 127.0.0.1:")
    assert await session.until() == ["OK"]
    assert await session.until() == ["OK"]


async def test_a_line_without_end_closes_the_session_and_harms_no_other(cluster: Rig) -> None:
    await start(cluster)
    session, other = await greeted(cluster), await greeted(cluster)
    session.writer.write(b"x" * 100_000)
    assert await asyncio.wait_for(session.reader.read(), 20) == b""
    assert await other.listed("QUEUE LIST") == ["no queued tasks"]
    other.writer.write(b"quit\r\n")
    assert await asyncio.wait_for(other.reader.read(), 20) == b"Bye!\r\n"


async def test_the_lines_of_a_console_are_asked_for_by_number_as_in_the_original(cluster: Rig) -> None:
    await cluster.add_node()
    api, _ = await start(cluster)
    await cluster.ready()
    uuid = await api.create()
    await eventually(lambda: cluster.entry(uuid).task.phase == "finished")
    session = await greeted(cluster)
    lines = "\n".join(await api.get(f"/task/{uuid}/output")).split("\n")  # the last one ends with a newline
    assert len(lines) > 4
    assert await session.say(f"TASK OUTPUT {uuid}") == lines
    assert await session.say(f"TASK OUTPUT {uuid} 2") == lines[2:]
    assert await session.say(f"TASK OUTPUT {uuid} -2") == lines[-3:]
    assert await session.say(f"TASK OUTPUT {uuid} {len(lines)}") == [""]


@pytest.mark.parametrize("half_closed", [True, False])
async def test_a_command_without_the_end_of_its_line_is_carried_out(cluster: Rig, half_closed: bool) -> None:
    await start(cluster)
    session = await greeted(cluster)
    session.writer.write(b"NODE ADD somewhere 3000")
    if half_closed:  # as `nc -N` does; other versions of nc leave it open
        session.writer.write_eof()
    assert await session.until() == ["OK"]
    assert [str(node.address) for node in cluster.cluster.context.registry.nodes()] == ["somewhere:3000"]


async def test_who_types_key_by_key_is_not_cut_short(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterodm.admin.text._QUIET", 0.01)
    await start(cluster)
    session = await greeted(cluster)
    for key in b"HELP":
        session.writer.write(bytes([key]))
        await session.writer.drain()
        await asyncio.sleep(0.03)  # longer than a packet is waited after
    assert len(await session.say("")) == len(verbs.help_lines())


async def test_a_password_is_asked_for_and_a_wrong_one_costs_time_and_closes(cluster: Rig) -> None:
    await start(cluster, admin_pass=PASSWORD)
    session = await opened(cluster)
    assert (await session.until(b"$> "))[1:] == ["LOGIN <LOGIN> to log-in", "QUIT to quit"]
    assert await session.say(f"login {PASSWORD}") == ["OK", "HELP for help"]
    assert await session.listed("NODE LIST") == []
    wrong = await opened(cluster)
    await wrong.until(b"$> ")
    started_at = time.monotonic()
    wrong.writer.write(b"LOGIN hush-wrong\r\n")
    assert await asyncio.wait_for(wrong.reader.read(), 20) == b"FAIL\r\n"
    assert time.monotonic() - started_at > logins.DELAY - 0.05  # timers are that exact


@pytest.mark.parametrize(("line", "answer"), [("NODE LIST", b""), ("HELP", b""), ("QUIT", b"Bye!\r\n")])
async def test_a_command_before_the_login_closes_the_session(cluster: Rig, line: str, answer: bytes) -> None:
    await start(cluster, admin_pass=PASSWORD)
    session = await opened(cluster)
    await session.until(b"$> ")
    session.writer.write(f"{line}\r\nLOGIN {PASSWORD}\r\nNODE ADD somewhere 3000\r\n".encode())
    assert await asyncio.wait_for(session.reader.read(), 20) == answer
    assert cluster.cluster.context.registry.nodes() == []


@pytest.mark.parametrize("program", ["nc", "telnet"])
async def test_the_programs_that_people_use_work(cluster: Rig, program: str) -> None:
    need(program)
    await cluster.add_node()
    await start(cluster)
    await cluster.ready()
    running = await asyncio.create_subprocess_exec(
        program,
        "127.0.0.1",
        str(cluster.cluster.shell_port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    await asyncio.wait_for(running.stdout.readuntil(b"#> "), 20)
    running.stdin.write(b"NODE LIST\r\n")
    output = await asyncio.wait_for(running.stdout.readuntil(b"#> "), 20)
    assert b"1) 127.0.0.1:" in output
    running.stdin.write(b"QUIT\r\n")
    running.stdin.close()  # nc waits for that, although the other side is gone
    await asyncio.wait_for(running.wait(), 20)
