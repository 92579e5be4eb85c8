# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Single assets by their short names, and HEAD that promises what GET does, wherever the results are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Awaitable, Callable

import pytest

from clusterodm.core.assets import FILES
from clusterodm.devnode import DevNode
from clusterodm.devnode.tasks import DevTask
from tests.support import Api, Rig, zipped

ARCHIVE = zipped({path: path.encode() * 50 for path in FILES.values()} | {"submodels/x/odm_dem/dsm.tif": b"another"})


async def completed(cluster: Rig, **settings: str) -> tuple[Api, str]:
    node = await cluster.add_node()
    api = await cluster.start(**settings)
    await cluster.ready()
    node.done = _replaced(node)
    uuid = await api.create()
    await api.ends(uuid)
    return api, f"/task/{uuid}/download"


def _replaced(node: DevNode) -> Callable[[DevTask], Awaitable[None]]:
    async def replace(task: DevTask) -> None:
        node.archive(task.uuid).write_bytes(ARCHIVE)

    return replace


@pytest.mark.parametrize("settings", [{"results": "keep"}, {}])
async def test_short_names_lead_to_the_files_that_older_nodes_gave(cluster: Rig, settings: dict[str, str]) -> None:
    api, path = await completed(cluster, **settings)
    whole = zipfile.ZipFile(io.BytesIO(ARCHIVE))
    for name, place in FILES.items():
        _, _, body = await api.raw("GET", f"{path}/{name}")
        assert body == whole.read(place), name
        assert (await api.raw("GET", f"{path}/{place}"))[2] == body
    assert await api.get(f"{path}/orthophoto.jpg") == {"error": "Invalid asset"}
    assert await api.get(f"{path}/dem/dsm.tif") == {"error": "Invalid asset"}


async def test_a_folder_may_be_asked_for_as_an_archive_of_its_own(cluster: Rig) -> None:
    api, path = await completed(cluster, results="keep")
    status, headers, whole = await api.raw("GET", f"{path}/textured_model.zip")
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    archive = zipfile.ZipFile(io.BytesIO(whole))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "odm_textured_model_geo.glb": b"odm_texturing/odm_textured_model_geo.glb" * 50
    }
    _, headers, part = await api.raw("GET", f"{path}/textured_model.zip", headers={"Range": "bytes=20-80"})
    assert (part, headers["Content-Range"]) == (whole[20:81], f"bytes 20-80/{len(whole)}")
    assert await api.get(f"{path}/dsm_tiles.zip") == {"error": "Invalid asset"}


@pytest.mark.parametrize("settings", [{"results": "keep"}, {}])
@pytest.mark.parametrize("name", ["all.zip", "report.pdf", "textured_model.zip"])
async def test_head_promises_what_get_does(cluster: Rig, settings: dict[str, str], name: str) -> None:
    api, path = await completed(cluster, **settings)
    for headers in ({}, {"Range": "bytes=3-9"}, {"Range": "bytes=99999999-"}):
        get = await api.raw("GET", f"{path}/{name}", headers=headers)
        head = await api.raw("HEAD", f"{path}/{name}", headers=headers)
        same = ["Accept-Ranges", "Content-Range", "Etag", "Content-Type"]
        same += ["Content-Length"] if get[0] != 416 else []  # an empty body needs none
        assert head[0] == get[0]
        assert [head[1].get(each) for each in same] == [get[1].get(each) for each in same]
        assert head[2] == b""
        if get[1].get("Accept-Ranges") == "bytes":
            assert get[0] == (416 if "9999" in str(headers) else 206 if headers else 200)
