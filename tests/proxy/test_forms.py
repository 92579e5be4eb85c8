# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forms as people's programs write them: names of files in every notation, and headers that nobody should send."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterodm.http.disposition import field_and_file
from tests.needs import NEEDS, find, need
from tests.support import Api, Rig

NAMES: list[tuple[bytes, str | None]] = [
    (b'filename="plain.jpg"', "plain.jpg"),
    (b"filename=bare.jpg", "bare.jpg"),
    (b"filename=with space.jpg ; x=y", "with space.jpg"),
    (b'FileName = "case.jpg"', "case.jpg"),
    (b'filename="half', "half"),
    (b'filename="a;b=c.jpg"', "a;b=c.jpg"),
    (b'filename=""', None),
    (b"", None),
    ('filename="ü.jpg"'.encode(), "ü.jpg"),
    ('filename="ü.jpg"'.encode("latin-1"), "ü.jpg"),
    (b'filename="\x80\x81.jpg"', "__.jpg"),
    (b'filename="quo%22te.jpg"', 'quo"te.jpg'),
    (b'filename="quo\\"te.jpg"', 'quo"te.jpg'),
    (b'filename="100%.jpg"', "100%.jpg"),
    (b'filename="C:\\photos\\new\\a.jpg"', "a.jpg"),
    (b'filename="C:\\\\photos\\\\a.jpg"', "a.jpg"),
    (b'filename="\\\\server\\share\\a.jpg"', "a.jpg"),
    (b'filename="a/b.jpg"', "b.jpg"),
    (b'filename="../x.jpg"', "x.jpg"),
    (b'filename="dir/"', "dir"),
    (b"filename*=UTF-8''%e2%82%ac%20rate.jpg", "€ rate.jpg"),
    (b"filename*=utf-8'en'%C3%BC.jpg", "ü.jpg"),
    (b"filename*=ISO-8859-1''%fc.jpg", "ü.jpg"),
    (b"filename*=utf-8''%fc.jpg", "ü.jpg"),
    (b"filename*=klingon''%C3%BC.jpg", "ü.jpg"),
    (b"filename*=\"UTF-8''%C3%BC.jpg\"", "ü.jpg"),
    (b"filename*=%C3%BC.jpg", "ü.jpg"),
    (b"filename=\"u.jpg\"; filename*=UTF-8''%C3%BC.jpg", "ü.jpg"),
    (b"filename*=UTF-8''%C3%BC.jpg; filename=\"u.jpg\"", "ü.jpg"),
    (b"filename*=UTF-8''..%2Fa.jpg", "a.jpg"),
    (b'filename*0="very long "; filename*1="name.jpg"', "very long name.jpg"),
    (b"filename*0*=UTF-8''%C3; filename*1*=%BC; filename*2=\"%.jpg\"", "ü%.jpg"),
    (b'filename="=?utf-8?B?w7wuanBn?="', "ü.jpg"),
    (b'filename="=?UTF-8?Q?=C3=BC_1.jpg?="', "ü 1.jpg"),
    (b'filename="=?iso-8859-1?q?=fc?= =?utf-8?b?LmpwZw?="', "ü.jpg"),
    (b'filename="=?utf-8?B?!!?="', "=?utf-8?B?!!?="),
    (b'filename="x =?utf-8?B?w7w=?="', "x =?utf-8?B?w7w=?="),
]


async def upload(api: Api, uuid: str, header: bytes, *, extra: bytes = b"") -> Any:
    body = b"--b\r\n" + header + b"\r\n" + extra + b"\r\nDATA\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return await api.post(f"/task/new/upload/{uuid}", body, headers=headers)


async def held(rig: Rig, uuid: str) -> list[str]:
    return [file.name for file in await rig.cluster.context.spool.listing(uuid)]


