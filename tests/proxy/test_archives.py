# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Photos that come as an archive, and options that no node knows: both without a word lost on a node."""

from __future__ import annotations

import json

import pytest

from clusterodm.core.tasks import HELD
from tests.support import Rig, eventually, form, images, zipped

PHOTOS = {"flight/a.jpg": b"a", "flight/day 2/b.jpg": b"b", "flight\\c.jpg": b"c", "other/a.jpg": b"another a"}
EXTRA = {"__MACOSX/._a.jpg": b"x", ".DS_Store": b"x", "nested.zip": zipped({"d.jpg": b"d"}), "flight/geo.txt": b"geo"}


async def test_an_archive_of_photos_is_unpacked_before_it_goes_to_a_node(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.init()
    data = images({"photos.zip": zipped(PHOTOS | EXTRA), "gcp_list.txt": b"gcp"})
    assert await api.post(f"/task/new/upload/{uuid}", data) == {"success": True}
    assert await api.commit(uuid) == {"uuid": uuid}
    assert (await api.ends(uuid))["imagesCount"] == 4
    sent = {name: path.read_bytes() for name, path in node.held(uuid).items()}
    texts = {"geo.txt": b"geo", "gcp_list.txt": b"gcp"}
    assert sent == {"a.jpg": b"a", "a_.jpg": b"another a", "b.jpg": b"b", "c.jpg": b"c", **texts}
    timeline = await cluster.timeline(uuid)
    assert "6 files unpacked" in timeline
    assert any(line.endswith(", 6 files to unpack") for line in timeline)


async def test_task_new_takes_an_archive_too(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    answer = await api.post("/task/new", images({"a.ZIP": zipped({"1.jpg": b"1"}), "b.zip": zipped({"2.jpg": b"2"})}))
    assert (await api.ends(answer["uuid"]))["imagesCount"] == 2


async def test_what_was_begun_to_be_unpacked_is_unpacked_after_a_restart(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    photos = {f"{number}.jpg": b"%d" % number * 5000 for number in range(200)}
    await api.post(f"/task/new/upload/{uuid}", images({"photos.zip": zipped(photos)}))
    assert await api.commit(uuid) == {"uuid": uuid}
    assert cluster.entry(uuid).task.zipurl == HELD
    await eventually(lambda: cluster.cluster.context.spool.path(uuid, "3.jpg").exists())
    await cluster.stop()
    node = await cluster.add_node()
    api = await cluster.start()
    assert (await api.ends(uuid))["imagesCount"] == 200
    sent = {name: path.read_bytes() for name, path in node.held(uuid).items()}
    assert sent == photos


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no zip", "photos.zip is not a zip archive"),
        (zipped({"a.txt": b"t"}), "photos.zip: there is no image in it"),
        (zipped({"bomb.jpg": bytes(5_000_000)}), "photos.zip holds too much"),
    ],
)
async def test_an_archive_that_cannot_be_used_is_refused_at_once(cluster: Rig, content: bytes, why: str) -> None:
    api = await cluster.start(zipurl_max_size=1_000_000)
    uuid = await api.init()
    await api.post(f"/task/new/upload/{uuid}", images({"photos.zip": content}))
    assert await api.commit(uuid) == {"error": why, "noRetry": True}
    await api.upload(uuid, a__jpg=b"a")  # beside photos an archive is what nodes make of it
    assert await api.commit(uuid) == {"uuid": uuid}
    assert cluster.entry(uuid).task.zipurl == ""
    note = "not unpacked, because photos were uploaded with it: photos.zip"
    assert await api.get(f"/task/{uuid}/output") == [f"[clusterodm] {note}; nodes delete it"]
    assert any(line.endswith(f"; {note}") for line in await cluster.timeline(uuid))


async def test_too_many_files_in_an_archive_are_refused_at_once(cluster: Rig) -> None:
    api = await cluster.start(max_files=3)
    uuid = await api.init()
    await api.post(f"/task/new/upload/{uuid}", images({"p.zip": zipped({f"{n}.jpg": b"%d" % n for n in range(4)})}))
    assert await api.commit(uuid) == {"error": "Too many files: 4 (at most 3)", "noRetry": True}


async def test_an_archive_that_turns_out_to_be_damaged_fails_the_task_with_the_reason(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await api.init()
    content = bytearray(zipped({"a.jpg": b"a" * 1000}))
    content[40:44] = b"\xff\xff\xff\xff"
    await api.post(f"/task/new/upload/{uuid}", images({"photos.zip": bytes(content)}))
    assert await api.commit(uuid) == {"uuid": uuid}
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == "photos.zip is a damaged or encrypted zip archive"


async def test_a_zipurl_cannot_name_what_is_held(cluster: Rig) -> None:
    api = await cluster.start()
    answer = await api.post("/task/new", form({"zipurl": HELD}))
    assert answer == {"error": "zipurl must be an http or https URL"}


OPTIONS = json.dumps([{"name": "orthophoto-resolutio", "value": 3}, {"name": "dsm", "value": True}])
TOLD = "option orthophoto-resolutio is unknown and has no effect; did you mean orthophoto-resolution?"


@pytest.mark.parametrize("path", ["/task/new/init", "/task/new"])
async def test_an_unknown_option_is_left_out_as_by_a_node_and_its_owner_is_told(cluster: Rig, path: str) -> None:
    api = await cluster.start()
    files = {"a.jpg": b"a"} if path == "/task/new" else {}
    data = images(files, {"options": OPTIONS}) if files else form({"options": OPTIONS})
    uuid = (await api.post(path, data))["uuid"]
    if not files:
        await api.post("/task/new/init", data=form({"options": OPTIONS}), headers={"set-uuid": uuid})
        await api.upload(uuid, a__jpg=b"a")
        await api.commit(uuid)
    assert (await api.get(f"/task/{uuid}/info"))["options"] == [{"name": "dsm", "value": True}]
    assert await api.get(f"/task/{uuid}/output") == [f"[clusterodm] {TOLD}"]
    assert TOLD in await cluster.timeline(uuid)
