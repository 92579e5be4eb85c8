# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results that nodes put into a bucket: of a pretended S3, and of a real Ceph object gateway where there is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from clusterodm.admin.operations import tasks
from clusterodm.cluster.machines import absence
from clusterodm.core.errors import Rejected, Unreachable
from clusterodm.devnode.config import read_config
from clusterodm.providers import Bucket
from clusterodm.providers.config import ProviderConfig, Size
from clusterodm.providers.node import node_config
from clusterodm.server import schedule
from tests.buckets import CEPH, SECRET, Gateway, anonymous, make_gateway, running_ceph, running_moto
from tests.needs import need
from tests.providers.support import Cloud
from tests.support import Api, Rig, eventually, zipped


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real gateway, for all tests of this file."""
    need(*CEPH)
    with running_ceph(tmp_path_factory.mktemp("ceph")) as url:
        yield url


@pytest.fixture(params=["moto", "ceph"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        moto = request.param == "moto"
        url = await stack.enter_async_context(running_moto()) if moto else request.getfixturevalue("ceph")
        running = await asyncio.to_thread(make_gateway, url)
        yield running
        await asyncio.to_thread(running.close)


async def start(
    rig: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, *, idle: float = 0.1, **settings: Any
) -> Api:
    monkeypatch.setattr(schedule, "_SCALE", 0.02)
    monkeypatch.setattr(schedule, "_SWEEP", 0.2)
    monkeypatch.setattr(absence, "SETTLE", 0.1)
    path = rig.folder / "asr.json"
    path.write_text(json.dumps({"idleTimeout": idle, **cloud.entry, "s3": gateway.entry(acl="none")}))
    return await rig.start(asr=path, machine_poll_interval=0.05, **settings)


@pytest.mark.parametrize(
    ("keys", "status"), [({}, 403), ({"acl": "none"}, 403), ({"acl": "private"}, 403), ({"acl": "public-read"}, 200)]
)
async def test_nobody_reads_results_unless_that_is_configured(
    gateway: Gateway, keys: dict[str, str], status: int, tmp_path: Path
) -> None:
    """What a node does with the file that it gets: it puts the ACL on each object, unless that is none."""
    config = ProviderConfig(provider="x", image_size_mapping=[Size(max_images=1, slug="s")], s3=gateway.config(**keys))
    path = tmp_path / "node.json"
    path.write_text(json.dumps(node_config(config, port=1, token="t", max_images=1, slots=1)))
    read = read_config(path)
    acl = {} if read.s3_acl == "none" else {"ACL": read.s3_acl}

    def put() -> None:
        gateway.client.put_object(Bucket=read.s3_bucket, Key="u/all.zip", Body=b"PK", **acl)

    await asyncio.to_thread(put)
    assert await asyncio.to_thread(anonymous, f"{gateway.url}/maps/u/all.zip") == status
    path.unlink()  # it holds what no log may


async def test_results_are_left_in_the_bucket_and_served_from_there(
    cluster: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start(cluster, cloud, gateway, monkeypatch)
    uuid = await api.create(3)
    await api.ends(uuid)
    await eventually(lambda: not cloud.names())
    assert await asyncio.to_thread(gateway.keys) == [f"{uuid}/all.zip", f"{uuid}/orthophoto.tif"]
    assert cluster.cluster.context.results.archive(uuid) is None
    detail = await tasks.show(cluster.cluster.context, cluster.entry(uuid))
    assert detail.results_at == "bucket of hetzner"
    assert any("results in the bucket of hetzner" in line for line in await cluster.timeline(uuid))

    status, headers, whole = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert (status, whole[:2], headers["Accept-Ranges"]) == (200, b"PK", "bytes")
    assert headers["Etag"]
    status, headers, part = await api.raw("GET", f"/task/{uuid}/download/all.zip", headers={"Range": "bytes=5-14"})
    assert (status, part, headers["Content-Range"]) == (206, whole[5:15], f"bytes 5-14/{len(whole)}")
    status, _, _ = await api.raw("GET", f"/task/{uuid}/download/all.zip", headers={"Range": "bytes=99999999-"})
    assert status == 416
    _, _, photo = await api.raw("GET", f"/task/{uuid}/download/orthophoto.tif")
    assert photo == b"TIFF " * 1000
    _, _, report = await api.raw("GET", f"/task/{uuid}/download/report.html")
    assert b"<html" in report, "out of the archive, of which nothing else was fetched"
    assert cluster.cluster.context.results.archive(uuid) is None
    reported = {"Range": f"bytes=3-{len(report) - 1}"}
    status, headers, part = await api.raw("GET", f"/task/{uuid}/download/report.html", headers=reported)
    assert (status, part) == (206, report[3:])
    conditional = await api.raw("GET", f"/task/{uuid}/download/report.html", headers={"If-None-Match": headers["Etag"]})
    assert conditional[0] == 304
    assert await api.get(f"/task/{uuid}/download/nothing.tif") == {"error": "Invalid asset"}

    await api.post("/task/remove", {"uuid": uuid})
    await eventually(lambda: gateway.keys() == [])


async def test_the_owners_webhook_has_the_photos_out_of_the_bucket(
    cluster: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start(cluster, cloud, gateway, monkeypatch)
    uuid = await api.create(2)
    await api.ends(uuid)
    entry, photos = cluster.entry(uuid), cluster.cluster.context.photos
    assert await photos.of(entry.task, entry.attempt) is None
    written = [{"filename": "a.jpg", "width": 4000}]
    archive = zipped({"images.json": json.dumps(written).encode()})
    await asyncio.to_thread(gateway.client.put_object, Bucket="maps", Key=f"{uuid}/all.zip", Body=archive)
    assert [json.loads(bytes(each)) for each in await photos.of(entry.task, entry.attempt) or []] == written


async def test_a_machine_that_leaves_does_not_bring_here_what_is_in_the_bucket(
    cluster: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start(cluster, cloud, gateway, monkeypatch, idle=60)
    uuid = await api.create(2)
    await api.ends(uuid)
    node = cluster.cluster.context.registry.nodes()[0]
    await cluster.cluster.context.registry.change(node, draining=True)
    await cluster.cluster.context.drainer.sweep()
    assert cluster.cluster.context.results.archive(uuid) is None
    assert node.record.id in cluster.cluster.context.drainer.drained


async def test_clients_may_be_sent_to_a_private_bucket_by_a_signed_address(
    cluster: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start(cluster, cloud, gateway, monkeypatch, results_from_s3="redirect")
    uuid = await api.create(2)
    await api.ends(uuid)
    status, headers, _ = await api.raw("GET", f"/task/{uuid}/download/all.zip", allow_redirects=False)
    assert status == 302
    assert SECRET not in headers["Location"]
    _, _, whole = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert whole.startswith(b"PK")
    status, headers, _ = await api.raw("HEAD", f"/task/{uuid}/download/all.zip", allow_redirects=False)
    assert (status, headers["Accept-Ranges"], headers["Content-Length"]) == (200, "bytes", str(len(whole)))


async def test_what_a_node_did_not_put_into_the_bucket_is_brought_here(
    cluster: Rig, cloud: Cloud, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloud.world is not None
    cloud.world.uploads = False
    api = await start(cluster, cloud, gateway, monkeypatch)
    uuid = await api.create(2)
    await api.ends(uuid)
    assert cluster.cluster.context.results.archive(uuid) is not None
    assert await asyncio.to_thread(gateway.keys) == []


async def test_a_bucket_is_tried_at_the_start_and_what_is_wrong_is_said_clearly(gateway: Gateway) -> None:
    await Bucket(gateway.config()).check()
    assert await asyncio.to_thread(gateway.keys) == []
    with pytest.raises(Rejected, match="there is no bucket other"):
        await Bucket(gateway.config(bucket="other")).check()
    with pytest.raises(Unreachable, match="bucket maps does not answer"):
        await Bucket(gateway.config(endpoint="http://127.0.0.1:1")).check()


async def test_a_real_gateway_checks_keys(gateway: Gateway, request: pytest.FixtureRequest) -> None:
    if "moto" in request.node.name:
        pytest.skip("moto believes every key")
    with pytest.raises(Rejected, match="the keys may not use bucket maps"):
        await Bucket(gateway.config(secret_key="hush-wrong")).check()


async def test_an_object_of_many_blocks_is_read_whole_and_in_parts(gateway: Gateway) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB
    await asyncio.to_thread(lambda: gateway.client.put_object(Bucket="maps", Key="k/all.zip", Body=content))
    bucket = Bucket(gateway.config())
    stored = await bucket.find("k/all.zip")
    assert stored is not None
    assert stored.size == len(content)
    assert b"".join([block async for block in bucket.read("k/all.zip", 0, stored.size)]) == content
    assert b"".join([block async for block in bucket.read("k/all.zip", 7, 9_000_000)]) == content[7 : 7 + 9_000_000]
    await bucket.clear("k/")
    assert await bucket.find("k/all.zip") is None
