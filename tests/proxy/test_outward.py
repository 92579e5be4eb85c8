# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses that owners give us, and that we are made to ask: they never lead to what only we can reach."""

from __future__ import annotations

from aiohttp import web

from tests.support import Rig, eventually, form

PRIVATE = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://１２７.0.0.1/",
    "http://127。0。0。1/",
    "http://user@127.0.0.1/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[64:ff9b::7f00:1]/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://224.0.0.1/",
]


async def hook(cluster: Rig, *, to: str = "") -> tuple[int, list[str]]:
    """The port of a server that is to be called, and the paths that were; it sends everybody on `to` another."""
    called: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        called.append(request.path)
        if to:
            raise web.HTTPTemporaryRedirect(to)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner.addresses[0][1], called


async def test_a_zipurl_never_leads_to_a_private_address_however_it_is_written(cluster: Rig) -> None:
    api = await cluster.start()
    uuids = [(await api.post("/task/new", form({"zipurl": url})))["uuid"] for url in PRIVATE]
    for uuid in uuids:
        info = await api.ends(uuid, 30)
        assert info["status"]["errorMessage"] in (
            "zipurl: leads to a private address, which is not allowed here",
            "zipurl: is not an http or https URL",
        )


async def test_a_webhook_never_leads_to_a_private_address_unless_allowed(cluster: Rig) -> None:
    port, called = await hook(cluster)
    await cluster.add_node(slots=10)
    api = await cluster.start()
    uuids = [await api.create(1, webhook=f"http://{host}:{port}/") for host in ("127.0.0.1", "localhost", "2130706433")]
    for uuid in uuids:
        await api.ends(uuid)
        await eventually(lambda: not any(cluster.entry(uuid).task.webhook_due for uuid in uuids))
        assert (await cluster.timeline(uuid))[-1].startswith("gave up calling the owner's webhook after 1 tries: ")
    assert called == []


async def test_a_webhook_does_not_follow_a_redirect(cluster: Rig) -> None:
    port, called = await hook(cluster, to="/elsewhere")
    await cluster.add_node()
    api = await cluster.start(webhook_allow_private=True)
    await api.ends(await api.create(1, webhook=f"http://127.0.0.1:{port}/hook"))
    await eventually(lambda: len(called) > 1)
    assert set(called) == {"/hook"}
