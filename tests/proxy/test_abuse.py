# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Attacks on a raw socket, and what they are answered. docs/security.md has the same table for people."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from clusterodm.core.tasks import Phase
from tests.admin.support import start
from tests.processes import free_port
from tests.support import Rig, eventually, zipped

#: What a smuggled or hidden request would be answered.
INFO = b'"taskQueueCount"'
SMUGGLED = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Attack:
    """Bytes for the port of clients, and what may come back."""

    sent: bytes
    #: Status codes that are right; 0: the connection is closed without an answer.
    statuses: tuple[int, ...]
    #: How many answers there may be.
    answers: int = 1
    within: bytes = b""


def post(path: str, body: bytes, *headers: str, length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]).encode() + b"\r\n\r\n"


UUID = "00000000-0000-4000-8000-000000000000"
CHUNKED = "Transfer-Encoding: chunked"
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"

ATTACKS: dict[str, Attack] = {
    "smuggling: Content-Length and Transfer-Encoding": Attack(
        post("/task/new/init", b"0\r\n\r\n" + SMUGGLED, CHUNKED, "Content-Length: 4", length=False), (400,)
    ),
    "smuggling: Transfer-Encoding after Content-Length": Attack(
        post("/task/new/init", b"0\r\n\r\n" + SMUGGLED, "Content-Length: 4", CHUNKED, length=False), (400,)
    ),
    "smuggling: two Content-Lengths": Attack(
        post("/task/new/init", b"a=b" + SMUGGLED, "Content-Length: 3", "Content-Length: 40", length=False), (400,)
    ),
    "smuggling: a list of Content-Lengths": Attack(
        post("/task/new/init", b"a=b" + SMUGGLED, "Content-Length: 3, 40", length=False), (400,)
    ),
    "smuggling: a signed Content-Length": Attack(
        post("/task/new/init", b"a=b" + SMUGGLED, "Content-Length: +3", length=False), (400,)
    ),
    "smuggling: a negative Content-Length": Attack(
        post("/task/new/init", SMUGGLED, "Content-Length: -1", length=False), (400,)
    ),
    "smuggling: a space before the colon": Attack(
        post("/task/new/init", b"a=b" + SMUGGLED, "Content-Length : 3", length=False), (400,)
    ),
    "smuggling: an unknown Transfer-Encoding": Attack(
        post("/task/new/init", b"3\r\na=b\r\n0\r\n\r\n", "Transfer-Encoding: xchunked", length=False), (400,)
    ),
    "smuggling: chunked twice": Attack(
        post("/task/new/init", b"0\r\n\r\n" + SMUGGLED, "Transfer-Encoding: chunked, identity", length=False), (400,)
    ),
    "smuggling: a folded header": Attack(
        post("/task/new/init", b"0\r\n\r\n", "Transfer-Encoding:\r\n chunked", length=False), (400,)
    ),
    "smuggling: a chunk that is longer than it says": Attack(
        post("/task/new/init", b"1\r\naaaaaaaa\r\n0\r\n\r\n" + SMUGGLED, CHUNKED, length=False), (400, 408)
    ),
    "smuggling: a chunk size that is no number": Attack(
        post("/task/new/init", b"0x3\r\na=b\r\n0\r\n\r\n" + SMUGGLED, CHUNKED, length=False), (400, 408)
    ),
    "smuggling: a chunk size of 2^64": Attack(
        post("/task/new/init", b"10000000000000000\r\na", CHUNKED, length=False), (400, 408)
    ),
    "smuggling: a header that ends with a bare line feed": Attack(
        b"GET /info HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", (400,)
    ),
    "smuggling: a bare carriage return in a header": Attack(
        b"GET /info HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 40\r\n\r\n", (400,)
    ),
    "smuggling: a NUL in a header": Attack(b"GET /info HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", (400,)),
    "flood: a header line without end": Attack(get("/info", "X: " + "x" * 100_000), (400, 0)),
    "flood: ten thousand headers": Attack(get("/info", *(f"X-{n}: y" for n in range(10_000))), (400, 0)),
    "flood: a request line without end": Attack(get("/" + "x" * 100_000), (400, 0)),
    "flood: two thousand query parameters": Attack(get("/info?" + "a=b&" * 1_900), (200,)),
    "flood: fifteen hundred ranges": Attack(
        get(f"/task/{UUID}/download/all.zip", "Range: bytes=" + ",".join("0-1" for _ in range(1500))), (200,)
    ),
    "path: out of the task's folder": Attack(
        get(f"/task/{UUID}/download/../../../../etc/passwd"), (200, 404), within=b"error"
    ),
    "path: encoded dots and slashes": Attack(
        get(f"/task/{UUID}/download/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), (200,), within=b"not found"
    ),
    "path: encoded twice": Attack(
        get(f"/task/{UUID}/download/%252e%252e%252fetc%252fpasswd"), (200,), within=b"not found"
    ),
    "path: a NUL": Attack(get(f"/task/{UUID}%00/info"), (200,), within=b"not found"),
    "path: backslashes": Attack(get(f"/task/{UUID}/download/..\\..\\etc\\passwd"), (200, 400)),
    "path: two slashes": Attack(get("//etc/passwd"), (404,)),
    "path: dots in the page": Attack(get("/js/%2e%2e/%2e%2e/etc/passwd"), (404,)),
    "path: a whole URL of another host": Attack(get("http://evil.example/etc/passwd"), (404, 400)),
    "path: not ASCII": Attack(get("/task/").replace(b"/task/", b"/task/\xff\xfe"), (400, 404)),
    "method: CONNECT": Attack(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", (400, 404)),
    "method: TRACE": Attack(b"TRACE /info HTTP/1.1\r\nHost: x\r\nX-Secret: y\r\n\r\n", (404,)),
    "method: unknown": Attack(b"HACK /info HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    "protocol: HTTP/0.9": Attack(b"GET /info\r\n\r\n", (200, 400)),
    "protocol: a version that is none": Attack(b"GET /info HTTP/9.9\r\nHost: x\r\n\r\n", (400,)),
    "protocol: TLS on the plain port": Attack(bytes.fromhex("16030100c8010000c40303") + b"\x00" * 64, (400, 0)),
    "protocol: an upgrade": Attack(
        get("/info", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x"), (200,)
    ),
    "host: none at all": Attack(b"POST /task/new/init HTTP/1.0\r\nContent-Length: 0\r\n\r\n", (200,)),
    "host: that is no host": Attack(
        post("/task/new/init", b"").replace(b"Host: x", b"Host: x/../?a=@evil.example"), (200, 400), within=b"error"
    ),
    "JSON: giant": Attack(
        post("/task/new/init", b'{"name":"' + b"x" * (9 << 20) + b'"}', JSON), (200,), within=b"too large"
    ),
    "JSON: deep": Attack(post("/task/new/init", b"[" * 500_000, JSON), (200,), within=b"not valid JSON"),
    "JSON: deep options": Attack(post("/task/new/init", b"options=" + b"[" * 500_000, FORM), (200,), within=b"error"),
    "JSON: deep outputs": Attack(
        post("/task/new/init", b"outputs=" + b"[" * 500_000, FORM), (200,), within=b"Invalid outputs"
    ),
    "JSON: a number without end": Attack(
        post("/task/new/init", b'{"dateCreated":' + b"9" * 1_000_000 + b"}", JSON), (200,)
    ),
    "form: ten thousand fields": Attack(
        post("/task/new/init", b"&".join(b"f%d=x" % n for n in range(10_000)), FORM), (200,), within=b"error"
    ),
    "form: a boundary without end": Attack(
        post("/task/new/init", b"--x", "Content-Type: multipart/form-data; boundary=" + "b" * 7000),
        (200,),
        within=b"error",
    ),
    "decompression: a bomb as a body": Attack(
        post("/task/new/init", gzip.compress(b"name=" + b"x" * (50 << 20)), FORM, "Content-Encoding: gzip"),
        (200, 400),
        within=b"error",
    ),
    "header: a uuid that is a path": Attack(
        post("/task/new/init", b"", "set-uuid: ../../../../tmp/x"), (200,), within=b"Invalid set-uuid"
    ),
}


async def talk(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes, or has nothing more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(sent)
        await writer.drain()
        while part := await asyncio.wait_for(reader.read(1 << 16), 0.3 if answer else 20):
            answer += part
    except (ConnectionError, TimeoutError):
        pass  # closed in the middle of a flood: the answer may be lost on the way
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_answered_as_the_table_says(cluster: Rig, name: str) -> None:
    attack = ATTACKS[name]
    api = await cluster.start(upload_idle_timeout=0.5, connection_idle_timeout=1.0)
    answer = await talk(int(api.url.rpartition(":")[2]), attack.sent)
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
    assert status in attack.statuses, answer[:500]
    assert answer.count(b"HTTP/1.1 ") + answer.count(b"HTTP/1.0 ") <= attack.answers
    assert attack.within in answer
    assert b"root:" not in answer
    assert b"Traceback" not in answer
    if SMUGGLED in attack.sent:
        assert INFO not in answer
    assert "version" in await api.get("/info"), "others are served as before"


async def test_what_follows_a_large_body_is_no_request(cluster: Rig) -> None:
    api = await cluster.start(fast_paths="on")  # the web server's parser goes on after a body
    uuid = await api.init()
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    body = head + b"x" * (3 << 20) + b"\r\n--b--\r\n"
    sent = post(f"/task/new/upload/{uuid}", body, "Content-Type: multipart/form-data; boundary=b") + SMUGGLED
    answer = await talk(int(api.url.rpartition(":")[2]), sent)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"success":true' in answer
    assert INFO not in answer


NAMES = ["../../../etc/cron.d/x.jpg", "/etc/x.jpg", "..\\..\\x.jpg", "x\0.jpg", "\r\nx.jpg", "..", ".", "a" * 5000]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_a_file_stays_in_the_folder_of_its_task(cluster: Rig, name: str) -> None:
    api = await cluster.start()
    uuid = await api.init()
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="' + name.encode() + b'"\r\n\r\n'
    body = head + b"content\r\n--b--\r\n"
    sent = post(f"/task/new/upload/{uuid}", body, "Content-Type: multipart/form-data; boundary=b")
    assert b"HTTP/1.1 200" in await talk(int(api.url.rpartition(":")[2]), sent)
    spool = cluster.folder / "data" / "spool"
    paths = [path for path in cluster.folder.rglob("*") if path.is_file() and path.read_bytes() == b"content"]
    assert all(path.parent == spool / uuid or path.is_relative_to(spool / uuid) for path in paths)


def with_contents(size: int) -> bytes:
    """An archive that says that its table of contents has `size` bytes."""
    content = bytearray(zipped({"a.txt": b"a"}))
    struct.pack_into("<L", content, content.rfind(b"PK\x05\x06") + 12, size)
    return bytes(content)


SEEDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "unpacks to too much": (lambda: zipped({"a": b"\0" * 5_000_000}), "seed.zip holds too much"),
    "has too many files": (lambda: zipped({str(n): b"" for n in range(300)}), "seed.zip holds too much"),
    "has an endless table of contents": (lambda: with_contents(3 << 30), "seed.zip holds too much"),
    "is no archive": (lambda: b"PK no", "seed.zip is not a zip archive"),
}


@pytest.mark.parametrize("name", SEEDS)
async def test_a_seed_that_would_harm_a_node_is_not_sent_to_one(cluster: Rig, name: str) -> None:
    make, error = SEEDS[name]
    api = await cluster.start(zipurl_max_size=1_000_000, max_files=100)
    uuid = await api.init()
    await api.upload(uuid, seed__zip=make())
    assert await api.commit(uuid) == {"error": error, "noRetry": True}
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING
    await api.upload(uuid, a__jpg=b"a")


async def test_a_good_seed_is_taken(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    await api.upload(uuid, seed__zip=zipped({"opensfm/reconstruction.json": b"{}"}))
    assert await api.commit(uuid) == {"uuid": uuid}


async def test_nothing_that_is_sent_makes_another_line_in_the_log(cluster: Rig) -> None:
    log = cluster.folder / "log.jsonl"
    await cluster.add_node()
    api = await cluster.start(log_file=str(log), access_log="-")
    port = int(api.url.rpartition(":")[2])
    forged = '"}\n{"event": "forged"}'
    encoded = "".join(f"%{byte:02x}" for byte in forged.encode())
    await talk(port, get(f"/task/{encoded}/info", f"User-Agent: {encoded}", "X-Forwarded-For: 1.2.3.4"))
    await api.ends(await api.create(1, name=forged, webhook=f"http://x/{forged}"))

    def logged() -> Any:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return lines if any(line.get("path", "").startswith("/task/") for line in lines) else None

    lines = await eventually(logged)
    assert not [line for line in lines if line["event"] == "forged"]
    assert {line["remote"] for line in lines if "remote" in line} == {"127.0.0.1"}


async def test_names_do_not_reach_an_operators_terminal_as_they_are(cluster: Rig) -> None:
    await start(cluster, admin_cli_port=free_port())
    uuid = await cluster.api.init(name="\x1b[2Jcleared\r\nOK\u202eevil")
    assert cluster.entry(uuid).task.name == " [2Jcleared  OK evil"
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.shell_port)
    writer.write(b"NODE ADD \x1b[2Jhost 3000\r\nTASK \x07LIST\r\n")
    writer.write_eof()
    output = await reader.read()
    writer.close()
    assert b"\x1b" not in output
    assert b"\x07" not in output
