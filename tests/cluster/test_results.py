# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a task leaves behind, on its node and here, and how clients get it."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from pathlib import Path

import aiohttp
import pytest

from clusterodm.core.errors import NodeUnreachable
from clusterodm.files.spool import Part
from tests.support import Rig, eventually


async def test_kept_results_are_served_with_ranges_and_single_assets_after_the_node_is_gone(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start(results="keep")
    uuid = await api.create()
    await api.ends(uuid)
    await cluster.stop_node(0)
    _, headers, whole = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert headers["Accept-Ranges"] == "bytes"
    status, headers, part = await api.raw("GET", f"/task/{uuid}/download/all.zip", headers={"Range": "bytes=5-14"})
    assert (status, part, headers["Content-Length"]) == (206, whole[5:15], "10")
    _, _, report = await api.raw("GET", f"/task/{uuid}/download/report/report.html")
    assert report == zipfile.ZipFile(io.BytesIO(whole)).read("report/report.html")
    status, _, part = await api.raw("GET", f"/task/{uuid}/download/report.html", headers={"Range": "bytes=-5"})
    assert (status, part) == (206, report[-5:])
    assert await api.get(f"/task/{uuid}/download/nothing.tif") == {"error": "Invalid asset"}


async def test_an_asset_of_results_that_stayed_on_the_node_is_served_too(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    assert await api.get(f"/task/{uuid}/download/all.zip") == {"error": "Asset not ready"}
    await api.ends(uuid)
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/README.txt")
    assert b"No photogrammetry" in content


async def test_held_files_go_when_the_results_are_safe(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    await eventually(lambda: not (cluster.folder / "data" / "spool" / uuid).exists())


async def test_a_head_request_for_results_has_headers_and_no_body(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    status, headers, body = await api.raw("HEAD", f"/task/{uuid}/download/all.zip")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert "version" in await api.get("/info")


async def test_a_node_that_stops_in_the_middle_of_a_download_never_looks_like_a_whole_file(cluster: Rig) -> None:
    node = await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    archive = node.archive(uuid)
    os.truncate(archive, 300_000_000)  # more than all buffers on the way hold

    async def stop_halfway() -> int:
        got = 0
        async with api.session.get(f"{api.url}/task/{uuid}/download/all.zip") as response:
            async for block in response.content.iter_any():
                got += len(block)
                if got > 1_000_000:
                    await cluster.stop_node(0)
        return got

    with pytest.raises(aiohttp.ClientPayloadError):
        await stop_halfway()


async def test_many_who_want_an_asset_of_results_that_stayed_on_the_node_bring_it_here_once(cluster: Rig) -> None:
    await cluster.add_node()
    api = await cluster.start()
    uuid = await api.create()
    await api.ends(uuid)
    results, archive = cluster.cluster.context.results, cluster.cluster.context.collector.archive
    new_part, late, begun = results.new_part, list[asyncio.Task[Path]](), 0

    async def fail(content: object) -> None:
        raise NodeUnreachable("the first one fails while another waits")

    def watched(uuid: str) -> Part:
        nonlocal begun
        begun += 1
        part = new_part(uuid)
        if begun == 1:
            part.write = fail  # type: ignore[method-assign]
        else:
            late.append(group.create_task(archive(cluster.entry(uuid))))
        return part

    results.new_part = watched  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        outcomes = await asyncio.gather(*(archive(cluster.entry(uuid)) for _ in range(2)), return_exceptions=True)
    assert isinstance(outcomes[0], NodeUnreachable)
    assert [task.result() for task in late] == [outcomes[1]]
    assert begun == 2
