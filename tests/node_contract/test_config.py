# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The configuration file: the keys that the cluster writes are those that a node reads."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.devnode.config import read_config
from clusterodm.providers.config import S3, Acl, ProviderConfig, Size
from clusterodm.providers.node import node_config
from tests.node_contract.conftest import Start
from tests.node_contract.nodes import DEVNODE, checkout
from tests.processes import free_port
from tests.providers.support import kubeconfig, provider_of

#: What a node calls a setting in its program, by what it is called here.
NAMES = {
    "port": "port",
    "token": "token",
    "parallelQueueProcessing": "parallel_queue_processing",
    "maxImages": "max_images",
    "cleanupTasksAfter": "cleanup_tasks_after",
    "cleanupUploadsAfter": "cleanup_uploads_after",
    "testDropUploads": "test_drop_uploads",
    "testFailTasks": "test_fail_tasks",
    "testSeconds": "test_seconds",
    "webhook": "webhook",
    "maxConcurrency": "max_concurrency",
    "s3Endpoint": "s3_endpoint",
    "s3Bucket": "s3_bucket",
    "s3AccessKey": "s3_access_key",
    "s3SecretKey": "s3_secret_key",
    "s3ForcePathStyle": "s3_force_path_style",
    "s3IgnoreSSL": "s3_ignore_ssl",
    "s3ACL": "s3_acl",
}
ALL: dict[str, Any] = {
    "port": 4711,
    "token": "of-the-file",
    "parallelQueueProcessing": 3,
    "maxImages": 40,
    "cleanupTasksAfter": 100,
    "cleanupUploadsAfter": 200,
    "testDropUploads": True,
    "testFailTasks": True,
    "testSeconds": 7,
    "webhook": "http://127.0.0.1:9/hook",
    "maxConcurrency": 4,
    "s3Endpoint": "http://127.0.0.1:9",
    "s3Bucket": "results",
    "s3AccessKey": "key",
    "s3SecretKey": "secret",
    "s3ForcePathStyle": True,
    "s3IgnoreSSL": True,
    "s3_acl": "private",
}
FILES: dict[str, Any] = {
    "nothing": {},
    "everything": ALL,
    "numbers as text": {"maxImages": "40", "parallelQueueProcessing": "3 tasks", "cleanupTasksAfter": "0"},
    "empty values": {"maxImages": "", "token": "", "webhook": "", "port": "", "cleanupTasksAfter": ""},
    "no limit": {"maxImages": 0},
    "names of other settings": {"max_images": 5, "s3ACL": "private", "parallel_queue_processing": 9},
    "the cluster's, without a bucket": node_config(
        ProviderConfig(provider="command", image_size_mapping=[Size(max_images=40, slug="s")]),
        port=4711,
        token="t",
        max_images=40,
        slots=2,
    ),
}


