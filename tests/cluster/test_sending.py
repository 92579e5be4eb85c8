# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was accepted is what a node gets and counts, whatever happens on the way; else nobody gets a result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from clusterodm.admin.operations import tasks
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.errors import BadRequest
from clusterodm.core.tasks import Phase
from tests.faults.liar import cut
from tests.odd_node import OddNode, OddTask, running_odd_node
from tests.support import Api, Rig, eventually, images, zipped

PHOTOS = {"a.jpg": b"first", "b.jpg": b"second"}


@pytest.fixture
async def odd(cluster: Rig) -> AsyncIterator[OddNode]:
    """A node that is odd, known to the cluster."""
    async with running_odd_node() as node:
        node.work = node.done
        cluster.ports.append(node.port)
        yield node


async def _create(api: Api, files: dict[str, bytes]) -> str:
    uuid = await api.init()
    for name, content in files.items():
        assert await api.post(f"/task/new/upload/{uuid}", images({name: content})) == {"success": True}
    assert await api.commit(uuid) == {"uuid": uuid}
    return uuid


def _held(cluster: Rig, uuid: str) -> Path:
    return cluster.folder / "data" / "spool" / uuid / "files"


async def test_uploads_that_a_node_answers_with_500_are_sent_again_in_the_same_attempt(
    cluster: Rig, odd: OddNode
) -> None:
    refused = 0

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        refused += 1
        return web.Response(status=500, text="Internal Server Error") if refused <= 3 else None

    odd.before = refuse
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    await api.ends(uuid)
    assert odd.last.files == PHOTOS
    assert odd.commits == [uuid]


async def test_a_file_that_is_there_twice_has_the_attempt_discarded_before_its_client_sees_anything_of_it(
    cluster: Rig, odd: OddNode
) -> None:
    requests = []

    async def lose_one(request: web.Request) -> web.StreamResponse | None:
        requests.append(request.path)
        return cut(request) if len(requests) == 1 else None

    def work(task: OddTask) -> None:
        task.console.append(f"attempt {len(odd.commits)}")
        task.code, task.processing_time = (40, 100) if len(odd.commits) > 1 else (20, 100)

    odd.after, odd.work = lose_one, work
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    await api.ends(uuid)
    first, second = odd.commits
    assert (first, odd.tasks[second].files) == (uuid, PHOTOS)
    await eventually(lambda: first not in odd.tasks)
    assert await api.get(f"/task/{uuid}/output") == ["attempt 2"]
    assert cluster.entry(uuid).task.charged == 0
    ended = "the node does not count the images that were sent (2 images were sent, and it has 3)"
    assert any(line.endswith(f"ended: {ended}") for line in await cluster.timeline(uuid))


async def test_a_node_that_never_has_what_was_sent_ends_the_task_with_the_numbers(cluster: Rig, odd: OddNode) -> None:
    def work(task: OddTask) -> None:
        odd.done(task)
        task.count = 7

    odd.work = work
    api = await cluster.start(max_attempts=1)
    uuid = await _create(api, PHOTOS)
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == "2 images were sent, and it has 7"
    assert len(odd.commits) == 4


async def test_the_guess_of_a_node_that_still_puts_files_in_place_is_not_taken_for_its_count(
    cluster: Rig, odd: OddNode
) -> None:
    def work(task: OddTask) -> None:
        task.count, task.console = 4, ["early"]

    odd.work = work
    api = await cluster.start()
    uuid = await _create(api, PHOTOS | {"gcp_list.txt": b"EPSG:4326", "align.laz": b"points"})
    await eventually(lambda: odd.commits)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    polls = cluster.cluster.context.client

    async def looked() -> bool:
        return bool(await polls.task(cluster.cluster.context.registry.nodes()[0].address, uuid))

    await eventually(looked)
    assert await api.get(f"/task/{uuid}/output") == []
    odd.last.code, odd.last.count = 10, 2
    await eventually(lambda: cluster.entry(uuid).task.node_code == 10)
    odd.done(odd.last)
    await api.ends(uuid)
    assert (odd.commits, await api.get(f"/task/{uuid}/output")) == ([uuid], ["early"])


async def test_images_in_a_seed_are_counted_with_those_that_were_sent(cluster: Rig, odd: OddNode) -> None:
    def work(task: OddTask) -> None:
        odd.done(task)
        task.count = 3

    odd.work = work
    api = await cluster.start()
    seed = zipped({"images/a.jpg": b"first", "images/c.jpg": b"third", "opensfm/config.yaml": b""})
    uuid = await _create(api, PHOTOS | {"seed.zip": seed})
    await api.ends(uuid)
    assert odd.commits == [uuid]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "b.jpg (missing)"),
        (lambda path: path.write_bytes(b"sec"), "b.jpg (3 of 6 bytes)"),
        (lambda path: path.write_bytes(b"second and more"), "b.jpg (15 of 6 bytes)"),
    ],
    ids=["missing", "truncated", "longer"],
)
async def test_a_held_file_that_is_not_what_was_accepted_fails_the_task_by_name_and_nothing_is_sent(
    cluster: Rig, damage: object, text: str
) -> None:
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    damage(_held(cluster, uuid) / "b.jpg")  # type: ignore[operator]
    node = await cluster.add_node()
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == f"files that were accepted are damaged or missing here: {text}"
    assert (node.commits, node.held(uuid)) == ([], {})


