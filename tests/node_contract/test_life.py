# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a node remembers after it ended, and for how long it keeps things."""

from __future__ import annotations

import functools
import json
import signal
import time
from pathlib import Path

from tests.node_contract.client import Client
from tests.node_contract.conftest import Start
from tests.support import eventually

DAYS_AGO = str(int(time.time() * 1000) - 3 * 24 * 3600 * 1000)


async def test_an_orderly_end_keeps_tasks_and_loses_consoles_and_those_that_ran_begin_again(start: Start) -> None:
    node = start("--test-seconds", "2", "-q", "1")
    done = await node.completed(name="done", skipPostProcessing="true")
    running, waiting = await node.created(("a.jpg", b"a"), ("b.jpg", b"b")), await node.created()
    for uuid in (running, waiting):
        await eventually(functools.partial(_is_in_place, node, uuid))
    assert await node.get(f"/task/{done}/output")
    await node.restart(signal.SIGTERM)
    info = await node.info(done, with_output=0)
    assert (info["name"], info["status"], info["processingTime"]) == ("done", {"code": 40}, -1)
    assert (info["output"], info["imagesCount"]) == ([], 1)
    assert await node.archive(done)
    for uuid, images in ((running, 2), (waiting, 1)):
        assert (await node.ends(uuid))["imagesCount"] == images


async def test_a_node_that_is_killed_forgets_its_tasks_and_keeps_uploads(start: Start) -> None:
    node = start("--test-seconds", "0")
    done = await node.completed()
    upload = await node.announced(("a.jpg", b"a"), name="kept")
    await node.restart(signal.SIGKILL)
    assert await node.get("/task/list") == []
    assert await node.info(done) == {"error": f"{done} not found"}
    assert not (node.program.data / done).exists()
    assert await node.upload(upload, ("b.jpg", b"b")) == {"success": True}
    await node.commit(upload)
    info = await node.ends(upload)
    assert (info["name"], info["imagesCount"]) == ("kept", 2)


async def test_a_node_that_is_killed_knows_what_it_wrote_down_before(start: Start) -> None:
    node = start("--test-seconds", "0")
    old = await node.completed()
    await node.restart(signal.SIGTERM)
    new = await node.completed()
    await node.restart(signal.SIGKILL)
    assert await node.get("/task/list") == [{"uuid": old}]
    assert await node.info(new) == {"error": f"{new} not found"}


async def test_results_are_deleted_some_time_after_the_date_that_the_client_gave(start: Start) -> None:
    node = start("--test-seconds", "0", "--cleanup-tasks-after", "60")
    young, old = await node.completed(), await node.completed(dateCreated=DAYS_AGO)
    assert await node.archive(old), "not before the next hour or start"
    await node.restart(signal.SIGTERM)
    assert await node.get("/task/list") == [{"uuid": young}]
    assert await node.info(old) == {"error": f"{old} not found"}
    assert await node.get(f"/task/{old}/download/all.zip") == {"error": f"{old} not found"}
    assert not (node.program.data / old).exists()
    assert await node.archive(young)


async def test_without_another_word_results_are_kept_for_two_days(start: Start) -> None:
    node = start("--test-seconds", "0")
    hours_ago = int(time.time() * 1000) - 47 * 3600 * 1000
    young, old = await node.completed(dateCreated=str(hours_ago)), await node.completed(dateCreated=DAYS_AGO)
    await node.restart(signal.SIGTERM)
    assert await node.get("/task/list") == [{"uuid": young}]
    assert await node.info(old) == {"error": f"{old} not found"}


async def test_uploads_that_are_never_committed_are_deleted_at_the_next_start(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "uploads.json"
    path.write_text(json.dumps({"cleanupUploadsAfter": 0}))
    node = start("--config", str(path))
    uuid = await node.announced()
    await node.restart(signal.SIGTERM)
    assert await node.commit(uuid) == {"error": "Invalid uuid (not found)"}
    assert not (node.program.uploads / uuid).exists()


async def test_an_orderly_end_is_one(start: Start) -> None:
    for how in (signal.SIGTERM, signal.SIGINT):
        node: Client = start("--test-seconds", "0")
        assert node.program.end(how) == 0


async def _is_in_place(node: Client, uuid: str) -> bool:
    """A task shows as running, too, until its files are in place; a node that ends before that forgets it."""
    info = await node.info(uuid)
    return bool(info["status"]["code"] == 10 or info["processingTime"] >= 0)
