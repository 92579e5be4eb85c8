# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The admin port behind a proxy: a real nginx with as little as `proxy_pass`, and a real browser. SCREENSHOTS=folder
keeps pictures of it."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from clusterodm.http import logins
from tests.admin.support import PASSWORD, Operator, login, start
from tests.clients.test_browser import CHROMIUM, QUIET
from tests.processes import free_port
from tests.support import Rig, eventually

PICTURES = os.environ.get("SCREENSHOTS")
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
HOST = "proxy_set_header Host $http_host;"


@asynccontextmanager
async def plain_nginx(rig: Rig, more: str = "") -> AsyncIterator[int]:
    """An nginx that has `proxy_pass` to the admin port and nothing else but `more`; its port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port, folder = free_port(), rig.folder
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if getpass.getuser() == "root" else ""
    file = folder / "nginx.conf"
    file.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/nginx-error.log; worker_processes 1;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {paths}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {rig.cluster.admin_url}; {more} }} }} }}\n"
    )
    proxy = await asyncio.create_subprocess_exec(NGINX, "-c", str(file), "-e", f"{folder}/nginx-error.log")
    try:

        async def listens() -> bool:
            assert proxy.returncode is None, (folder / "nginx-error.log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens)
        yield port
    finally:
        proxy.terminate()
        await proxy.wait()


@asynccontextmanager
async def browser_at(port: int, path: str) -> AsyncIterator[Page]:
    """The page as maps.example shows it to an operator."""
    async with async_playwright() as playwright:
        rules = [*QUIET, "--host-resolver-rules=MAP maps.example 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=rules)
        context = await browser.new_context(http_credentials={"username": "admin", "password": PASSWORD})
        page = await context.new_page()
        await page.goto(f"http://maps.example:{port}/#/{path}")
        yield page
        await browser.close()


async def add_node(page: Page, port: int) -> None:
    """Add a node by hand."""
    await page.get_by_role("button", name="Add node").click()
    await page.get_by_label("Host name or address").fill("127.0.0.1")
    await page.get_by_label("Port").fill(str(port))
    await page.get_by_role("button", name="Add", exact=True).click()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
async def test_behind_a_plain_proxy_the_page_says_why_nothing_can_be_changed(cluster: Rig) -> None:
    await cluster.add_node()
    [node] = cluster.ports
    cluster.ports.clear()
    _, operator = await start(cluster, admin_pass=PASSWORD)
    async with plain_nginx(cluster) as port, browser_at(port, "nodes") as page:
        await add_node(page, node)
        await expect(page.get_by_text("proxy_set_header Host $http_host")).to_be_visible()
        await expect(page.get_by_text(f"that page is at http://maps.example:{port}")).to_be_visible()
        if PICTURES:
            await page.screenshot(path=Path(PICTURES) / "plain-proxy.png")
    assert await operator.get("nodes") == []
    async with plain_nginx(cluster, HOST) as port, browser_at(port, "nodes") as page:
        await add_node(page, node)
        await expect(page.get_by_role("article", name=f"127.0.0.1:{node}")).to_be_visible()
        if PICTURES:
            await page.screenshot(path=Path(PICTURES) / "proxy-with-host.png")


async def test_without_a_password_nobody_comes_in_through_a_proxy(cluster: Rig) -> None:
    await start(cluster)
    for more in ("proxy_set_header X-Forwarded-For $remote_addr;", HOST):
        async with plain_nginx(cluster, more) as port:
            outside = Operator(f"http://127.0.0.1:{port}")
            name = {"Host": "maps.example"} if more == HOST else {}
            status, answer = await outside.ask("GET", "/api/v1/nodes", headers=name)
            await outside.session.close()
        assert status == 403
        assert "without --admin-pass this port answers only to localhost" in answer["error"]


async def test_who_guesses_through_a_proxy_holds_up_nobody_else(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "DELAY", 5.0)
    await start(cluster, admin_pass=PASSWORD, trusted_proxies="127.0.0.1")
    more = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    async with plain_nginx(cluster, more) as port:
        guesser, operator = Operator(f"http://127.0.0.1:{port}"), Operator(f"http://127.0.0.1:{port}")

        async def ask(who: Operator, address: str, password: str) -> int:
            return (await who.ask("GET", "/api/v1/nodes", headers={**login(password), "X-Forwarded-For": address}))[0]

        async with asyncio.TaskGroup() as group:
            # the address that nginx saw is trusted, so the one before it is the client
            guesses = [group.create_task(ask(guesser, "1.2.3.4", "hush-wrong")) for _ in range(logins.FEW + 2)]
            await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
            assert await ask(guesser, "1.2.3.4", PASSWORD) == 429
            assert await ask(operator, "1.2.3.5", PASSWORD) == 200
            for guess in guesses:
                guess.cancel()
        await guesser.session.close()
        await operator.session.close()
