# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Taking tasks in: every way in which clients send them, and every way in which that goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
import os
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusterodm.core.tasks import Phase
from tests.support import Api, Rig, eventually, form, images, zipped

V7 = "01890a5d-ac96-774b-bcce-b302099a8057"


async def held(rig: Rig, uuid: str) -> dict[str, bytes]:
    spool = rig.cluster.context.spool
    return {file.name: spool.path(uuid, file.name).read_bytes() for file in await spool.listing(uuid)}


async def raw_request(url: str, text: bytes, *, close: bool = False) -> bytes:
    """Send bytes as they are, maybe hang up, and give back all that is answered."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    await writer.drain()
    if close:
        writer.close()
        return b""
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def multipart(name: str, content: bytes, *, boundary: str = "b", end: bool = True) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    return head + content + (f"\r\n--{boundary}--\r\n".encode() if end else b"")


@pytest.mark.parametrize("body", ["multipart", "urlencoded", "json", "none"])
async def test_init_reads_every_form_of_body(cluster: Rig, body: str) -> None:
    api = await cluster.start()
    fields = {"name": "n", "options": '[{"name":"dsm","value":"true"}]', "dateCreated": "1700000000000"}
    forms: dict[str, dict[str, Any]] = {
        "multipart": {"data": form(fields)},
        "urlencoded": {"data": fields},
        "json": {"json": fields | {"options": [{"name": "dsm", "value": True}], "dateCreated": 1700000000000}},
        "none": {},
    }
    uuid = (await api.post("/task/new/init", **forms[body]))["uuid"]
    task = cluster.entry(uuid).task
    if body == "none":
        assert task.name.startswith("Task of ")
    else:
        assert (task.name, task.options, task.date_created) == ("n", [{"name": "dsm", "value": True}], 1700000000000)


async def test_set_uuid_is_used_and_repeating_it_before_the_commit_is_harmless(cluster: Rig) -> None:
    api = await cluster.start()
    assert await api.init(uuid=V7, name="a") == V7
    assert await api.init(uuid=V7.upper(), name="b") == V7
    assert cluster.entry(V7).task.name == "b"
    await api.upload(V7, a__jpg=b"a")
    await api.commit(V7)
    assert await api.post("/task/new/init", headers={"set-uuid": V7}) == {"error": f"Invalid set-uuid: {V7}"}
    assert await api.post("/task/new/init", headers={"set-uuid": "abc"}) == {"error": "Invalid set-uuid: abc"}


async def test_the_same_file_counts_once_and_another_of_its_name_gets_an_underscore(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    for content in (b"one", b"one", b"two", b"two", b"one"):
        assert await api.upload(uuid, a__jpg=content) == {"success": True}
    assert await held(cluster, uuid) == {"a.jpg": b"one", "a_.jpg": b"two"}


async def test_the_same_file_sent_many_times_at_once_counts_once(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    await asyncio.gather(*(api.upload(uuid, a__jpg=b"x" * 100_000) for _ in range(20)))
    assert await held(cluster, uuid) == {"a.jpg": b"x" * 100_000}


async def test_hostile_names_become_plain_files(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    await api.post(
        f"/task/new/upload/{uuid}", images({"../../evil.jpg": b"1", "body.json": b"2", "x" * 300 + ".jpg": b"3"})
    )
    names = set(await held(cluster, uuid))
    assert {"evil.jpg", "_body.json"} <= names
    assert len(names) == 3


async def test_uploads_that_name_no_file_or_no_task_are_told_so(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    path = f"/task/new/upload/{uuid}"
    assert await api.post(path, form({"a": "b"})) == {"error": "Need at least 1 file.", "noRetry": True}
    assert await api.post(path) == {"error": "Need at least 1 file.", "noRetry": True}
    unknown = {"error": "Invalid uuid (not found)"}
    assert await api.upload("00000000-0000-4000-8000-000000000000", a=b"") == unknown
    assert await api.upload("..%2f..", a=b"") == unknown
    assert await api.commit("00000000-0000-4000-8000-000000000000") == unknown
    assert await api.commit(uuid) == {"error": "Need at least 1 file."}
    await api.upload(uuid, a__jpg=b"a")
    assert await api.commit(uuid) == {"uuid": uuid}


async def test_a_repeated_commit_answers_the_same_and_starts_nothing_twice(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.init()
    await api.upload(uuid, a__jpg=b"a")
    answers = await asyncio.gather(*(api.commit(uuid) for _ in range(10)))
    assert answers == [{"uuid": uuid}] * 10
    await api.ends(uuid)
    assert await api.commit(uuid) == {"uuid": uuid}
    assert await api.upload(uuid, b__jpg=b"late") == {"error": "Invalid uuid (not found)"}
    assert node.commits == [uuid]


async def test_chunked_bodies_without_a_length_are_read(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    body = multipart("a.jpg", b"y" * 70_000)

    async def pieces() -> Any:
        for start in range(0, len(body), 999):
            yield body[start : start + 999]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert await api.post(f"/task/new/upload/{uuid}", pieces(), headers=headers) == {"success": True}
    assert await held(cluster, uuid) == {"a.jpg": b"y" * 70_000}


@pytest.mark.parametrize("cut", [10, 60, 5000])
async def test_a_truncated_upload_leaves_no_file_and_the_task_goes_on(cluster: Rig, cut: int) -> None:
    api = await cluster.start()
    uuid = await api.init()
    body = multipart("a.jpg", b"z" * 10_000)
    head = (
        f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    await raw_request(api.url, head + body[:cut], close=True)
    await raw_request(api.url, head + body[:cut])
    parts = cluster.folder / "data" / "spool" / uuid / "parts"
    await eventually(lambda: not parts.exists() or not list(parts.iterdir()))
    assert await held(cluster, uuid) == {}
    await api.upload(uuid, a__jpg=b"whole")
    assert await held(cluster, uuid) == {"a.jpg": b"whole"}


async def test_a_multipart_body_without_its_end_is_an_error_and_leaves_no_file(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await api.post(f"/task/new/upload/{uuid}", multipart("a.jpg", b"z", end=False), headers=headers)
    assert "cannot be read" in answer["error"]
    assert await held(cluster, uuid) == {}


async def test_a_stalled_upload_is_cut_after_a_while(cluster: Rig) -> None:
    api = await cluster.start(upload_idle_timeout=0.2)
    uuid = await api.init()
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    writer.write(f"{head}Content-Length: 9999\r\n\r\n--b\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    assert b"408" in answer.split(b"\r\n")[0]
    assert b"Nothing was received" in answer
    writer.close()


async def test_task_new_takes_files_before_fields(cluster: Rig) -> None:
    api = await cluster.start()
    fields = {"name": "late", "options": '[{"name":"dsm","value":true}]'}
    uuid = (await api.post("/task/new", images({"a.jpg": b"a", "b.jpg": b"b"}, fields)))["uuid"]
    task = cluster.entry(uuid).task
    assert (task.phase, task.name, task.file_count) == (Phase.QUEUED, "late", 2)
    assert set(await held(cluster, uuid)) == {"a.jpg", "b.jpg"}


async def test_task_new_without_files_or_with_bad_options_leaves_nothing(cluster: Rig) -> None:
    api = await cluster.start()
    assert await api.post("/task/new", form({"name": "x"})) == {"error": "Need at least 1 file or a zip file url."}
    answer = await api.post("/task/new", images({"a.jpg": b"a"}, {"options": '[{"name":"dsm","value":"maybe"}]'}))
    assert json.loads(answer["error"]) == [{"name": "dsm", "error": "Cannot convert maybe to boolean"}]
    assert await cluster.cluster.context.spool.tasks() == []


async def test_task_new_with_a_uuid_that_is_in_use_harms_nothing(cluster: Rig) -> None:
    api = await cluster.start()
    await api.create(1, uuid=V7)
    answer = await api.post("/task/new", images({"b.jpg": b"b"}), headers={"set-uuid": V7})
    assert answer == {"error": f"Invalid set-uuid: {V7}"}
    assert set(await held(cluster, V7)) == {"0.jpg"}


async def zip_server(rig: Rig, content: bytes) -> str:
    async def give(request: web.Request) -> web.Response:
        return web.Response(body=content)

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound("/a.zip")

    app = web.Application()
    app.add_routes([web.get("/a.zip", give), web.get("/redirect", redirect)])
    runner = web.AppRunner(app)
    await runner.setup()
    rig.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def test_a_zipurl_is_fetched_by_us_unpacked_and_sent_to_a_node(cluster: Rig) -> None:
    url = await zip_server(cluster, zipped({"folder/a.jpg": b"a", "../b.jpg": b"b", "__MACOSX/c.jpg": b"c"}))
    node = await cluster.add_node()
    api = await cluster.start(zipurl_allow_private=True)
    uuid = (await api.post("/task/new", form({"zipurl": f"{url}/redirect"})))["uuid"]
    info = await api.ends(uuid)
    assert info["imagesCount"] == 2
    assert set(node.held(uuid)) == {"a.jpg", "b.jpg"}


async def test_a_zipurl_to_a_private_address_is_refused_unless_allowed(cluster: Rig) -> None:
    url = await zip_server(cluster, zipped({"a.jpg": b"a"}))
    api = await cluster.start()
    for address in (url, url.replace("127.0.0.1", "localhost"), "http://169.254.169.254/latest", "http://[::1]:1/"):
        uuid = (await api.post("/task/new", form({"zipurl": f"{address}/a.zip"})))["uuid"]
        info = await api.ends(uuid, 30)
        assert info["status"]["errorMessage"] == "zipurl: leads to a private address, which is not allowed here"
    answer = await api.post("/task/new", form({"zipurl": "file:///etc/passwd"}))
    assert answer == {"error": "zipurl must be an http or https URL"}


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04broken"])
async def test_a_zipurl_that_is_no_archive_fails_the_task_with_the_reason(cluster: Rig, content: bytes) -> None:
    url = await zip_server(cluster, content)
    api = await cluster.start(zipurl_allow_private=True)
    uuid = (await api.post("/task/new", form({"zipurl": f"{url}/a.zip"})))["uuid"]
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == "zipurl: is not a zip archive"


async def test_a_zipurl_with_more_than_allowed_is_refused(cluster: Rig) -> None:
    url = await zip_server(cluster, zipped({"bomb.jpg": b"\0" * 5_000_000}))
    api = await cluster.start(zipurl_allow_private=True, zipurl_max_size=1_000_000)
    uuid = (await api.post("/task/new", form({"zipurl": f"{url}/a.zip"})))["uuid"]
    assert (await api.ends(uuid, 30))["status"]["errorMessage"] == "zipurl: holds too much"


async def test_sm_cluster_is_set_to_us_for_split_tasks(cluster: Rig) -> None:
    api = await cluster.start(token="hush-client")
    options = json.dumps([{"name": "split", "value": "100"}, {"name": "sm-cluster", "value": "http://theirs"}])
    uuid = await api.init(options=options)
    assert cluster.entry(uuid).task.options == [
        {"name": "split", "value": 100},
        {"name": "sm-cluster", "value": api.url},
    ]


async def test_without_splitmerge_sm_cluster_and_seed_zip_are_refused(cluster: Rig) -> None:
    api = await cluster.start(splitmerge=False)
    uuid = await api.init(options=json.dumps([{"name": "split", "value": 1}, {"name": "sm-cluster", "value": "x"}]))
    assert [option["name"] for option in cluster.entry(uuid).task.options] == ["split"]
    assert (await api.upload(uuid, seed__zip=b"PK"))["noRetry"] is True


async def test_too_many_uploads_at_a_time_are_refused_when_there_is_a_limit(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=2)
    first = await api.init()
    await api.init()
    assert "Too many uploads" in (await api.post("/task/new/init"))["error"]
    await api.upload(first, a__jpg=b"a")
    await api.commit(first)
    assert "uuid" in await api.post("/task/new/init")


async def test_bodies_are_bounded(cluster: Rig) -> None:
    api = await cluster.start(max_files=3)
    uuid = await api.init()
    path = f"/task/new/upload/{uuid}"
    assert "Too many files" in (await api.post(path, images({f"{n}.jpg": b"" for n in range(4)})))["error"]
    assert "too large" in (await api.post("/task/new/init", io.BytesIO(b"name=" + b"x" * (9 << 20))))["error"]
    many = form({f"f{n}": "x" for n in range(200)})
    assert await api.post("/task/new/init", many) == {"error": "Too many fields", "noRetry": True}


async def test_a_full_spool_is_a_clear_error(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await cluster.start()
    uuid = await api.init()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    assert "No space left" in (await api.upload(uuid, a__jpg=b"a"))["error"]
    monkeypatch.undo()
    assert await api.upload(uuid, a__jpg=b"a") == {"success": True}


async def test_an_upload_of_another_field_is_refused_like_on_a_node(cluster: Rig) -> None:
    api: Api = await cluster.start()
    uuid = await api.init()
    data = aiohttp.FormData()
    data.add_field("pictures", b"x", filename="a.jpg")
    assert await api.post(f"/task/new/upload/{uuid}", data) == {"error": "Unexpected field"}
