# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the folder of the original to a running cluster of ours."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import Api, Rig, eventually

RUNS = "01890a5d-ac96-774b-bcce-b302099a8057"
COMES = "0b3b2b5e-5f5c-4d8b-9a57-1d6d0f6b9f10"
#: What the original keeps of a client's first words: lists are the text that the client sent.
SAID = {
    "options": '[{"name":"dsm","value":true}]',
    "taskName": "half",
    "skipPostProcessing": "true",
    "outputs": '["odm_orthophoto/odm_orthophoto.tif"]',
    "dateCreated": 1700000000000,
    "error": None,
    "webhook": "",
    "fileNames": [],
    "imagesCount": 0,
}
SIZES = [{"maxImages": 10, "slug": "cx22"}]


async def take_over(source: Path, data: Path) -> tuple[int, str]:
    """Exit code and output of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clusterodm", "import", str(source), "--data-dir", str(data)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A folder as the original leaves it behind."""
    folder = tmp_path / "ClusterODM"
    upload = folder / "tmp" / COMES
    upload.mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "nodes.json").write_text("[]")
    (folder / "data" / "routes.json").write_text("{}")
    (upload / "body.json").write_text(json.dumps(SAID))
    (upload / "one.jpg").write_bytes(b"1")
    (folder / "tmp" / "11111111-2222-4333-8444-555555555555").mkdir()
    asr = {"provider": "hetzner", "apiToken": "hush-cloud", "location": "fsn1", "image": "ubuntu-24.04"}
    (folder / "asr.json").write_text(json.dumps(asr | {"imageSizeMapping": SIZES}))
    config = {"port": 3000, "asr": "asr.json", "flood-limit": 3, "stale-uploads-timeout": 0, "odd": 1, "ssl-kye": ""}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write(original: Path, name: str, value: Any) -> None:
    (original / "data" / name).write_text(json.dumps(value))


async def test_nodes_tasks_and_uploads_go_on(cluster: Rig, original: Path) -> None:
    node = await cluster.add_node(seconds=0.2)
    address = {"hostname": "127.0.0.1", "port": cluster.ports[0], "token": ""}
    write(original, "nodes.json", [address])
    write(original, "routes.json", {RUNS: {"node": address, "token": None, "accessed": 1_700_000_000_000}})
    code, output = await take_over(original, cluster.folder / "data")
    assert code == 0, output
    for line in ("1 nodes", "1 tasks", "1 files; its client continues", "odd", "ssl-key?", "hetzner, 1 sizes"):
        assert line in output, output
    assert "11111111-2222-4333-8444-555555555555: no readable body.json" in output
    assert "hush" not in output
    cluster.ports.clear()
    api = await cluster.start()
    await eventually(lambda: [each.address.port for each in cluster.cluster.context.registry.nodes()] != [])
    assert cluster.entry(RUNS).task.uuid == RUNS
    await api.upload(COMES, two__jpg=b"2")
    await api.commit(COMES)
    info = await api.ends(COMES)
    assert (info["name"], info["options"][0]) == ("half", {"name": "dsm", "value": True})
    assert set(node.held(COMES)) == {"one.jpg", "two.jpg"}
    task = cluster.entry(COMES).task
    assert (task.outputs, task.skip_post_processing) == (["odm_orthophoto/odm_orthophoto.tif"], True)
    assert task.date_created == 1700000000000


async def test_a_file_that_was_cut_short_gives_way_to_the_whole_one(cluster: Rig, original: Path) -> None:
    node = await cluster.add_node(seconds=0.2)
    folder = original / "tmp" / COMES
    (folder / "cut.jpg").write_bytes(b"beginning")
    (folder / "other.jpg").write_bytes(b"other")
    assert (await take_over(original, cluster.folder / "data"))[0] == 0
    api = await cluster.start()
    await api.upload(COMES, cut__jpg=b"beginning and end")
    await api.upload(COMES, other__jpg=b"another photo of that name")
    room = cluster.cluster.context.spool.room
    assert room.held == sum(path.stat().st_size for path in (cluster.folder / "data" / "spool").rglob("files/*"))
    await api.commit(COMES)
    await api.ends(COMES)
    held = node.held(COMES)
    assert set(held) == {"one.jpg", "cut.jpg", "other.jpg", "other_.jpg"}
    assert held["cut.jpg"].read_bytes() == b"beginning and end"


