# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The node's own page in a real browser, through the cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.async_api import Request, async_playwright

from clusterodm.devnode.photos import make_photos
from tests.needs import find, lacking
from tests.support import Rig

CHROMIUM = find("chromium")
NO_BROWSER = lacking("chromium", "libatomic")
needs_chromium = pytest.mark.skipif(NO_BROWSER != "", reason=NO_BROWSER)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def _failed(request: Request) -> list[str]:
    """A download looks like a navigation that failed."""
    return [] if request.is_navigation_request() else [request.url]


@needs_chromium
async def test_a_task_is_uploaded_followed_and_downloaded_through_the_page(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(seconds=0.5)
    await cluster.start()
    await cluster.ready()
    photos = make_photos(tmp_path / "photos", 6)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await browser.new_page(viewport={"width": 1100, "height": 760})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.extend(_failed(request)))
        await page.goto(cluster.cluster.url)
        await page.get_by_label("Name").fill("from a browser")
        await page.set_input_files("#images", [str(path) for path in photos])
        await page.get_by_role("button", name="Start task").click()
        await page.get_by_text("completed, 6 files").wait_for(timeout=20_000)
        if shots := os.environ.get("SCREENSHOTS"):
            await page.screenshot(path=Path(shots) / "node-page.png")
        async with page.expect_download() as waiting:
            await page.get_by_text("Download all.zip").click()
        saved = tmp_path / "all.zip"
        await (await waiting.value).save_as(saved)
        assert saved.read_bytes()[:2] == b"PK"
        await browser.close()
    assert problems == []
    assert len(cluster.nodes[0].commits) == 1
