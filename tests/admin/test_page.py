# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page of operators in a real browser. SCREENSHOTS=folder keeps pictures of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect

from clusterodm.core.nodes import make_address
from clusterodm.core.tasks import Outcome, Phase, Task
from clusterodm.devnode.photos import make_photos
from tests.admin.support import start
from tests.clients.test_browser import CHROMIUM, QUIET, needs_chromium
from tests.support import Rig, eventually, images

expect.set_options(timeout=15_000)
PICTURES = os.environ.get("SCREENSHOTS")
pytestmark = needs_chromium


@asynccontextmanager
async def opened(rig: Rig, path: str = "", **context: Any) -> AsyncIterator[Page]:
    """The page; an error in its console, or a breach of its policy, fails the test."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await (await browser.new_context(**context)).new_page()
        wrong: list[str] = []
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.goto(f"{rig.cluster.admin_url}/#/{path}")
        yield page
        await browser.close()
        assert wrong == []


async def picture(page: Page, name: str) -> None:
    """Keep a picture when somebody wants it."""
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png")


async def accessible(page: Page) -> None:
    """No rule of WCAG A and AA that a program can check is broken."""
    report = await Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert report.violations_count == 0, report.generate_report()


async def test_nodes_are_added_locked_drained_and_removed_by_hand(cluster: Rig) -> None:
    await cluster.add_node(slots=2)
    port = cluster.ports.pop()
    _, operator = await start(cluster)
    async with opened(cluster, "nodes") as page:
        await expect(page.get_by_text("No nodes yet")).to_be_visible()
        await page.get_by_role("button", name="Add node").click()
        await page.get_by_label("Host name or address").fill("127.0.0.1")
        await page.get_by_label("Port").fill(str(port))
        await page.get_by_role("button", name="Add", exact=True).click()
        node = page.get_by_role("article", name=f"127.0.0.1:{port}")
        await expect(node.get_by_text("online")).to_be_visible()
        await expect(page.get_by_text("healthy")).to_be_visible()
        await node.get_by_role("button", name="Lock").click()
        await expect(node.get_by_text("locked")).to_be_visible()
        await node.get_by_role("button", name="Unlock").click()
        await expect(node.get_by_text("online")).to_be_visible()
        await node.get_by_role("button", name="Drain").click()
        await page.get_by_role("button", name="Drain node").click()
        await expect(node.get_by_text("drained")).to_be_visible()
        await accessible(page)
        await node.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Cancel").click()
        assert len(await operator.get("nodes")) == 1
        await node.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Remove node").click()
        await expect(node).to_have_count(0)
        assert await operator.get("nodes") == []


async def test_a_task_is_followed_prioritized_moved_and_its_results_are_downloaded(
    cluster: Rig, tmp_path: Path
) -> None:
    first = await cluster.add_node(seconds=60)
    api, _ = await start(cluster, results="keep")
    await cluster.ready()
    uuid = await api.create(3, name="<b>North</b> field")
    async with opened(cluster, f"task/{uuid}") as page:
        await expect(page.get_by_role("heading", name="<b>North</b> field")).to_be_visible()
        await expect(page.get_by_role("log")).to_contain_text("Development node")
        await expect(page.get_by_role("main").locator("p.soft").first).to_contain_text("running on 127.0.0.1")
        await page.get_by_role("button", name="Priority").click()
        await page.get_by_role("spinbutton", name="Priority").fill("7")
        await page.get_by_role("button", name="Set").click()
        await expect(page.get_by_text("priority set to 7 by an operator")).to_be_visible()
        await cluster.add_node(seconds=0.1)
        await cluster.ready()
        await page.get_by_role("button", name="Move to another node").click()
        await page.get_by_role("button", name="Move task").click()
        await expect(page.get_by_text("completed; results kept by the cluster")).to_be_visible(timeout=20_000)
        await expect(page.get_by_role("log")).to_contain_text("Compressing all.zip")
        assert first.commits == [uuid]
        await accessible(page)
        async with page.expect_download() as waiting:
            await page.get_by_role("link", name="report/report.html").click()
        await (await waiting.value).save_as(tmp_path / "report.html")
        assert b"<html" in (tmp_path / "report.html").read_bytes()
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Remove task").click()
        await expect(page.get_by_role("heading", name="Tasks")).to_be_visible()
    assert (await api.get(f"/task/{uuid}/info"))["error"] == f"{uuid} not found"


async def test_uploads_that_are_not_committed_are_seen_and_dropped(cluster: Rig) -> None:
    api, operator = await start(cluster)
    first, second = await api.init(name="North <b>field</b>"), await api.init(name="South field")
    for uuid in (first, second):
        await api.post(f"/task/new/upload/{uuid}", images({"a.jpg": b"a" * 1_500_000}))
    cluster.clock.ahead += 700
    await api.upload(second, b__jpg=b"b")
    async with opened(cluster, viewport={"width": 1360, "height": 860}) as page:
        uploads = page.get_by_role("region", name="Uploads")
        row = uploads.get_by_role("row", name="North <b>field</b>")
        await expect(row).to_contain_text("abandoned")
        await expect(row).to_contain_text("1.5 MB")
        await expect(uploads.get_by_role("row", name="South field")).to_contain_text("idle")
        await expect(page.get_by_text("uploading, 3.0 MB")).to_be_visible()
        await accessible(page)
        await picture(page, "uploads")
        await row.get_by_role("button", name="Drop").click()
        await page.get_by_role("button", name="Cancel").click()
        assert (await operator.get("uploads"))["total"] == 2
        await row.get_by_role("button", name="Drop").click()
        await picture(page, "uploads-drop")
        await page.get_by_role("button", name="Drop upload").click()
        await expect(row).to_have_count(0)
        assert [each["uuid"] for each in (await operator.get("uploads"))["uploads"]] == [second]
        await api.post("/task/cancel", {"uuid": second})
        await expect(uploads).to_have_count(0)


async def test_one_look_tells_how_the_cluster_is_and_it_changes_by_itself(cluster: Rig) -> None:
    await cluster.add_node(seconds=1.5)
    api, _ = await start(cluster)
    await cluster.ready()
    async with opened(cluster) as page:
        await expect(page.locator("#health")).to_have_text("healthy")
        running = await api.create(2, name="first")
        waiting = await api.create(2, name="second")
        await expect(page.get_by_role("row", name="second")).to_contain_text("all acceptable nodes are busy")
        await expect(page.locator("#health")).to_have_text("busy")
        await accessible(page)
        await api.ends(running)
        await api.ends(waiting)
        await expect(page.get_by_text("The queue is empty")).to_be_visible()
        await expect(page.get_by_text("of 2 finished tasks completed")).to_be_visible()
        await cluster.stop_node(0)
        await expect(page.get_by_text("no node is online")).to_be_visible()
        await expect(page.locator("#health")).to_have_text("degraded")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_can_be_read_in_both_colours(cluster: Rig, scheme: Any) -> None:
    await cluster.add_node(seconds=0.2, fail="dataset", fail_chance=0.5, seed=3)
    api, _ = await start(cluster, results="keep")
    await cluster.ready()
    uuids = [await api.create(1, name=f"task {number}") for number in range(6)]
    await eventually(lambda: _all_over(api, uuids))
    await api.init()
    await api.post("/task/cancel", {"uuid": await api.create(1)})
    async with opened(cluster, color_scheme=scheme) as page:
        for path in ("", "tasks", f"task/{uuids[0]}", "nodes", "machines", "history", "settings"):
            await page.goto(f"{cluster.cluster.admin_url}/#/{path}")
            await expect(page.get_by_role("heading").first).to_be_attached()
            await accessible(page)


async def _all_over(api: Any, uuids: list[str]) -> bool:
    return all([await api.code(uuid) in (30, 40) for uuid in uuids])


async def test_keys_lead_to_pages_and_the_search(cluster: Rig) -> None:
    api, _ = await start(cluster)
    uuid = await api.create(1, name="findable")
    await api.create(1, name="other")
    async with opened(cluster) as page:
        await page.keyboard.press("t")
        await expect(page.get_by_role("heading", name="Tasks")).to_be_visible()
        await expect(page.get_by_role("row")).to_have_count(3)
        await page.keyboard.press("/")
        await page.keyboard.type(uuid[:9])
        await expect(page.get_by_role("row")).to_have_count(2)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="findable")).to_be_visible()
        await page.keyboard.press("s")
        await expect(page.get_by_role("cell", name="spool-max", exact=True)).to_be_visible()
        await accessible(page)


async def test_five_hundred_nodes_and_twenty_thousand_tasks_are_no_burden(cluster: Rig) -> None:
    _, operator = await start(cluster, node_poll_interval=3600)
    parts = cluster.cluster.context
    now = time.time()
    for number in range(500):
        await parts.registry.add(make_address("127.0.0.1", 20_000 + number), locked=True)
    from sqlalchemy import insert

    from clusterodm.store import schema
    from clusterodm.store.database import columns

    tasks = [
        Task(
            uuid=f"{number:08x}-0000-4000-8000-000000000000",
            owner="local",
            phase=Phase.FINISHED,
            name=f"task {number}",
            outcome=Outcome.COMPLETED,
            committed_at=now - number,
            finished_at=now - number,
        )
        for number in range(20_000)
    ]
    async with parts.store._engine.begin() as connection:
        await connection.execute(insert(schema.tasks), [columns(task, schema.tasks) for task in tasks])
    async with opened(cluster, "nodes") as page:
        await expect(page.get_by_role("article")).to_have_count(60)
        await page.get_by_placeholder("Name or label").fill(":20499")
        await expect(page.get_by_role("article")).to_have_count(1)
        await page.goto(f"{cluster.cluster.admin_url}/#/tasks")
        await expect(page.get_by_text("1–50 of 20,000")).to_be_visible()
        await page.get_by_role("button", name="older").click()
        await expect(page.get_by_text("51–100 of 20,000")).to_be_visible()
        await page.goto(f"{cluster.cluster.admin_url}/#/")
        await expect(page.locator(".map a")).to_have_count(500)
    assert (await operator.get("status"))["completed"] == 20_000


async def _season(rig: Rig, folder: Path) -> tuple[str, str]:
    """A cluster with something to see: nodes of several kinds, tasks in all states; one that runs, one that is done."""
    for slots, seconds, limit in ((1, 2, None), (2, 3, 300), (4, 6, 1000), (1, 9, None), (2, 60, 500)):
        await rig.add_node(slots=slots, seconds=seconds, max_images=limit)
    rig.nodes[3].knobs.fail = "dataset"
    api, _ = await start(rig, results="keep", public_address="https://maps.example")
    await rig.ready()
    photos = {path.name: path.read_bytes() for path in make_photos(folder, 4)}
    fields = ("North field", "Quarry, week 47", "Bridge inspection", "Orchard", "Coast line", "Solar farm", "Landslide")
    uuids = []
    for number in range(21):
        name = f"{fields[number % 7]}{f', flight {number // 7 + 1}' if number > 6 else ''}"
        uuid = await api.init(name=name, options='[{"name":"dsm","value":true}]')
        await api.post(f"/task/new/upload/{uuid}", images(photos))
        await api.commit(uuid)
        uuids.append(uuid)
    await api.init(name="Still uploading")
    await eventually(lambda: rig.nodes[0].tasks and rig.nodes[3].tasks, seconds=30)
    codes: dict[int, str] = {}

    async def both() -> bool:
        for uuid in uuids:
            codes.setdefault(await api.code(uuid), uuid)
        return {20, 40} <= codes.keys()

    await eventually(both, seconds=60)
    return codes[20], codes[40]


@pytest.mark.skipif(not PICTURES, reason="needs `make screenshots`")
async def test_pictures(cluster: Rig, tmp_path: Path) -> None:
    running, done = await _season(cluster, tmp_path / "photos")
    wide, phone = {"width": 1360, "height": 860}, {"width": 390, "height": 844}
    pages = {
        "overview": "",
        "tasks": "tasks",
        "task": f"task/{done}",
        "console": f"task/{running}",
        "nodes": "nodes",
        "history": "history",
    }
    for scheme in ("light", "dark"):
        async with opened(cluster, viewport=wide, color_scheme=scheme) as page:
            for name, path in pages.items():
                await page.goto(f"{cluster.cluster.admin_url}/#/{path}")
                await asyncio.sleep(1.2)  # what is drawn a moment later belongs to the picture
                await picture(page, f"{name}-{scheme}")
    async with opened(cluster, viewport=phone, device_scale_factor=2) as page:
        for name in ("overview", "task"):
            await page.goto(f"{cluster.cluster.admin_url}/#/{pages[name]}")
            await asyncio.sleep(1.2)
            await picture(page, f"{name}-phone")
