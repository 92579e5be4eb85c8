# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of providers: the files of the original ClusterODM, with additional keys.

A file holds one provider, or a list under `providers` in order of preference. Unknown keys are errors that name the
nearest known one; so is a value that was left at "CHANGEME!".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from clusterodm.core.errors import ConfigError
from clusterodm.core.jsontext import decode_file
from clusterodm.core.windows import Window, parse_windows

C = TypeVar("C", bound="ProviderConfig")

_Positive = Annotated[float, msgspec.Meta(ge=0)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]

#: Aliases of keys, from the original and from its documentation.
_ALIASES: Final = {
    "dropletsLimit": "machinesLimit",
    "instanceLimit": "machinesLimit",
    "dockerDataDirMountPath": "dataDirMountPath",
}
_UNCHANGED: Final = re.compile(r"CHANGEME!?", re.IGNORECASE)


class Size(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A row of imageSizeMapping."""

    max_images: Annotated[int, msgspec.Meta(ge=1)]
    slug: _Text
    #: Per hour, on demand.
    price: _Positive = 0.0
    #: Maximum price per hour on the spot market.
    spot_price: _Positive | None = None
    #: Size of the disk in GB.
    storage: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SshKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is registered at the provider. `path` is accepted for old files and ignored: nothing logs in."""

    fingerprint: str
    path: str = ""


class ImageRegistry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credentials of the registry of a private image."""

    username: str
    password: str
    url: str = ""


#: Canned ACLs of objects. A bucket would reject any other only when the task is done.
Acl = Literal[
    "",
    "none",
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]


class S3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bucket for results. `acl` is that of the objects; "none" and "" leave it to the bucket."""

    endpoint: _Text
    bucket: _Text
    access_key: str = msgspec.field(default="", name="accessKey")
    secret_key: str = msgspec.field(default="", name="secretKey")
    acl: Acl = ""
    ignore_ssl: bool = msgspec.field(default=False, name="ignoreSSL")


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of all providers. Times in seconds; -1 is no limit."""

    provider: str
    #: Label of the entry; required if a provider occurs twice.
    name: str = ""
    image_size_mapping: Annotated[Sequence[Size], msgspec.Meta(min_length=1)]
    min_images: Annotated[int, msgspec.Meta(ge=0)] = 0
    machines_limit: Annotated[int, msgspec.Meta(ge=-1)] = -1
    create_retries: Annotated[int, msgspec.Meta(ge=0)] = 1
    max_runtime: Annotated[int, msgspec.Meta(ge=-1)] = -1
    max_upload_time: Annotated[int, msgspec.Meta(ge=-1)] = -1
    s3: S3 | None = None
    idle_timeout: _Positive = 300.0
    paid_hours: bool = False
    tasks_per_machine: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    boot_timeout: Annotated[float, msgspec.Meta(gt=0)] = 900.0
    #: Seconds that a machine may be queued at its provider.
    pending_timeout: Annotated[float, msgspec.Meta(gt=0)] = 86400.0
    #: Seconds before the known end of a machine at which it begins to drain.
    drain_before: _Positive = 600.0
    min_ready: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    #: Launch a machine during an upload once it exceeds the free nodes.
    prewarm: bool = False
    #: When `min_ready` applies, as in "Mon-Fri 07:00-18:00" (local time); empty: always.
    ready_windows: list[str] = []

    @property
    def label(self) -> str:
        """Name of the entry, by default that of the provider."""
        return self.name or self.provider

    @property
    def windows(self) -> list[Window]:
        """`ready_windows`, parsed."""
        return parse_windows(self.ready_windows)

    def size(self, slug: str) -> Size:
        """Return the size with this slug; the first one if it is no longer configured."""
        return next((size for size in self.image_size_mapping if size.slug == slug), self.image_size_mapping[0])


class CloudConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of providers whose machines boot with cloud-init."""

    #: Size of the swap file as a multiple of the memory.
    add_swap: _Positive = 0.0
    #: Empty: the default of `node_image`.
    docker_image: str = ""
    docker_gpu: bool = False
    docker_registry: ImageRegistry | None = None
    node_setup_cmd: str = ""
    engine_install_url: str = "https://get.docker.com"
    data_dir_mount_path: str = ""
    ssh_key: SshKey | None = None
    #: Base URL of the provider's API; empty: the public one.
    api_url: str = ""
    #: Port of the node on the machine.
    node_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration file: its entries, undecoded, and the cost limits over all of them."""

    entries: list[dict[str, Any]]
    max_hourly_cost: float | None = None
    max_monthly_cost: float | None = None


def read_file(path: Path) -> File:
    """Read a file. Raise ConfigError."""
    try:
        content = decode_file(path.read_bytes(), f"the autoscaler's file {path}")
    except OSError as error:
        raise ConfigError(f"the autoscaler's file {path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"the autoscaler's file {path} must hold one JSON object")
    costs = {name: content.pop(key, None) for name, key in _COSTS.items()}
    for name, value in costs.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ConfigError(f"{path}: {_COSTS[name]} must be a number of at least 0")
    entries = content.pop("providers", [content])
    if entries != [content] and content:
        raise ConfigError(f"{path}: beside providers there may only be {' and '.join(_COSTS.values())}")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: providers must be a list of objects")
    return File(entries=entries, **costs)


_COSTS: Final = {"max_hourly_cost": "maxHourlyCost", "max_monthly_cost": "maxMonthlyCost"}


def read_entry(kind: type[C], entry: dict[str, Any]) -> C:
    """Decode an entry into the configuration type of its provider. Raise ConfigError, whose text contains no value."""
    keys = {_ALIASES.get(key, key): value for key, value in entry.items()}
    where = f"provider {keys.get('provider')}"
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"{where}: unknown key {key}{f'; did you mean {near[0]}?' if near else ''}")
    for key, value in _flat(keys):
        if isinstance(value, str) and _UNCHANGED.fullmatch(value):
            raise ConfigError(f"{where}: {key} still says CHANGEME!")
    try:
        config = msgspec.convert(_without_blanks(keys), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('$.', '')}") from None
    parse_windows(config.ready_windows)
    return config


#: Objects that are empty in the documented files of the original, and the key that shows it.
_BLANK: Final = {"dockerRegistry": "username", "sshKey": "fingerprint"}


def _without_blanks(keys: dict[str, Any]) -> dict[str, Any]:
    """Drop placeholders for "none" in the documented files of the original."""
    meant = dict(keys)
    for key, needed in _BLANK.items():
        if isinstance(meant.get(key), dict) and meant[key].get(needed) == "":
            del meant[key]
    if meant.get("minImages") == -1:
        del meant["minImages"]
    if isinstance(meant.get("engineInstallUrl"), str):
        meant["engineInstallUrl"] = meant["engineInstallUrl"].strip("\"' ")
    return meant


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, item in value.items():
        leaves += _flat(item, f"{before}{key}.") if isinstance(item, dict) else [(before + key, item)]
    return leaves


def as_list(value: str | Sequence[str]) -> list[str]:
    """Return a list for a key that takes one string or several."""
    return [value] if isinstance(value, str) else list(value)