async def test_names_are_taken_in_every_notation(cluster: Rig) -> None:
    api = await cluster.start()
    for written, stored_name in NAMES:
        uuid = await api.init()
        answer = await upload(api, uuid, b'Content-Disposition: form-data; name="images"; ' + written)
        if stored_name is None:
            assert answer == {"error": "Need at least 1 file.", "noRetry": True}, written
        else:
            assert answer == {"success": True}, written
            assert await held(cluster, uuid) == [stored_name], written


async def test_parts_that_are_no_form_fields_go_by(cluster: Rig) -> None:
    api = await cluster.start()
    for header in (
        b"X-Other: y",
        b'Content-Disposition: attachment; filename="a.jpg"',
        b"Content-Disposition: form-data",
    ):
        uuid = await api.init()
        assert "Need at least 1 file." in (await upload(api, uuid, header))["error"]


async def test_a_part_may_have_many_headers_and_its_length(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    extra = b"Content-Length: 4\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(20))
    head = b'Content-Disposition: form-data; name="images"; filename="a.jpg"'
    assert await upload(api, uuid, head, extra=extra) == {"success": True}
    assert await held(cluster, uuid) == ["a.jpg"]


async def test_a_second_file_of_one_base_name_gets_an_underscore(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    data = aiohttp.FormData(quote_fields=False)
    for name, content in (("day1/a.jpg", b"1"), ("day2\\a.jpg", b"2"), ("a.jpg", b"1"), ("x/geo.txt", b"g")):
        data.add_field("images", io.BytesIO(content), filename=name)
    assert await api.post(f"/task/new/upload/{uuid}", data) == {"success": True}
    assert await held(cluster, uuid) == ["a.jpg", "a_.jpg", "geo.txt"]


async def test_a_boundary_of_odd_bytes_is_an_answer_in_the_form_of_the_api(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    host, port = api.url.removeprefix("http://").split(":")
    for boundary in (b"\xfc\xff", b'"a b"', b"", b'"'):
        reader, writer = await asyncio.open_connection(host, int(port))
        name = boundary.strip(b'"')
        body = (
            b"--"
            + name
            + b'\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nx\r\n--'
            + name
            + b"--\r\n"
        )
        head = (
            f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        )
        writer.write(head.encode() + b"Content-Type: multipart/form-data; boundary=" + boundary + b"\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        status, _, content = answer.partition(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 400"):
            assert json.loads(content).keys() <= {"error", "success", "noRetry"}, boundary
            assert b"went wrong" not in content


HEADER = st.one_of(
    st.binary(max_size=60).map(lambda text: b'Content-Disposition: form-data; name="images"; filename' + text),
    st.text("*=;\"'\\ %0Cfilename?UTF-8bq\u00fc", max_size=60).map(
        lambda text: b'Content-Disposition: form-data; name="images"; filename' + text.encode()
    ),
    st.binary(max_size=60).map(lambda text: b"Content-Disposition: form-data" + text),
    st.binary(max_size=60),
)


async def test_whatever_the_headers_of_a_part_are_the_answer_is_one_of_the_api(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    headers: list[bytes] = []

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HEADER)
    def collect(header: bytes) -> None:
        headers.append(header)

    collect()
    for header in headers:
        answer = await upload(api, uuid, header)
        assert answer == {"success": True} or "error" in answer, header
        text = answer.get("error", "")
        assert not any(word in text for word in ("went wrong", "Error(", "codec", "object has")), (header, text)


@given(st.one_of(st.text(), st.binary().map(lambda content: content.decode("latin-1"))))
def test_no_header_makes_the_reading_of_names_fail(text: str) -> None:
    for header in (text, f'form-data; name="images"; filename{text}', f'form-data; filename="{text}'):
        name, file = field_and_file(header)
        assert name is None or isinstance(name, str)
        assert file is None or isinstance(file, str)


# Real clients

NASTY = ["plain.jpg", "ümläut €.jpg", 'quo"te.jpg', "a;b.jpg", "日本.jpg", "emoji 🚁.jpg", "per%20cent.jpg"]


def photos(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    files = {name: name.encode() for name in NASTY}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"error" not in output, output.decode()


async def received(cluster: Rig, uuid: str) -> dict[str, bytes]:
    spool = cluster.cluster.context.spool
    return {name: spool.path(uuid, name).read_bytes() for name in await held(cluster, uuid)}


REQUESTS = """
import os, sys, requests
folder, url = sys.argv[1:]
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), "rb") as file:
        print(requests.post(url, files=[("images", (name, file, "image/jpeg"))]).text)
"""
#: As urllib3 did it before its version 2, and as PyODM's own encoder may.
RFC2231 = """
import os, sys, urllib3
from urllib3 import fields, filepost
folder, url = sys.argv[1:]
def header(name, value):
    return fields.format_header_param_rfc2231(name, value)
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), "rb") as file:
        field = fields.RequestField("images", file.read(), name, header_formatter=header)
    field.make_multipart(content_type="image/jpeg")
    body, kind = filepost.encode_multipart_formdata([field])
    print(urllib3.request("POST", url, body=body, headers={"Content-Type": kind}).data.decode())
"""
AIOHTTP = """
import aiohttp, asyncio, os, sys
folder, url = sys.argv[1:]
async def main():
    async with aiohttp.ClientSession() as session:
        for name in sorted(os.listdir(folder)):
            data = aiohttp.FormData(quote_fields=False)
            data.add_field("images", open(os.path.join(folder, name), "rb"), filename=name)
            async with session.post(url, data=data) as answer:
                print(await answer.text())
asyncio.run(main())
"""


@pytest.mark.parametrize("client", ["requests", "rfc2231", "aiohttp"])
async def test_python_clients_have_their_names_kept(cluster: Rig, client: str, tmp_path: Path) -> None:
    api = await cluster.start()
    uuid = await api.init()
    files = await asyncio.to_thread(photos, tmp_path / "photos")
    script = {"requests": REQUESTS, "rfc2231": RFC2231, "aiohttp": AIOHTTP}[client]
    await run(
        sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "photos"), f"{api.url}/task/new/upload/{uuid}"
    )
    assert await received(cluster, uuid) == files


async def test_curl_has_its_names_kept(cluster: Rig, tmp_path: Path) -> None:
    need("curl")
    api = await cluster.start()
    uuid = await api.init()
    files = await asyncio.to_thread(photos, tmp_path / "photos")
    for name in files:
        quoted = str(tmp_path / "photos" / name).replace("\\", "\\\\").replace('"', '\\"')
        await run("curl", "-sS", "-F", f'images=@"{quoted}"', f"{api.url}/task/new/upload/{uuid}")
    assert await received(cluster, uuid) == files


NODE = """
const fs = require("fs"), path = require("path"), [folder, url] = process.argv.slice(1);
(async () => {
    for (const name of fs.readdirSync(folder)) {
        const form = new FormData();
        form.append("images", new Blob([fs.readFileSync(path.join(folder, name))]), name);
        console.log(await (await fetch(url, { method: "POST", body: form })).text());
    }
})();
"""


async def test_a_browsers_form_has_its_names_kept(cluster: Rig, tmp_path: Path) -> None:
    if find("node") is None:
        pytest.skip(f"{NEEDS}Node.js, whose forms are those of browsers (its package may be old: 18 or newer)")
    api = await cluster.start()
    uuid = await api.init()
    files = await asyncio.to_thread(photos, tmp_path / "photos")
    await run("node", "-e", NODE, str(tmp_path / "photos"), f"{api.url}/task/new/upload/{uuid}")
    assert await received(cluster, uuid) == files


async def test_fields_in_an_old_character_set_are_no_reason_to_fail(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init(name="x")
    body = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nM\xfchle\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b", "set-uuid": uuid}
    assert await api.post("/task/new/init", body, headers=headers) == {"uuid": uuid}
    assert cluster.entry(uuid).task.name.startswith("M")
