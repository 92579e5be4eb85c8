# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses with signatures: whoever is called compares what came with what was signed, byte by byte."""

from __future__ import annotations

import pytest
from aiohttp import web
from yarl import URL

from clusterodm.core.nodes import make_address
from tests.support import Rig, eventually, form, zipped

SIGNED = "/maps%2Fof%20us/a.zip?X-Amz-Credential=key%2F2026%2Fs3&X-Amz-Signature=a%2Bb%3D%7e+c&x=1&x=2"


async def signed_server(rig: Rig, *, redirect: str = "") -> tuple[str, list[str]]:
    """A server that answers only what was signed, and the raw paths that it was asked for."""
    paths: list[str] = []

    async def give(request: web.Request) -> web.StreamResponse:
        paths.append(request.raw_path)
        if redirect and request.raw_path == redirect:
            return web.Response(status=302, headers={"Location": SIGNED})
        if request.raw_path != SIGNED:
            return web.Response(status=403)
        return web.Response(body=zipped({"a.jpg": b"a", "b.jpg": b"b"}))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", give)
    runner = web.AppRunner(app)
    await runner.setup()
    rig.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}", paths


@pytest.mark.parametrize("first", [SIGNED, "/to%2Fthere?next=%2Fx"])
async def test_a_signed_zipurl_is_fetched_also_after_a_redirect(cluster: Rig, first: str) -> None:
    url, paths = await signed_server(cluster, redirect="" if first == SIGNED else first)
    await cluster.add_node()
    api = await cluster.start(zipurl_allow_private=True)
    uuid = (await api.post("/task/new", form({"zipurl": url + first})))["uuid"]
    assert (await api.ends(uuid))["imagesCount"] == 2
    assert paths == list(dict.fromkeys([first, SIGNED]))


async def test_a_signed_webhook_is_called_as_it_was_written(cluster: Rig) -> None:
    url, paths = await signed_server(cluster)
    await cluster.add_node()
    api = await cluster.start(webhook_allow_private=True)
    await api.ends(await api.create(1, webhook=url + SIGNED))
    await eventually(lambda: paths)
    assert paths == [SIGNED]


async def test_the_page_of_a_node_is_asked_for_as_the_browser_asked_but_with_the_token_of_the_node(
    cluster: Rig,
) -> None:
    paths: list[str] = []

    async def give(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.json_response({"version": "2.2.4"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", give)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = await cluster.start()
    address = make_address("127.0.0.1", runner.addresses[0][1], "hush+a/b=")
    await cluster.cluster.context.registry.add(address)
    await cluster.ready()
    path = "/js/main%2Dmin.js?v=%2F1&v=a+b&token=hush-mine&empty"
    async with api.session.get(URL(api.url + path, encoded=True)) as answer:
        assert answer.status == 200
    assert "/js/main%2Dmin.js?v=%2F1&v=a+b&empty&token=hush%2Ba%2Fb%3D" in paths


async def test_a_redirect_to_a_bucket_is_what_was_configured(cluster: Rig) -> None:
    await cluster.add_node()
    prefix = "https://bucket.example/maps%2Fof%20us"
    api = await cluster.start(downloads_from_s3=prefix)
    uuid = await api.create(1)
    await api.ends(uuid)
    status, headers, _ = await api.raw("GET", f"/task/{uuid}/download/all.zip", allow_redirects=False)
    assert (status, headers["Location"]) == (302, f"{prefix}/{uuid}/all.zip")


async def test_a_zipurl_that_is_asked_for_too_often_is_fetched_later(cluster: Rig) -> None:
    paths: list[str] = []

    async def give(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.Response(status=429) if len(paths) == 1 else web.Response(body=zipped({"a.jpg": b"a"}))

    app = web.Application()
    app.router.add_get("/a.zip", give)
    runner = web.AppRunner(app)
    await runner.setup()
    cluster.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await cluster.add_node()
    api = await cluster.start(zipurl_allow_private=True)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/a.zip"
    await api.ends((await api.post("/task/new", form({"zipurl": url})))["uuid"])
    assert len(paths) == 2