def _as_read(kind: str, path: Path) -> dict[str, Any]:
    """What a node makes of a file."""
    if kind == DEVNODE:
        return msgspec.structs.asdict(read_config(path))
    script = "process.stdout.write('\\n' + JSON.stringify(require('./config.js')))"
    process = subprocess.run(
        ["node", "-e", script, "--", "config.js", "--config", str(path)],
        cwd=checkout(kind), capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    read = json.loads(process.stdout.splitlines()[-1])
    return {ours: read[theirs] for theirs, ours in NAMES.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_configuration_file_is_read_as_a_real_node_reads_it(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps(FILES[name]))
    defaults = {
        "port": "auto", "token": "", "parallel_queue_processing": 1, "max_images": None, "cleanup_tasks_after": 2880,
        "cleanup_uploads_after": 2880, "test_drop_uploads": False, "test_fail_tasks": False, "test_seconds": 0,
        "webhook": "", "max_concurrency": 0, "s3_endpoint": "", "s3_bucket": "", "s3_access_key": "",
        "s3_secret_key": "", "s3_force_path_style": False, "s3_ignore_ssl": False, "s3_acl": "public-read",
    }  # fmt: skip
    changed = {
        "nothing": {},
        "everything": {ours: ALL["s3_acl" if theirs == "s3ACL" else theirs] for theirs, ours in NAMES.items()},
        "numbers as text": {"max_images": 40, "parallel_queue_processing": 3, "cleanup_tasks_after": 0},
        "empty values": {"cleanup_tasks_after": None, "port": ""},
        "no limit": {},
        "names of other settings": {},
        "the cluster's, without a bucket": {
            "port": 4711, "token": "t", "max_images": 40, "parallel_queue_processing": 2,
        },
    }[name]  # fmt: skip
    assert _as_read(kind, path) == defaults | changed


@pytest.mark.parametrize(
    ("acl", "read"), [("", "none"), ("none", "none"), ("private", "private"), ("public-read", "public-read")]
)
def test_a_node_reads_the_bucket_that_the_cluster_tells_it_of(kind: str, acl: Acl, read: str, tmp_path: Path) -> None:
    bucket = S3(endpoint="https://s3.example", bucket="b", access_key="k", secret_key="s", acl=acl, ignore_ssl=True)
    path = tmp_path / "node.json"
    path.write_text(
        json.dumps(
            node_config(
                ProviderConfig(provider="command", image_size_mapping=[Size(max_images=40, slug="s")], s3=bucket),
                port=1,
                token="t",
                max_images=9,
                slots=2,
            )
        )
    )
    as_read = {name: value for name, value in _as_read(kind, path).items() if name.startswith("s3")}
    assert as_read == {
        "s3_endpoint": "https://s3.example", "s3_bucket": "b", "s3_access_key": "k", "s3_secret_key": "s",
        "s3_force_path_style": True, "s3_ignore_ssl": True, "s3_acl": read,
    }  # fmt: skip


#: Keys that both NodeODM 2.2.4 and NodeODX 2.3.1 look up in the file. Two more are known to one of them alone.
KEYS = {
    "authorizedIps", "cleanupTasksAfter", "cleanupUploadsAfter", "daemon", "instance", "logger.level",
    "logger.logDirectory", "logger.maxFileSize", "logger.maxFiles", "maxConcurrency", "maxImages", "maxRuntime",
    "odm_path", "parallelQueueProcessing", "port", "powercycle", "s3AccessKey", "s3Bucket", "s3Endpoint",
    "s3ForcePathStyle", "s3IgnoreSSL", "s3SecretKey", "s3UploadEverything", "s3_acl", "test", "testDropUploads",
    "testFailTasks", "testSeconds", "testSkipDems", "testSkipOrthophotos", "token", "webhook",
}  # fmt: skip
OF_ONE = {"NODEODM": {"s3SignatureVersion"}, "NODEODX": {"odx_path"}}
BUCKET = {"endpoint": "https://s3.example", "bucket": "b", "accessKey": "k", "secretKey": "hush-s", "ignoreSSL": True}
CLOUD = {"imageSizeMapping": [{"maxImages": 40, "slug": "s"}], "tasksPerMachine": 2, "s3": BUCKET}


def _by_cloud_init(document: str) -> Any:
    files = json.loads(document.partition("\n")[2])["write_files"]
    return json.loads(next(file["content"] for file in files if file["path"].endswith("node.json")))


def _by_script(document: str) -> Any:
    written = re.search(r"<<'END-OF-node.json'\n(.*?)\nEND-OF-node.json", document, re.DOTALL)
    assert written is not None
    return json.loads(written[1].replace("@PORT@", "3000"))


#: What each kind of provider has to be told, and how the file is found in what it starts a machine with.
WAYS: dict[str, tuple[dict[str, Any], Callable[[str], Any]]] = {
    "hetzner": ({"apiToken": "hush-t", "location": "fsn1", "image": "i"}, _by_cloud_init),
    "kubernetes": (
        {"imageSizeMapping": [{"maxImages": 40, "slug": "s", "cpu": "1", "memory": "1Gi"}]},
        lambda document: json.loads(json.loads(document)["secret"]["stringData"]["node.json"]),
    ),
    "slurm": (
        {"imageSizeMapping": [{"maxImages": 40, "slug": "s", "cpus": 1, "memory": "1G"}], "addressFolder": "/tmp"},
        _by_script,
    ),
    "command": (
        {"create": ["true"], "list": ["true"], "delete": ["true"]},
        lambda document: json.loads(document)["node"],
    ),
}


async def _written(way: str, folder: Path) -> dict[str, Any]:
    """The file that a node gets in one of the ways in which nodes are started."""
    keys, find = WAYS[way]
    entry = {"provider": way, **CLOUD, **keys}
    if way == "kubernetes":
        entry["kubeconfig"] = str(kubeconfig(folder, "http://127.0.0.1:9"))
    async with provider_of(folder, entry) as provider:
        content: dict[str, Any] = find(provider.bootstrap("m", provider.offerings[0], token="hush-node"))
    return content


@pytest.mark.parametrize("way", WAYS)
async def test_every_key_that_the_cluster_writes_is_one_that_nodes_look_up(way: str, tmp_path: Path) -> None:
    written = await _written(way, tmp_path)
    assert set(written) <= KEYS
    assert written["s3_acl"] == "none", "without that key everybody may read the results"


def test_the_keys_are_those_of_the_real_node(kind: str) -> None:
    if kind == DEVNODE:
        pytest.skip("it has no config.js")
    source = (checkout(kind) / "config.js").read_text()
    assert set(re.findall(r"""fromConfigFile\(["']([^"']+)""", source)) == KEYS | OF_ONE[kind]


@pytest.mark.parametrize("way", WAYS)
async def test_a_node_takes_over_every_value_that_the_cluster_writes(kind: str, way: str, tmp_path: Path) -> None:
    written = await _written(way, tmp_path)
    path = tmp_path / "node.json"
    path.write_text(json.dumps(written))
    read = _as_read(kind, path)
    ours = {"s3_acl" if theirs == "s3ACL" else theirs: name for theirs, name in NAMES.items()}
    assert {key: read[ours[key]] for key in written} == written


@pytest.mark.parametrize("acl", ["publicread", "Private", "bucket-owner"])
async def test_an_acl_that_no_bucket_knows_is_refused_at_the_start(acl: str, tmp_path: Path) -> None:
    entry = {"provider": "command", **CLOUD, **WAYS["command"][0], "s3": BUCKET | {"acl": acl}}
    with pytest.raises(ConfigError, match=r"s3\.acl"):
        async with provider_of(tmp_path, entry):
            pass


async def test_a_node_behaves_as_its_file_says(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"token": "of-the-file", "maxImages": 40, "parallelQueueProcessing": 3}))
    node = start("--config", str(path))
    assert set(await node.get("/info")) == {"error"}
    node.token = "of-the-file"
    info = await node.get("/info")
    assert (info["maxImages"], info["maxParallelTasks"]) == (40, 3)


async def test_what_is_said_at_the_start_counts_more_than_the_file(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"port": free_port(), "maxImages": 40, "parallelQueueProcessing": 3}))
    node = start("--config", str(path), "--max-images", "7", "-q", "4")
    info = await node.get("/info")
    assert (info["maxImages"], info["maxParallelTasks"]) == (7, 4)


def test_a_file_that_is_no_json_ends_the_node(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text("{")
    with pytest.raises(AssertionError, match="Invalid configuration file"):
        start("--config", str(path))


async def test_flags_have_dashes_or_underscores(start: Start) -> None:
    assert (await start("--max_images", "17", "--test-seconds", "0").get("/info"))["maxImages"] == 17
    assert (await start("--max-images", "17", "--test_seconds", "0").get("/info"))["maxImages"] == 17
