# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uploads that are never committed: they cost no accepted task anything, and lock nobody out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from clusterodm.cluster.tasks import prefetch
from clusterodm.core.tasks import Phase
from tests.support import Api, Rig, eventually, images

KB = 1000
MINUTE = 60.0
UNKNOWN = {"error": "Invalid uuid (not found)"}


async def send(api: Api, uuid: str, name: str, size: int) -> Any:
    """Upload one file of so many bytes; the answer."""
    return await api.post(f"/task/new/upload/{uuid}", images({name: name[:1].encode() * size}))


async def upload(api: Api, *sizes: int) -> str:
    """An upload with files of these sizes that is not committed."""
    uuid = await api.init()
    for number, size in enumerate(sizes):
        assert await send(api, uuid, f"{number}.jpg", size) == {"success": True}
    return uuid


class Sending:
    """A request that has sent the beginning of a file."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.answer: asyncio.Task[Any]

    async def end(self) -> Any:
        """Send the rest; the answer."""
        self.go_on.set()
        return await self.answer


@asynccontextmanager
async def sending(rig: Rig, api: Api, path: str, size: int = 600 * KB) -> AsyncIterator[Sending]:
    """A request in the middle of its body, of which the cluster has written something to its disk."""
    state = Sending()

    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="slow.jpg"\r\n\r\n' + b"s" * size
        await state.go_on.wait()
        for _ in range(20):
            yield b"s" * 100 * KB
        yield b"\r\n--x--\r\n"

    held = rig.cluster.context.spool.room.held
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    state.answer = asyncio.create_task(api.post(path, body(), headers=headers))  # noqa: TID251 - awaited or canceled
    await eventually(lambda: rig.cluster.context.spool.room.held > held)
    yield state
    state.go_on.set()
    state.answer.cancel()


def on_disk(rig: Rig) -> int:
    """Bytes of all files in the spool; one that is being published has two names for a moment."""
    sizes: dict[int, int] = {}
    for folder, _, names in os.walk(rig.folder / "data" / "spool"):
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(os.path.join(folder, name))
                sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def impatient(rig: Rig) -> None:
    """Have uploads that find no room fail soon."""
    rig.cluster.context.spool.room.patience = 0.2


async def test_an_abandoned_upload_makes_room_and_a_running_task_keeps_its_files(cluster: Rig) -> None:
    await cluster.add_node(seconds=600)
    api = await cluster.start(spool_max="3MB", node_lost_after=3600)
    await cluster.ready()
    running = await upload(api, 300 * KB, 300 * KB)
    await api.commit(running)
    await eventually(lambda: cluster.entry(running).task.phase is Phase.RUNNING)
    abandoned = await upload(api, 1600 * KB)
    cluster.clock.ahead += 11 * MINUTE
    fresh = await upload(api, 1000 * KB)  # 800 KB are left, more than a tenth, and it must fit all the same
    assert cluster.cluster.context.tasks.get(abandoned) is None
    error = {
        "error": "Invalid uuid (not found): the upload was given up because nothing was uploaded for 11 min and room "
        "was short; begin again",
        "noRetry": True,
    }
    assert await send(api, abandoned, "late.jpg", KB) == error
    assert await api.commit(abandoned) == error
    assert len(await cluster.cluster.context.spool.listing(running)) == 2
    await cluster.stop_node(0)
    node = await cluster.add_node()
    await eventually(lambda: cluster.entry(running).unreachable_since)
    cluster.clock.ahead += 61 * MINUTE
    info = await api.ends(running)
    assert info["imagesCount"] == 2
    assert len(node.commits) == 1
    await api.commit(fresh)
    await api.ends(fresh)


async def test_the_upload_that_rests_longest_goes_first_and_no_more_than_is_needed(cluster: Rig) -> None:
    api = await cluster.start(spool_max="3MB")
    uuids = []
    for _ in range(3):
        uuids.append(await upload(api, 900 * KB))
        cluster.clock.ahead += 11 * MINUTE
    await upload(api, 900 * KB)
    tasks = cluster.cluster.context.tasks
    assert [tasks.get(uuid) is not None for uuid in uuids] == [False, True, True]


async def test_nothing_goes_when_all_of_it_would_not_be_enough(cluster: Rig) -> None:
    api = await cluster.start(spool_max="3MB")
    impatient(cluster)
    abandoned = await upload(api, 500 * KB)
    cluster.clock.ahead += 11 * MINUTE
    await upload(api, 1000 * KB)
    busy = await api.init()
    answer = await send(api, busy, "large.jpg", 2400 * KB)
    assert answer == {"error": "No room left for uploads here, try again later"}
    assert await send(api, abandoned, "more.jpg", 100 * KB) == {"success": True}


async def test_an_upload_that_rests_for_nine_minutes_stays(cluster: Rig) -> None:
    api = await cluster.start(spool_max="2MB")
    impatient(cluster)
    cluster.clock.ahead += 60 * MINUTE  # of the start
    resting = await upload(api, 1500 * KB)
    cluster.clock.ahead += 9 * MINUTE
    assert "No room left" in (await send(api, await api.init(), "a.jpg", 900 * KB))["error"]
    assert await send(api, resting, "b.jpg", 100 * KB) == {"success": True}


async def test_after_a_restart_clients_have_time_to_go_on(cluster: Rig) -> None:
    api = await cluster.start(spool_max="2MB")
    resting = await upload(api, 1500 * KB)
    cluster.clock.ahead += 60 * MINUTE
    await cluster.stop()
    api = await cluster.start(spool_max="2MB")
    impatient(cluster)
    assert "No room left" in (await send(api, await api.init(), "a.jpg", 900 * KB))["error"]
    assert await send(api, resting, "b.jpg", 100 * KB) == {"success": True}


async def test_an_upload_whose_bytes_arrive_is_never_abandoned_however_long_a_file_takes(cluster: Rig) -> None:
    api = await cluster.start(spool_max="5MB")
    impatient(cluster)
    uuid = await api.init()
    async with sending(cluster, api, f"/task/new/upload/{uuid}") as request:
        cluster.clock.ahead += 90 * MINUTE
        assert "No room left" in (await send(api, await api.init(), "a.jpg", 4900 * KB))["error"]
        assert await request.end() == {"success": True}
    assert (await api.commit(uuid)) == {"uuid": uuid}


async def test_leftovers_of_tasks_that_are_over_go_after_abandoned_uploads(cluster: Rig) -> None:
    api = await cluster.start(spool_max="3MB")
    canceled = await upload(api, 900 * KB)
    await api.commit(canceled)
    await api.post("/task/cancel", {"uuid": canceled})
    abandoned = await upload(api, 900 * KB)
    cluster.clock.ahead += 11 * MINUTE
    tasks, spool = cluster.cluster.context.tasks, cluster.cluster.context.spool
    await upload(api, 1500 * KB)
    assert tasks.get(abandoned) is None
    assert await spool.listing(canceled)
    await upload(api, 900 * KB)
    assert not await spool.listing(canceled)
    assert await api.code(canceled) == 50
    assert any(line.startswith("held files released") for line in await cluster.timeline(canceled))
    assert "not held here" in (await api.post("/task/restart", {"uuid": canceled}))["error"]


@pytest.mark.parametrize("allowed", [False, True])
async def test_held_files_of_a_running_task_go_only_when_the_operator_allowed_it(cluster: Rig, allowed: bool) -> None:
    await cluster.add_node(seconds=600)
    api = await cluster.start(spool_max="2MB", release_running_files=allowed, node_lost_after=3600)
    impatient(cluster)
    await cluster.ready()
    running, queued = await upload(api, 920 * KB), await upload(api, 920 * KB)
    await api.commit(running)
    await eventually(lambda: cluster.entry(running).task.phase is Phase.RUNNING)
    await api.commit(queued)
    cluster.clock.ahead += 11 * MINUTE
    answer = await send(api, await api.init(), "a.jpg", 900 * KB)
    assert answer == ({"success": True} if allowed else {"error": "No room left for uploads here, try again later"})
    spool = cluster.cluster.context.spool
    assert len(await spool.listing(running)) == (not allowed)
    assert len(await spool.listing(queued)) == 1
    assert any("held files released" in line for line in await cluster.timeline(running)) is allowed


async def test_an_abandoned_prefetched_upload_is_removed_on_its_node(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "WORTH", 1)
    monkeypatch.setattr(prefetch, "RESTING", 1e9)
    node = await cluster.add_node()
    api = await cluster.start(spool_max="2MB", node_lost_after=3600)
    await cluster.ready()
    abandoned = await upload(api, 700 * KB, 700 * KB)

    await eventually(lambda: len(node.held(abandoned)) == 2)
    cluster.clock.ahead += 11 * MINUTE
    await upload(api, 1000 * KB)
    await eventually(lambda: not node.held(abandoned) and abandoned not in node.announced)
    [registered] = cluster.cluster.context.registry.nodes()
    assert not registered.prefetches


async def test_an_upload_waits_for_room_that_comes_in_a_moment(cluster: Rig) -> None:
    api = await cluster.start(spool_max="2MB")
    other = await upload(api, 1500 * KB)
    waiting = asyncio.create_task(send(api, await api.init(), "a.jpg", 900 * KB))  # noqa: TID251 - awaited below
    room = cluster.cluster.context.spool.room
    await eventually(lambda: room.waiting == 1)
    assert await api.post("/task/remove", {"uuid": other}) == {"success": True}
    assert await waiting == {"success": True}


async def test_an_upload_without_room_is_refused_so_that_every_client_sends_it_again(cluster: Rig) -> None:
    api = await cluster.start(spool_max="2MB")
    impatient(cluster)
    await upload(api, 1500 * KB)
    path = f"/task/new/upload/{await api.init()}"
    status, _, body = await api.raw("POST", path, data=images({"a.jpg": b"a" * 900 * KB}))
    assert (status, body) == (403, b'{"error":"No room left for uploads here, try again later"}')


async def test_an_upload_that_can_never_fit_is_refused_at_once(cluster: Rig) -> None:
    api = await cluster.start(spool_max="2MB")
    abandoned = await upload(api, 500 * KB)
    cluster.clock.ahead += 11 * MINUTE
    answer = await send(api, await api.init(), "a.jpg", 3000 * KB)
    assert answer["noRetry"]
    assert answer["error"].startswith("Too large: 3000")
    assert cluster.cluster.context.tasks.get(abandoned) is not None


async def test_a_disk_that_refuses_bytes_gets_room_although_the_quota_has_some(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await cluster.start()
    abandoned = await upload(api, 500 * KB)
    cluster.clock.ahead += 11 * MINUTE
    uuid = await api.init()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    assert "No space left" in (await send(api, uuid, "a.jpg", 100 * KB))["error"]
    monkeypatch.undo()
    await eventually(lambda: cluster.cluster.context.tasks.get(abandoned) is None)
    assert await send(api, uuid, "a.jpg", 100 * KB) == {"success": True}


async def test_uploads_at_the_same_time_stay_within_the_quota(cluster: Rig) -> None:
    api = await cluster.start(spool_max="5MB")
    impatient(cluster)
    uuids = [await api.init() for _ in range(20)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, on_disk(cluster))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())  # noqa: TID251 - canceled below
    answers = await asyncio.gather(*(send(api, uuid, "a.jpg", 1200 * KB) for uuid in uuids))
    watching.cancel()
    assert most <= 5000 * KB
    accepted = sum(answer == {"success": True} for answer in answers)
    room = cluster.cluster.context.spool.room
    await eventually(lambda: room.held == on_disk(cluster))
    assert 0 <= room.held - accepted * 1200 * KB < 10 * KB, "the photos, and why others were refused"
    assert room.free_bytes() == 5000 * KB - room.held


async def test_what_was_cut_off_or_came_twice_takes_no_room(cluster: Rig) -> None:
    api = await cluster.start(spool_max="5MB")
    uuid = await upload(api, 300 * KB)
    assert await send(api, uuid, "0.jpg", 300 * KB) == {"success": True}
    room = cluster.cluster.context.spool.room
    assert (room.held, room.of(uuid).files) == (300 * KB, 1)
    async with sending(cluster, api, f"/task/new/upload/{uuid}") as request:
        request.answer.cancel()
        await eventually(lambda: room.held == 300 * KB)
    assert on_disk(cluster) == 300 * KB


@pytest.mark.parametrize("verb", ["cancel", "remove"])
async def test_the_owner_ends_an_upload_that_is_not_committed(cluster: Rig, verb: str) -> None:
    api = await cluster.start()
    uuid = await upload(api, KB, KB)
    info = await api.get(f"/task/{uuid}/info")
    assert info == {"error": f"{uuid} not found"}
    assert await api.post("/task/restart", {"uuid": uuid}) == {"success": False, "error": f"{uuid} not found"}
    assert await api.post(f"/task/{verb}", {"uuid": uuid}) == {"success": True}
    assert await cluster.cluster.context.spool.tasks() == []
    assert await send(api, uuid, "late.jpg", KB) == UNKNOWN
    assert await api.commit(uuid) == UNKNOWN
    assert await api.get(f"/task/{uuid}/info") == info
    assert await api.get("/task/list") == []
    assert await api.post(f"/task/{verb}", {"uuid": uuid}) == {"success": False, "error": f"{uuid} not found"}


@pytest.mark.parametrize("verb", ["cancel", "remove"])
async def test_nobody_else_ends_an_upload(cluster: Rig, verb: str) -> None:
    tokens = cluster.folder / "tokens.toml"
    tokens.write_text('[a]\ntoken = "hush-alice-1"\n[b]\ntoken = "hush-bob-222"\n')
    await cluster.start(cloud_provider="tokens", tokens_file=tokens)
    one, other = Api(cluster.cluster.url, "hush-alice-1"), Api(cluster.cluster.url, "hush-bob-222")
    async with one.session, other.session:
        uuid = await upload(one, KB)
        refused = {"success": False, "error": f"{uuid} not found"}
        assert await other.post(f"/task/{verb}", {"uuid": uuid}) == refused
        assert await send(one, uuid, "b.jpg", KB) == {"success": True}
        assert await one.post(f"/task/{verb}", {"uuid": uuid}) == {"success": True}


async def test_a_canceled_prefetched_upload_is_removed_on_its_node(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "WORTH", 1)
    node = await cluster.add_node()
    api = await cluster.start()
    await cluster.ready()
    uuid = await upload(api, KB)

    await eventually(lambda: node.held(uuid))
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    await eventually(lambda: not node.held(uuid) and uuid not in node.announced)


@pytest.mark.parametrize("verb", ["cancel", "remove"])
async def test_a_request_that_is_received_while_its_upload_is_ended_gets_an_error_and_leaves_nothing(
    cluster: Rig, verb: str
) -> None:
    api = await cluster.start()
    uuid = await upload(api, KB)
    async with sending(cluster, api, f"/task/new/upload/{uuid}") as request:
        assert await api.post(f"/task/{verb}", {"uuid": uuid}) == {"success": True}
        assert on_disk(cluster) == 0
        assert await request.end() == UNKNOWN
    await eventually(lambda: os.listdir(cluster.folder / "data" / "spool") == [])
    assert cluster.cluster.context.spool.room.held == 0


async def test_files_that_are_published_while_their_upload_is_removed_leave_nothing(cluster: Rig) -> None:
    api = await cluster.start()
    for _ in range(20):
        uuid = await api.init()
        first = asyncio.Event()

        async def one(number: int, uuid: str = uuid, first: asyncio.Event = first) -> Any:
            answer = await send(api, uuid, f"{number}.jpg", 300 * KB)
            first.set()
            return answer

        async def remove(uuid: str = uuid, first: asyncio.Event = first) -> None:
            await first.wait()
            assert await api.post("/task/remove", {"uuid": uuid}) == {"success": True}

        *answers, _ = await asyncio.gather(*map(one, range(6)), remove())
        assert [answer for answer in answers if answer not in ({"success": True}, UNKNOWN)] == []
        await eventually(lambda: os.listdir(cluster.folder / "data" / "spool") == [])
    assert cluster.cluster.context.spool.room.held == 0


async def test_a_commit_and_a_cancel_at_the_same_time_end_in_one_of_the_two(cluster: Rig) -> None:
    api = await cluster.start()
    for _ in range(20):
        uuid = await upload(api, KB)
        committed, canceled = await asyncio.gather(api.commit(uuid), api.post("/task/cancel", {"uuid": uuid}))
        if committed == {"uuid": uuid}:
            assert canceled == {"success": True}
            assert await api.code(uuid) == 50
        else:
            assert (committed, canceled) == (UNKNOWN, {"success": True})
            assert not await cluster.cluster.context.spool.listing(uuid)


async def test_one_request_uploads_count_against_the_limit_and_ended_ones_do_not(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=1)
    async with sending(cluster, api, "/task/new") as request:
        assert "Too many uploads" in (await api.post("/task/new/init"))["error"]
        assert "uuid" in await request.end()
    uuid = await upload(api, KB)
    assert "Too many uploads" in (await api.post("/task/new/init"))["error"]
    assert await api.post("/task/cancel", {"uuid": uuid}) == {"success": True}
    uuid = await upload(api, KB)
    cluster.clock.ahead += 16 * MINUTE
    second = await api.init()
    async with sending(cluster, api, f"/task/new/upload/{second}"):
        cluster.clock.ahead += 16 * MINUTE  # a file that takes longer than that
        assert "Too many uploads" in (await api.post("/task/new/init"))["error"]
