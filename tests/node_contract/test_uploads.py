# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the announcement of a task to its commit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from clusterodm.core.nodes import make_address
from clusterodm.nodeodm import NodeClient
from tests.node_contract.client import UUID, Client, multipart, options, part
from tests.node_contract.conftest import Start
from tests.support import eventually, zipped

FIELDS = {"name": "announced", "options": options(dsm="true"), "skipPostProcessing": "true"}
UNKNOWN = {"error": "Invalid uuid (not found)"}


async def test_an_announcement_as_multipart_is_read(node: Client) -> None:
    info = await node.info(await node.completed(**FIELDS))
    assert (info["name"], info["options"]) == ("announced", [{"name": "dsm", "value": True}])


@pytest.mark.parametrize("body", [{"data": FIELDS}, {"json": FIELDS}], ids=["urlencoded", "json"])
async def test_any_other_body_of_an_announcement_is_ignored_without_a_word(node: Client, body: Any) -> None:
    _, _, answer = await node.raw("POST", "/task/new/init", **body)
    uuid = json.loads(answer)["uuid"]
    await node.upload(uuid, ("a.jpg", b"a"))
    await node.commit(uuid)
    info = await node.ends(uuid)
    assert "name" not in info
    assert [option["name"] for option in info["options"]] == ["pc-ept", "cog", "gltf"]


async def test_an_announcement_may_have_no_body(node: Client) -> None:
    assert set(await node.post("/task/new/init")) == {"uuid"}


async def test_an_announcement_with_a_file_is_refused(node: Client) -> None:
    assert await node.post("/task/new/init", multipart({}, [("a.jpg", b"a")])) == {"error": "Unexpected field"}


async def test_a_field_of_more_than_a_megabyte_is_refused(node: Client) -> None:
    whole = options(boundary=json.dumps("x" * 1_000_000)).encode()
    assert set(await node.post("/task/new/init", **part(b'name="options"', whole))) == {"uuid"}
    longer = part(b'name="options"', whole + b" " * 100_000)
    assert await node.post("/task/new/init", **longer) == {"error": "Field value too long"}


