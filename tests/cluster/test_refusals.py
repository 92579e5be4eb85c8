# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A client that overlooks that a file was refused gets no task without it: the page of a node takes each answer with
status 200 for success, and commits."""

from __future__ import annotations

from typing import Any

import pytest

from clusterodm.core.tasks import Phase
from tests.support import Api, Rig, images

LARGEST = {"error": "this task has 3 files; the largest node takes 2", "noRetry": True}


async def send(api: Api, uuid: str, **files: bytes) -> Any:
    """Upload files in one request."""
    contents = {name.replace("__", "."): content for name, content in files.items()}
    return await api.post(f"/task/new/upload/{uuid}", images(contents))


async def short(cluster: Rig, api: Api) -> str:
    """An upload of which a third file was refused."""
    await cluster.ready()
    uuid = await api.init()
    for number in range(2):
        assert await send(api, uuid, **{f"{number}__jpg": b"x"}) == {"success": True}
    assert await send(api, uuid, **{"2__jpg": b"x"}) == LARGEST
    return uuid


async def test_the_refusal_holds_after_a_restart(cluster: Rig) -> None:
    await cluster.add_node(max_images=2)
    api = await cluster.start()
    uuid = await short(cluster, api)
    assert await api.commit(uuid) == LARGEST
    await cluster.stop()
    api = await cluster.start()
    assert await api.commit(uuid) == LARGEST
    assert cluster.entry(uuid).task.phase is Phase.RECEIVING


async def test_a_file_that_is_taken_in_the_end_lets_the_upload_be_committed(cluster: Rig) -> None:
    await cluster.add_node(max_images=2)
    api = await cluster.start()
    uuid = await short(cluster, api)
    large = await cluster.add_node(max_images=9)
    await cluster.stop()
    api = await cluster.start()
    await cluster.ready()
    assert await api.commit(uuid) == LARGEST
    assert await send(api, uuid, **{"2__jpg": b"x"}) == {"success": True}
    assert await api.commit(uuid) == {"uuid": uuid}
    await api.ends(uuid)
    assert len(large.commits) == 1


async def test_a_second_photo_of_a_name_that_was_refused_is_not_taken_for_the_first(cluster: Rig) -> None:
    await cluster.add_node(max_images=2)
    api = await cluster.start()
    await cluster.ready()
    uuid = await api.init()
    for name in ("a__jpg", "b__jpg"):
        assert await send(api, uuid, **{name: b"x"}) == {"success": True}
    assert await send(api, uuid, a__jpg=b"another") == LARGEST
    assert await api.commit(uuid) == LARGEST


async def test_a_request_with_more_files_than_a_task_may_have_leads_to_no_task(cluster: Rig) -> None:
    api = await cluster.start(max_files=3)
    uuid = await api.init()
    refused = await send(api, uuid, **{f"{number}__jpg": b"x" for number in range(5)})
    assert refused == {"error": "Too many files (at most 3)", "noRetry": True}
    assert await api.commit(uuid) == refused


async def test_a_seed_that_is_not_accepted_leads_to_no_task(cluster: Rig) -> None:
    api = await cluster.start(splitmerge=False)
    uuid = await api.init()
    assert await send(api, uuid, a__jpg=b"a") == {"success": True}
    refused = await send(api, uuid, seed__zip=b"x")
    assert refused == {"error": "seed.zip is not accepted: split-merge is turned off here", "noRetry": True}
    assert await api.commit(uuid) == refused


async def test_a_file_that_can_never_have_room_leads_to_no_task(cluster: Rig) -> None:
    api = await cluster.start(spool_max="1MB")
    uuid = await api.init()
    assert await send(api, uuid, a__jpg=b"a") == {"success": True}
    refused = await send(api, uuid, b__jpg=bytes(2_000_000))
    assert refused["error"].startswith("Too large")
    assert await api.commit(uuid) == refused


async def test_a_file_for_which_there_was_no_room_is_missed_until_it_has_come(cluster: Rig) -> None:
    api = await cluster.start(spool_max="1MB")
    cluster.cluster.context.spool.room.patience = 0.2
    other, uuid = await api.init(), await api.init()
    assert await send(api, other, o__jpg=bytes(700_000)) == {"success": True}
    assert await send(api, uuid, a__jpg=b"a") == {"success": True}
    assert "No room left" in (await send(api, uuid, b__jpg=bytes(600_000)))["error"]
    assert await api.commit(uuid) == {"error": "b.jpg was not taken: No room left for uploads here, try again later"}
    assert await api.post("/task/remove", {"uuid": other}) == {"success": True}
    assert await send(api, uuid, b__jpg=bytes(600_000)) == {"success": True}
    assert await api.commit(uuid) == {"uuid": uuid}


@pytest.mark.parametrize("ending", [b"", b"\r\n--another--\r\n"])
async def test_a_file_that_broke_off_is_missed_until_it_has_come(cluster: Rig, ending: bytes) -> None:
    api = await cluster.start()
    uuid = await api.init()
    assert await send(api, uuid, a__jpg=b"a") == {"success": True}
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="b.jpg"\r\n\r\nhalf' + ending
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "cannot be read" in (await api.post(f"/task/new/upload/{uuid}", body, headers=headers))["error"]
    assert (await api.commit(uuid))["error"].startswith("b.jpg was not taken: The multipart body cannot be read")
    assert await send(api, uuid, b__jpg=b"whole") == {"success": True}
    assert await api.commit(uuid) == {"uuid": uuid}


async def test_a_removed_upload_leaves_nothing_of_its_refusals(cluster: Rig) -> None:
    await cluster.add_node(max_images=2)
    api = await cluster.start()
    uuid = await short(cluster, api)
    room = cluster.cluster.context.spool.room
    assert room.held > 2
    await room.measure()
    assert await api.post("/task/remove", {"uuid": uuid}) == {"success": True}
    assert not (cluster.folder / "data" / "spool" / uuid).exists()
    assert room.held == 0
