# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a new machine does, executed by the real cloud-init in a throw-away overlay, with values that are meant to break
out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clusterodm.providers.cloudinit import user_data
from clusterodm.providers.config import CloudConfig, read_entry
from tests.needs import lacking

RUN = Path(__file__).parent / "run-cloud-init"
EVIL = "a b';\"$(touch /out/pwned)`touch /out/pwned`\\\n- {x: y}\n#"
NOT_HERE = lacking("cloud-init", root=True)
needs_cloud_init = pytest.mark.skipif(NOT_HERE != "", reason=NOT_HERE)


def config(**keys: Any) -> CloudConfig:
    return read_entry(CloudConfig, {"provider": "x", "imageSizeMapping": [{"maxImages": 1, "slug": "s"}], **keys})


async def boot(document: str, folder: Path) -> list[list[str]]:
    """What is called when a machine starts with this document."""
    out = folder / "out"
    out.mkdir()
    (folder / "user-data").write_text(document)
    running = await asyncio.create_subprocess_exec(
        str(RUN), str(folder / "user-data"), str(out), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await running.communicate())[0].decode()
    assert (out / "calls.jsonl").exists(), output
    return [json.loads(line) for line in (out / "calls.jsonl").read_text().splitlines()]


@needs_cloud_init
async def test_a_plain_machine_runs_its_node(tmp_path: Path) -> None:
    calls = await boot(user_data(config(), token="hush-node", max_images=40, slots=2), tmp_path)
    assert calls[0][0] == "iptables"
    assert calls[0][-4:] == ["-d", "169.254.169.254", "-j", "DROP"]
    assert calls[1:] == [
        [
            *("docker", "run", "--detach", "--name", "nodeodm", "--restart", "unless-stopped", "--user", "0"),
            *("--publish", "3000:3000", "--volume", "/etc/clusterodm/node.json:/etc/nodeodm.json:ro"),
            *("docker.io/webodm/nodeodx", "--config", "/etc/nodeodm.json"),
        ]
    ]
    node_config = json.loads((tmp_path / "out" / "node.json").read_text())
    assert node_config == {"port": 3000, "token": "hush-node", "maxImages": 40, "parallelQueueProcessing": 2}
    read_inside = (tmp_path / "out" / "read-inside").read_text()
    assert json.loads(read_inside) == node_config, "an image with a user of its own reads it, too"
    lines = (tmp_path / "out" / "modes").read_text().splitlines()
    modes = {path: mode for mode, path in (line.rsplit(" ", 1) for line in lines)}
    assert modes == {"/etc/clusterodm/boot.sh": "700 root", "/etc/clusterodm/node.json": "600 root"}


@needs_cloud_init
async def test_values_that_are_meant_to_break_out_stay_values(tmp_path: Path) -> None:
    hostile = config(
        dockerImage=EVIL,
        dataDirMountPath=EVIL,
        dockerGpu=True,
        dockerRegistry={"username": EVIL, "password": f"hush-{EVIL}", "url": EVIL},
        engineInstallUrl=EVIL,
        nodeSetupCmd="echo 'it''s' \"here\" >/out/setup",
        s3={"endpoint": "s3.example", "bucket": "b", "accessKey": "k", "secretKey": f"hush-{EVIL}", "acl": "none"},
        addSwap=1.5,
        maxRuntime=3600,
    )
    calls = await boot(user_data(hostile, token=f"hush-{EVIL}", max_images=1, slots=1), tmp_path)
    out = tmp_path / "out"
    assert not (out / "pwned").exists()
    assert (out / "setup").read_text() == "its here\n"
    by_name = {call[0] if call[0] != "docker" else f"docker {call[1]}": call for call in calls}
    assert by_name["docker login"] == ["docker", "login", "--username", EVIL, "--password-stdin", EVIL]
    assert (out / "login-stdin").read_text() == f"hush-{EVIL}"
    assert by_name["docker run"][-3:] == [EVIL, "--config", "/etc/nodeodm.json"]
    assert f"{EVIL}:/var/www/data" in by_name["docker run"]
    assert by_name["docker run"][by_name["docker run"].index("--gpus") + 1] == "all"
    assert by_name["shutdown"] == ["shutdown", "-P", "+90"]
    assert by_name["swapon"] == ["swapon", "/swapfile"]
    assert json.loads((out / "node.json").read_text())["token"] == f"hush-{EVIL}"
    assert json.loads((out / "node.json").read_text())["s3SecretKey"] == f"hush-{EVIL}"
    assert "hush" not in json.dumps(calls), "no secret in anybody's arguments"
    assert "hush" not in (out / "boot.log").read_text()
    assert "/etc/clusterodm/registry" not in (out / "modes").read_text(), "the password goes once it was used"


@pytest.mark.parametrize(
    ("keys", "image"),
    [
        ({}, "docker.io/webodm/nodeodx"),
        ({"dockerGpu": True}, "docker.io/webodm/nodeodx:gpu"),
        ({"dockerImage": "opendronemap/nodeodm"}, "opendronemap/nodeodm"),
        ({"dockerImage": "opendronemap/nodeodm:gpu", "dockerGpu": True}, "opendronemap/nodeodm:gpu"),
    ],
)
def test_the_image_is_the_one_that_is_named_or_the_default_for_what_the_machine_has(
    keys: dict[str, Any], image: str
) -> None:
    document = user_data(config(**keys), token="t", max_images=1, slots=1)
    files = {file["path"]: file["content"] for file in json.loads(document.partition("\n")[2])["write_files"]}
    [run] = [line for line in files["/etc/clusterodm/boot.sh"].splitlines() if line.startswith("docker run")]
    assert run.endswith(f" {image} --config /etc/nodeodm.json")


@needs_cloud_init
async def test_cloud_init_itself_finds_nothing_wrong_with_the_document(tmp_path: Path) -> None:
    document = tmp_path / "user-data"
    document.write_text(user_data(config(addSwap=1, nodeSetupCmd="true"), token="t", max_images=1, slots=1))
    running = await asyncio.create_subprocess_exec(
        "cloud-init", "schema", "--config-file", str(document), stdout=asyncio.subprocess.PIPE
    )
    output = (await running.communicate())[0].decode()
    assert running.returncode == 0, output


def test_user_data_fits_what_the_smallest_cloud_takes() -> None:
    large = config(nodeSetupCmd="x" * 1000, dockerRegistry={"username": "u" * 100, "password": "p" * 200})
    assert len(user_data(large, token="t" * 48, max_images=10**6, slots=100)) < 16 << 10