@pytest.mark.parametrize("body", [b"--B\r\nrubbish", b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nx'])
async def test_a_multipart_body_that_breaks_off_is_an_error(node: Client, body: bytes) -> None:
    answer = await node.post("/task/new/init", body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert set(answer) == {"error"}


async def test_an_announcement_again_keeps_the_files_and_takes_the_new_fields(node: Client) -> None:
    uuid = await node.announced(("a.jpg", b"a"), name="first")
    assert await node.init({"name": "second"}, uuid=uuid) == {"uuid": uuid}
    assert node.program.files(uuid) == {"a.jpg"}
    await node.commit(uuid)
    assert (await node.ends(uuid))["name"] == "second"


@pytest.mark.parametrize("refused", ["[", options(dsm="maybe")], ids=["no JSON", "a wrong value"])
async def test_an_announcement_with_refused_options_deletes_what_was_uploaded(node: Client, refused: str) -> None:
    uuid = await node.announced(("a.jpg", b"a"))
    assert set(await node.init({"options": refused}, uuid=uuid)) == {"error"}
    await eventually(lambda: not (node.program.uploads / uuid).exists())
    assert await node.upload(uuid, ("b.jpg", b"b")) == UNKNOWN
    assert await node.commit(uuid) == UNKNOWN


async def test_the_cluster_can_discard_what_it_uploaded(node: Client) -> None:
    uuid = await node.announced(("a.jpg", b"a" * 100_000), ("b.jpg", b"b"))
    await NodeClient(node.session).discard(make_address("127.0.0.1", node.program.port), uuid)
    await eventually(lambda: not (node.program.uploads / uuid).exists())


async def test_a_uuid_is_taken_letter_by_letter(node: Client) -> None:
    uuid = UUID.upper()
    assert await node.init(uuid=uuid) == {"uuid": uuid}
    await node.upload(uuid, ("a.jpg", b"a"))
    assert await node.commit(uuid) == {"uuid": uuid}
    assert (await node.ends(uuid))["uuid"] == uuid
    assert await node.info(UUID) == {"error": f"{UUID} not found"}
    assert await node.init(uuid=uuid) == {"error": f"Invalid set-uuid: {uuid}"}
    assert await node.post("/task/remove", {"uuid": uuid}) == {"success": True}


@pytest.mark.parametrize("uuid", ["abc", UUID[:-1], f"{UUID[:14]}9{UUID[15:]}", f"{UUID} x"])
async def test_what_is_no_uuid_is_refused(node: Client, uuid: str) -> None:
    assert await node.init(uuid=uuid) == {"error": f"Invalid set-uuid: {uuid}"}


# Files

NAMES = [
    (b'filename="plain.jpg"', "plain.jpg"),
    (b'filename="a/b.jpg"', "b.jpg"),
    (b'filename="a\\b.jpg"', "b.jpg"),
    (b'filename="C:\\flight 1\\b.jpg"', "b.jpg"),
    (b'filename="../../b.jpg"', "b.jpg"),
    (b'filename="body.json"', "_body.json"),
    (b'filename="no extension"', "no extension"),
    (b'filename=".hidden"', ".hidden"),
    ('filename="ümläut.jpg"'.encode(), "ümläut.jpg"),
    (b'filename="quo\\"te.jpg"', 'quo"te.jpg'),
    (b'filename="quo%22te.jpg"', "quo%22te.jpg"),
    (b"filename=token.jpg", "token.jpg"),
]


@pytest.mark.parametrize(("disposition", "stored"), NAMES)
async def test_a_file_is_stored_under_its_base_name(node: Client, disposition: bytes, stored: str) -> None:
    uuid = (await node.init())["uuid"]
    request = part(b'name="images"; ' + disposition, b"content")
    assert await node.post(f"/task/new/upload/{uuid}", **request) == {"success": True}
    assert node.program.files(uuid) == {stored}
    assert (node.program.uploads / uuid / stored).read_bytes() == b"content"


async def test_a_name_that_is_too_long_is_refused(node: Client) -> None:
    uuid = (await node.init())["uuid"]
    assert set(await node.upload(uuid, (f"{'x' * 300}.jpg", b"a"))) == {"error"}


@pytest.mark.parametrize("again", [b"one", b"two"], ids=["equal bytes", "other bytes"])
async def test_a_second_file_of_a_name_gets_another_name_whatever_is_in_it(node: Client, again: bytes) -> None:
    uuid = await node.announced(("a.b.jpg", b"one"), ("a.b.jpg", again), ("a.b.jpg", b"one"), ("x", b""), ("x", b""))
    assert node.program.files(uuid) == {"a.b.jpg", "a.b_.jpg", "a.b__.jpg", "x", "x_"}
    await node.commit(uuid)
    assert (await node.ends(uuid))["imagesCount"] == 5


async def test_several_files_may_come_in_one_request(node: Client) -> None:
    uuid = (await node.init())["uuid"]
    files = [(f"{number}.jpg", b"%d" % number * 300_000) for number in range(5)]
    assert await node.upload(uuid, *files) == {"success": True}
    assert {name: (node.program.uploads / uuid / name).read_bytes() for name in node.program.files(uuid)} == dict(files)


async def test_a_file_that_was_cut_off_stays_as_far_as_it_came(node: Client) -> None:
    uuid = await node.announced(("whole.jpg", b"whole"))
    _, writer = await asyncio.open_connection("127.0.0.1", node.program.port)
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    partial_body = '--B\r\nContent-Disposition: form-data; name="images"; filename="cut.jpg"\r\n\r\n' + "half" * 100_000
    writer.write(f"{head}Content-Length: 9999999\r\n\r\n{partial_body}".encode())
    await writer.drain()
    cut = node.program.uploads / uuid / "cut.jpg"
    await eventually(cut.exists)
    writer.close()
    assert await node.upload(uuid, ("cut.jpg", b"whole")) == {"success": True}
    assert node.program.files(uuid) == {"whole.jpg", "cut.jpg", "cut_.jpg"}
    await node.commit(uuid)
    assert (await node.ends(uuid))["imagesCount"] == 3


async def test_an_upload_without_a_file_is_not_to_be_repeated(node: Client) -> None:
    uuid = (await node.init())["uuid"]
    none = {"error": "Need at least 1 file.", "noRetry": True}
    assert await node.post(f"/task/new/upload/{uuid}", multipart({"other": "x"})) == none
    assert await node.post(f"/task/new/upload/{uuid}", {"images": "x"}) == none
    assert await node.post(f"/task/new/upload/{uuid}", **part(b'name="images"; filename=""', b"a")) == none


async def test_a_file_in_another_field_is_refused(node: Client) -> None:
    uuid = (await node.init())["uuid"]
    request = part(b'name="pictures"; filename="a.jpg"', b"a")
    assert await node.post(f"/task/new/upload/{uuid}", **request) == {"error": "Unexpected field"}


async def test_uploads_and_commits_of_an_unknown_task_are_refused(node: Client) -> None:
    assert await node.upload(UUID, ("a.jpg", b"a")) == UNKNOWN
    assert await node.commit(UUID) == UNKNOWN
    assert not (node.program.uploads / UUID).exists()


async def test_dropped_uploads_leave_nothing_behind(start: Start) -> None:
    node = start("--test-drop-uploads")
    uuid = (await node.init())["uuid"]
    stored = set()
    for number in range(40):
        status, _, _ = await node.raw("POST", f"/task/new/upload/{uuid}", data=multipart({}, [(f"{number}.jpg", b"x")]))
        assert status in (200, 500)
        stored |= {f"{number}.jpg"} if status == 200 else set()
    assert 5 < len(stored) < 35
    assert node.program.files(uuid) == stored


# The commit


async def test_a_commit_without_files_ends_the_upload(node: Client) -> None:
    uuid = (await node.init())["uuid"]
    assert await node.commit(uuid) == {"error": "Need at least 1 file."}
    assert await node.upload(uuid, ("a.jpg", b"a")) == UNKNOWN
    await eventually(lambda: not (node.program.uploads / uuid).exists())


async def test_a_second_commit_is_refused(node: Client) -> None:
    uuid = await node.created()
    assert await node.commit(uuid) == UNKNOWN
    assert await node.upload(uuid, ("b.jpg", b"b")) == UNKNOWN
    await node.ends(uuid)


async def test_the_count_of_images_settles_on_what_is_no_control_data(node: Client) -> None:
    control = ["geo.txt", "gcp_list.TXT", "image_groups.txt", "align.LAZ", "photos.zip"]
    counted = ["a.jpg", "b.srt", "c.mp4", "other.las"]
    uuid = await node.created(*[(name, b"x") for name in control + counted])
    assert (await node.info(uuid))["imagesCount"] in (4, 9)
    assert (await node.ends(uuid))["imagesCount"] == 4
    assert node.program.project(uuid, "images") == set(counted)
    assert node.program.project(uuid, "gcp") == set(control) - {"photos.zip"}


async def test_a_seed_is_unpacked_into_the_project(node: Client) -> None:
    seed = zipped({"cameras.json": b"{}", "opensfm/reconstruction.json": b"[]"})
    uuid = await node.completed(("a.jpg", b"a"), ("seed.zip", seed))
    assert (node.program.data / uuid / "opensfm" / "reconstruction.json").read_bytes() == b"[]"
    assert (await node.info(uuid))["imagesCount"] == 1


async def test_a_seed_that_cannot_be_unpacked_fails_the_task_after_the_commit(node: Client) -> None:
    uuid = await node.created(("a.jpg", b"a"), ("seed.zip", b"no zip"))
    info = await node.ends(uuid, 30)
    assert info["status"]["errorMessage"].startswith("Could not extract .zip file")
    await eventually(lambda: not (node.program.data / uuid).exists())


async def test_the_limit_counts_every_file_but_a_seed_and_fails_the_task_after_the_commit(start: Start) -> None:
    node = start("--max-images", "2", "--test-seconds", "0")
    assert (await node.get("/info"))["maxImages"] == 2
    uuid = await node.created(("a.jpg", b"a"), ("b.jpg", b"b"), ("geo.txt", b"EPSG:4326"))
    info = await node.ends(uuid, 30)
    assert info["status"]["errorMessage"] == "3 images uploaded, but this node can only process up to 2."
    await eventually(lambda: not (node.program.data / uuid).exists())
    await node.completed(("a.jpg", b"a"), ("b.jpg", b"b"), ("seed.zip", zipped({"x": b""})))
    files = [(f"{number}.jpg", b"x") for number in range(3)]
    refused = {"error": "3 images uploaded, but this node can only process up to 2."}
    assert await node.post("/task/new", multipart({}, files)) == refused


# In one request


async def test_a_whole_task_in_one_request_with_its_fields_after_the_files(node: Client) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("images", b"a", filename="a.jpg")
    form.add_field("name", "whole")
    form.add_field("images", b"b", filename="b.jpg")
    form.add_field("options", options(dtm="1"))
    answer = await node.post("/task/new", form, headers={"set-uuid": UUID})
    assert answer == {"uuid": UUID}
    info = await node.ends(UUID)
    assert (info["name"], info["imagesCount"], info["options"][0]) == ("whole", 2, {"name": "dtm", "value": True})
    assert await node.post("/task/remove", {"uuid": UUID}) == {"success": True}


async def test_a_task_in_one_request_is_refused_without_files_and_with_wrong_options(node: Client) -> None:
    nothing = {"error": "Need at least 1 file or a zip file url."}
    assert await node.post("/task/new", multipart({"name": "x"})) == nothing
    refused = multipart({"options": options(dsm="maybe")}, [("a.jpg", b"a")])
    answer = await node.post("/task/new", refused, headers={"set-uuid": UUID})
    assert "Cannot convert maybe to boolean" in answer["error"]
    await eventually(lambda: not (node.program.uploads / UUID).exists())