async def test_an_upload_belongs_to_the_first_who_goes_on_with_it(cluster: Rig, original: Path) -> None:
    node = await cluster.add_node(seconds=0.2)
    assert (await take_over(original, cluster.folder / "data"))[0] == 0
    tokens = cluster.folder / "tokens.toml"
    tokens.write_text('[alice]\ntoken = "hush-alice"\n[bob]\ntoken = "hush-bobby"\n')
    alice = await cluster.start(cloud_provider="tokens", tokens_file=tokens, client_token="hush-alice")
    await alice.upload(COMES, two__jpg=b"2")
    bob = Api(alice.url, "hush-bobby")
    cluster.stack.push_async_callback(bob.session.close)
    assert "error" in await bob.post(f"/task/new/commit/{COMES}")
    await alice.commit(COMES)
    await alice.ends(COMES)
    assert set(node.held(COMES)) == {"one.jpg", "two.jpg"}


async def test_a_task_that_was_committed_but_had_not_reached_its_node_goes_on(cluster: Rig, original: Path) -> None:
    node = await cluster.add_node(seconds=0.2)
    assert (await take_over(original, cluster.folder / "data"))[0] == 0
    api = await cluster.start()
    info = await api.ends(COMES)
    assert info["name"] == "half"
    assert set(node.held(COMES)) == {"one.jpg"}


async def test_records_that_cannot_be_imported_are_named(cluster: Rig, original: Path) -> None:
    address = {"hostname": "10.0.0.9", "port": "3000", "token": "hush-node"}
    unknown_node = {"hostname": "10.0.0.8", "port": "3000", "token": "hush-node"}
    write(original, "nodes.json", [address | {"dockerMachine": {"name": "clusterodm-7", "created": 1}}])
    write(
        original,
        "routes.json",
        {RUNS: {"node": address, "token": "hush-t"}, COMES: {"node": unknown_node, "token": ""}},
    )
    code, output = await take_over(original, cluster.folder / "data")
    assert code == 0, output
    for line in (
        "note machine clusterodm-7 (10.0.0.9:3000) is added locked",
        f"no   task {COMES}: its node 10.0.0.8:3000 is gone",
        "1 tasks, which continue",
        "note 1 tokens: each task keeps its owner",
    ):
        assert line in output, output
    assert "hush" not in output


async def test_a_second_import_takes_only_new_records(cluster: Rig, original: Path) -> None:
    await cluster.add_node(seconds=0.2)
    address = {"hostname": "127.0.0.1", "port": cluster.ports.pop()}
    write(original, "nodes.json", [address])
    data = cluster.folder / "data"
    assert (await take_over(original, data))[0] == 0
    await cluster.start()
    await cluster.stop()
    write(original, "routes.json", {RUNS: {"node": address}})
    code, output = await take_over(original, data)
    assert code == 0, output
    assert "already imported" in output
    await cluster.start()
    assert cluster.entry(RUNS).task.uuid == RUNS
    assert len(cluster.cluster.context.registry.nodes()) == 1


@pytest.mark.parametrize(("name", "content"), [("nodes.json", "[{}]"), ("routes.json", "[1]")])
async def test_unreadable_files_are_reported_before_anything_is_written(
    cluster: Rig, original: Path, name: str, content: str
) -> None:
    (original / "data" / name).write_text(content)
    code, _ = await take_over(original, cluster.folder / "data")
    assert code == 2
    assert not (cluster.folder / "data").exists()


async def test_a_running_cluster_is_not_written_under(cluster: Rig, original: Path) -> None:
    await cluster.start()
    code, output = await take_over(original, cluster.folder / "data")
    assert code == 2
    assert "is used by another clusterodm" in output
