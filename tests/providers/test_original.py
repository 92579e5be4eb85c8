# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The autoscaler's files that the documentation of the original and of ClusterODX shows, with keys filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.providers.config import CloudConfig
from tests.providers.support import provider_of
from tests.support import Rig

KEYS = {"accessKey": "hush-access", "secretKey": "hush-secret"}
BUCKET = KEYS | {"endpoint": "s3.example.com", "bucket": "results", "ignoreSSL": False}
#: What all of them have, "none" written as there.
SHARED: dict[str, Any] = {
    "createRetries": 1,
    "maxRuntime": -1,
    "maxUploadTime": -1,
    "engineInstallUrl": '"https://releases.rancher.com/install-docker/19.03.9.sh"',
    "imageSizeMapping": [{"maxImages": 5, "slug": "small"}, {"maxImages": 50, "slug": "large"}],
    "addSwap": 1,
    "dockerRegistry": {"username": "", "password": "", "url": ""},
}
AWS = {
    **(SHARED | KEYS),
    "provider": "aws",
    "s3": {"endpoint": "s3.us-west-2.amazonaws.com", "bucket": "results", "acl": "none"},
    "vpc": "",
    "subnet": "",
    "securityGroup": "nodes",
    "usePrivateAddress": False,
    "assignPrivateAddressOnly": False,
    "monitoring": False,
    "region": "us-west-2",
    "zone": "a",
    "tags": ["type,clusterodm"],
    "ami": "ami-07b4f3c02c7f83d59",
    "spot": True,
    "imageSizeMapping": [{"maxImages": 40, "slug": "t3a.small", "spotPrice": 0.02, "storage": 60}],
    "dockerDataDirMountPath": "",
}
DIGITALOCEAN = {
    **SHARED,
    "provider": "digitalocean",
    "accessToken": "hush-token",
    "s3": BUCKET,
    "dropletsLimit": 30,
    "region": ["sfo2", "sfo1"],
    "image": "ubuntu-16-04-x64",
    "tags": ["clusterodm"],
    "snapshot": False,
    "minImages": -1,
}
HETZNER = {
    **SHARED,
    "provider": "hetzner",
    "apiToken": "hush-token",
    "s3": BUCKET,
    "machinesLimit": -1,
    "location": "fsn1",
    "image": "ubuntu-18.04",
    "snapshot": False,
    "sshKey": {"fingerprint": "", "path": ""},
    "minImages": -1,
}
SCALEWAY = {
    **SHARED,
    "provider": "scaleway",
    "organization": "11111111-2222-4333-8444-555555555555",
    "secretToken": "hush-token",
    "s3": BUCKET,
    "machinesLimit": -1,
    "region": "par1",
    "image": "ubuntu_jammy",
    "minImages": -1,
}


@pytest.mark.parametrize("image", ["opendronemap/nodeodm", "webodm/nodeodx"])
@pytest.mark.parametrize("entry", [AWS, DIGITALOCEAN, HETZNER, SCALEWAY], ids=lambda entry: str(entry["provider"]))
async def test_a_documented_file_is_taken_as_it_is(tmp_path: Path, entry: dict[str, Any], image: str) -> None:
    async with provider_of(tmp_path, entry | {"dockerImage": image}) as provider:
        config = provider.config
    assert isinstance(config, CloudConfig)
    assert (config.docker_image, config.min_images, config.max_runtime) == (image, 0, -1)
    assert (config.docker_registry, config.ssh_key) == (None, None), "nothing is in them"
    assert config.engine_install_url == "https://releases.rancher.com/install-docker/19.03.9.sh"


async def test_a_least_number_of_images_below_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="minImages"):
        async with provider_of(tmp_path, HETZNER | {"minImages": -2}):
            pass


async def test_an_image_that_its_cloud_no_longer_has_is_named_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ubuntu-xenial is retired; use ubuntu_jammy"):
        async with provider_of(tmp_path, SCALEWAY | {"image": "ubuntu-xenial"}):
            pass


async def test_a_trailing_comma_is_reported_with_its_line(cluster: Rig, tmp_path: Path) -> None:
    text = json.dumps(HETZNER, indent=1).replace('"path": ""', '"path": "",')
    (tmp_path / "asr.json").write_text(text)
    line = text[: text.index('"path"')].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"asr\.json is not JSON: line {line}: trailing comma in object"):
        await cluster.start(asr=tmp_path / "asr.json")


async def test_results_from_a_bucket_need_one(cluster: Rig, tmp_path: Path) -> None:
    without = {key: value for key, value in HETZNER.items() if key != "s3"}
    (tmp_path / "asr.json").write_text(json.dumps(without))
    with pytest.raises(ConfigError, match="results-from-s3 needs a provider with s3"):
        await cluster.start(asr=tmp_path / "asr.json", results_from_s3="redirect")
