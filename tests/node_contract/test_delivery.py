# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real nodes with the configuration that the cluster writes, and a bucket that takes their results, or does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core import retry
from clusterodm.core.backoff import Backoff
from clusterodm.server import schedule
from tests.buckets import CEPH, Gate, Gateway, anonymous, make_gateway, running_ceph, running_gate, running_moto
from tests.needs import need
from tests.node_contract.nodes import DEVNODE, checkout
from tests.support import Api, Rig, eventually

SCRIPT = Path(__file__).parent / "real-node"
#: A node tries a delivery seven times within two minutes; nobody waits for that here.
HASTEN = """
const real = global.setTimeout
const pauses = [2000, 4000, 8000, 16000, 32000, 64000]
global.setTimeout = (call, pause, ...rest) => real(call, pauses.includes(pause) ? 5 : pause, ...rest)
"""


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real gateway."""
    need(*CEPH)
    with running_ceph(tmp_path_factory.mktemp("ceph")) as url:
        yield url


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Iterator[Path]:
    """Where real nodes run; none is left."""
    if kind == DEVNODE:
        pytest.skip("it delivers to no bucket")
    checkout(kind)
    nodes_folder = tmp_path / "nodes"
    nodes_folder.mkdir()
    yield nodes_folder
    for path in nodes_folder.glob("*/machine.json"):
        with suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


@pytest.fixture(params=["moto", "ceph"])
async def bucket(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Gate, Gateway]]:
    """A bucket, and the gate through which nodes and the cluster reach it."""
    async with AsyncExitStack() as stack:
        moto = request.param == "moto"
        url = await stack.enter_async_context(running_moto()) if moto else request.getfixturevalue("ceph")
        gateway = await asyncio.to_thread(make_gateway, url)
        yield await stack.enter_async_context(running_gate(url)), gateway
        await asyncio.to_thread(gateway.close)


@pytest.fixture
def start(kind: str, folder: Path, cluster: Rig, bucket: tuple[Gate, Gateway], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts a cluster whose machines are processes of the real node."""
    monkeypatch.setattr(schedule, "_SCALE", 0.05)
    monkeypatch.setattr(retry, "RESTART_BACK_OFF", Backoff(first=0.1, longest=0.1))
    (folder / "hasten.js").write_text(HASTEN)

    async def begin(**keys: Any) -> Api:
        gate, gateway = bucket
        entry = {
            "provider": "command",
            **{verb: [sys.executable, str(SCRIPT), verb] for verb in ("create", "list", "delete")},
            "environment": {
                "CHECKOUT": str(checkout(kind)),
                "FOLDER": str(folder),
                "HASTEN": str(folder / "hasten.js"),
            },
            "imageSizeMapping": [{"maxImages": 10, "slug": "any"}],
            "idleTimeout": 60,
            "s3": gateway.entry(endpoint=gate.url, **keys),
        }
        path = cluster.folder / "asr.json"
        path.write_text(json.dumps(entry))
        return await cluster.start(asr=path, machine_poll_interval=0.1)

    return begin


async def test_results_reach_the_bucket_and_nobody_without_keys_reads_them(
    start: Any, cluster: Rig, bucket: tuple[Gate, Gateway]
) -> None:
    gate, gateway = bucket
    api = await start()
    uuid = await api.create(2)
    await api.ends(uuid, seconds=60)
    assert f"{uuid}/all.zip" in await asyncio.to_thread(gateway.keys)
    assert await asyncio.to_thread(anonymous, f"{gateway.url}/maps/{uuid}/all.zip") == 403
    assert {acl for _, acl in gate.writes} == {""}, "none is sent, so that a bucket that forbids ACLs takes them, too"
    assert any("results in the bucket of command" in line for line in await cluster.timeline(uuid))
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert content.startswith(b"PK")


async def test_a_bucket_that_forbids_acls_takes_results(start: Any, bucket: tuple[Gate, Gateway]) -> None:
    gate, gateway = bucket
    gate.refuses = lambda path, headers: "AccessControlListNotSupported" if "x-amz-acl" in headers else ""
    api = await start(acl="")
    uuid = await api.create(1)
    await api.ends(uuid, seconds=60)
    assert f"{uuid}/all.zip" in await asyncio.to_thread(gateway.keys)


@pytest.mark.parametrize("acl", ["public-read", "private"])
async def test_an_acl_that_is_configured_is_the_one_of_the_results(
    start: Any, bucket: tuple[Gate, Gateway], acl: str
) -> None:
    gate, gateway = bucket
    api = await start(acl=acl)
    uuid = await api.create(1)
    await api.ends(uuid, seconds=60)
    assert (f"/maps/{uuid}/all.zip", acl) in gate.writes
    status = await asyncio.to_thread(anonymous, f"{gateway.url}/maps/{uuid}/all.zip")
    assert status == (200 if acl == "public-read" else 403)


async def test_a_node_that_could_not_deliver_begins_again_and_delivers(
    start: Any, cluster: Rig, bucket: tuple[Gate, Gateway]
) -> None:
    gate, gateway = bucket
    gate.refuses = lambda path, headers: "AccessDenied" if path.endswith("/all.zip") else ""
    api = await start()
    uuid = await api.create(2, options='[{"name": "dsm", "value": true}]')

    async def begun_again() -> bool:
        return any("to deliver its results" in line for line in await cluster.timeline(uuid))

    await eventually(begun_again, seconds=60)
    gate.refuses = lambda path, headers: ""
    info = await api.ends(uuid, seconds=60)
    assert {"name": "dsm", "value": True} in info["options"]
    task = cluster.entry(uuid).task
    assert (task.attempts, task.charged, task.results_in) == (1, 0, "command")
    assert f"{uuid}/all.zip" in await asyncio.to_thread(gateway.keys)
    lines = await cluster.timeline(uuid)
    assert any("could not deliver the results (Cannot upload file to S3: refused (A" in line for line in lines)


async def test_results_that_no_restart_delivers_are_fetched_through_the_node(
    start: Any, cluster: Rig, bucket: tuple[Gate, Gateway]
) -> None:
    gate, gateway = bucket
    gate.refuses = lambda path, headers: "AccessDenied" if path.endswith("/all.zip") else ""
    api = await start()
    uuid = await api.create(2)
    await api.ends(uuid, seconds=90)
    task = cluster.entry(uuid).task
    assert (task.attempts, task.charged, task.results_in) == (1, 0, "")
    assert cluster.cluster.context.results.archive(uuid) is not None
    assert [key for key in await asyncio.to_thread(gateway.keys) if key.startswith(uuid)] == []
    assert any("fetching them through the node: 3 restarts" in line for line in await cluster.timeline(uuid))
    _, _, content = await api.raw("GET", f"/task/{uuid}/download/all.zip")
    assert content.startswith(b"PK")