async def test_files_that_are_all_gone_fail_the_task_and_no_node_is_blamed(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    await cluster.cluster.context.spool.drop(uuid)
    await cluster.add_node()
    info = await api.ends(uuid, 30)
    assert info["status"]["errorMessage"] == f"its {len(PHOTOS)} files are not held here: {', '.join(sorted(PHOTOS))}"
    assert cluster.cluster.context.registry.nodes()[0].set_aside_until == 0


async def test_photos_of_an_archive_that_are_all_gone_fail_the_task_by_name(cluster: Rig) -> None:
    api = await cluster.start()
    names = [f"{number:02}.jpg" for number in range(12)]
    uuid = await _create(api, {"photos.zip": zipped({name: name.encode() for name in names})})
    await eventually(lambda: cluster.entry(uuid).task.zipurl == "")
    await cluster.cluster.context.spool.drop(uuid)
    await cluster.add_node()
    info = await api.ends(uuid, 30)
    expected = f"its 12 files are not held here: {', '.join(names[:10])} and 2 more"
    assert info["status"]["errorMessage"] == expected


@pytest.mark.parametrize("beside", [{}, {"gcp_list.txt": b"points"}], ids=["alone", "beside a text"])
async def test_an_archive_that_is_gone_before_it_was_unpacked_fails_the_task_by_name(
    cluster: Rig, beside: dict[str, bytes]
) -> None:
    api = await cluster.start()
    uuid = await api.init()
    await api.post(f"/task/new/upload/{uuid}", images({"photos.zip": zipped({"a.jpg": b"a"})} | beside))

    def lose(entry: Entry) -> None:
        if entry.task.phase is Phase.QUEUED:
            (_held(cluster, uuid) / "photos.zip").unlink(missing_ok=True)

    cluster.cluster.context.tasks.watch(lose)
    await api.commit(uuid)
    info = await api.ends(uuid, 30)
    losses = "files that were accepted are damaged or missing here: photos.zip (missing)"
    assert info["status"]["errorMessage"] == (losses if beside else "its file is not held here: photos.zip")


async def test_a_task_of_before_names_were_kept_is_compared_by_count_and_bytes(cluster: Rig) -> None:
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    async with cluster.cluster.context.store._transaction() as connection:
        await connection.exec_driver_sql("DELETE FROM manifests")
    (_held(cluster, uuid) / "b.jpg").unlink()
    await cluster.add_node()
    info = await api.ends(uuid, 30)
    expected = "2 files with 11 bytes were accepted, but 1 with 5 bytes are here"
    assert info["status"]["errorMessage"] == expected


async def test_a_lost_node_does_not_have_a_task_go_on_elsewhere_without_all_of_its_files(cluster: Rig) -> None:
    node = await cluster.add_node(seconds=60)
    api = await cluster.start(node_lost_after=0.2)
    uuid = await _create(api, PHOTOS)
    await eventually(lambda: node.commits)
    (_held(cluster, uuid) / "a.jpg").write_bytes(b"")
    other = await cluster.add_node()
    await cluster.stop_node(0)
    info = await api.ends(uuid, 30)
    assert "a.jpg (0 of 5 bytes), so it cannot go on elsewhere" in info["status"]["errorMessage"]
    assert other.commits == []


async def test_a_restart_from_held_files_and_a_move_are_refused_with_the_names_of_what_is_missing(
    cluster: Rig,
) -> None:
    api = await cluster.start()
    uuid = await _create(api, PHOTOS)
    await api.post("/task/cancel", {"uuid": uuid})
    (_held(cluster, uuid) / "a.jpg").unlink()
    answer = await api.post("/task/restart", {"uuid": uuid})
    assert "a.jpg (missing)" in answer["error"]
    node = await cluster.add_node(seconds=60)
    await cluster.ready()
    running = await _create(api, PHOTOS)
    await eventually(lambda: node.commits)
    await eventually(lambda: cluster.entry(running).task.phase is Phase.RUNNING)
    (_held(cluster, running) / "b.jpg").unlink()
    with pytest.raises(BadRequest, match=r"b\.jpg \(missing\), so it cannot be moved"):
        await tasks.retry(cluster.cluster.context, cluster.entry(running))
    assert cluster.entry(running).task.phase is Phase.RUNNING


async def test_what_came_from_a_zipurl_is_fetched_again_when_it_is_damaged(cluster: Rig) -> None:
    archive = zipped(PHOTOS)
    requests = 0

    async def serve(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(body=archive)

    app = web.Application()
    app.router.add_get("/photos.zip", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = await cluster.start(zipurl_allow_private=True)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/photos.zip"
    uuid = (await api.post("/task/new", images({}, {"zipurl": url})))["uuid"]
    await eventually(lambda: not cluster.entry(uuid).task.zipurl)
    (_held(cluster, uuid) / "a.jpg").write_bytes(b"fir")
    node = await cluster.add_node()
    await api.ends(uuid)
    held = {name: path.read_bytes() for name, path in node.held(node.commits[-1]).items()}
    assert (held, requests, len(node.commits)) == (PHOTOS, 2, 1)


async def test_a_task_goes_to_a_free_node_at_once_when_its_own_died_while_it_was_sent(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start(upload_max_speed=2_000_000, prefetch=0, node_poll_interval=60)
    await cluster.ready()
    uuid = await _create(api, {f"{number}.jpg": b"x" * 1_000_000 for number in range(6)})
    dispatcher = cluster.cluster.context.dispatcher
    await eventually(lambda: uuid in dispatcher.sending and dispatcher.sending[uuid].arrived_files)
    other = await cluster.add_node()
    await eventually(lambda: len(cluster.cluster.context.registry.nodes()) == 2)
    await cluster.ready()
    await cluster.stop_node(0)
    await eventually(lambda: cluster.entry(uuid).task.attempts == 2)
    assert any("refuses connections, and another one is free" in line for line in await cluster.timeline(uuid))
    await api.ends(uuid)
    assert list(other.tasks)
