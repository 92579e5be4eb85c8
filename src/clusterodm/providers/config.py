# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of providers: the files of the original, unchanged, and what we add to them.

A file holds one provider, or a list of them under `providers`, which are tried in that order. Unknown keys are errors
that name the nearest known one; so is a value that was left at "CHANGEME!".
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

#: Other names of keys, from the original and from its documentation.
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
    #: Ours: what an hour costs, on demand.
    price: _Positive = 0.0
    #: The most that an hour may cost on the spot market.
    spot_price: _Positive | None = None
    #: GB of the disk.
    storage: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SshKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is known at the provider. We never log in; `path` is read from old files and not used."""

    fingerprint: str
    path: str = ""


class ImageRegistry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the image comes from when it is private."""

    username: str
    password: str
    url: str = ""


#: Canned ACLs of objects; of any other word a node would hear from its bucket when the work is done.
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
    """A bucket into which nodes put their results. `acl`: of the objects; "none" and "": the bucket's own."""

    endpoint: _Text
    bucket: _Text
    access_key: str = msgspec.field(default="", name="accessKey")
    secret_key: str = msgspec.field(default="", name="secretKey")
    acl: Acl = ""
    ignore_ssl: bool = msgspec.field(default=False, name="ignoreSSL")


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of all providers. Times in seconds; -1: no limit."""

    provider: str
    #: Ours: how this entry is called in lists; needed when a provider occurs twice.
    name: str = ""
    image_size_mapping: Annotated[Sequence[Size], msgspec.Meta(min_length=1)]
    min_images: Annotated[int, msgspec.Meta(ge=0)] = 0
    machines_limit: Annotated[int, msgspec.Meta(ge=-1)] = -1
    create_retries: Annotated[int, msgspec.Meta(ge=0)] = 1
    max_runtime: Annotated[int, msgspec.Meta(ge=-1)] = -1
    max_upload_time: Annotated[int, msgspec.Meta(ge=-1)] = -1
    s3: S3 | None = None
    #: Ours, all that follows.
    idle_timeout: _Positive = 300.0
    paid_hours: bool = False
    tasks_per_machine: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    boot_timeout: Annotated[float, msgspec.Meta(gt=0)] = 900.0
    #: Seconds that a machine may wait at its provider for room.
    pending_timeout: Annotated[float, msgspec.Meta(gt=0)] = 86400.0
    #: Seconds before the known end of a machine from which it gets nothing new.
    drain_before: _Positive = 600.0
    min_ready: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    #: Order a machine while files still come in, once they are more than free nodes take.
    prewarm: bool = False
    #: When that many are to be ready, as in "Mon-Fri 07:00-18:00" (local time); none: always.
    ready_windows: list[str] = []

    @property
    def label(self) -> str:
        """How it is called."""
        return self.name or self.provider

    @property
    def windows(self) -> list[Window]:
        """When machines are to be ready."""
        return parse_windows(self.ready_windows)

    def size(self, slug: str) -> Size:
        """A configured size; the smallest when it is no longer configured."""
        return next((size for size in self.image_size_mapping if size.slug == slug), self.image_size_mapping[0])


class CloudConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of providers whose machines boot an image and install what a node needs."""

    #: Times the memory.
    add_swap: _Positive = 0.0
    #: Empty: the default of all providers.
    docker_image: str = ""
    docker_gpu: bool = False
    docker_registry: ImageRegistry | None = None
    node_setup_cmd: str = ""
    engine_install_url: str = "https://get.docker.com"
    data_dir_mount_path: str = ""
    ssh_key: SshKey | None = None
    #: Ours: where the provider's API is.
    api_url: str = ""
    #: Port of the node on the machine.
    node_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration file: entries as they stand there, and limits over all of them."""

    entries: list[dict[str, Any]]
    max_hourly_cost: float | None = None
    max_monthly_cost: float | None = None


def read_file(path: Path) -> File:
    """Read a file. Raises ConfigError."""
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
    """One provider's entry as its own type. Raises ConfigError, with no value of the entry in its text."""
    given = {_ALIASES.get(key, key): value for key, value in entry.items()}
    where = f"provider {given.get('provider')}"
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"{where}: unknown key {key}{f'; did you mean {near[0]}?' if near else ''}")
    for key, value in _flat(given):
        if isinstance(value, str) and _UNCHANGED.fullmatch(value):
            raise ConfigError(f"{where}: {key} still says CHANGEME!")
    try:
        made = msgspec.convert(_without_blanks(given), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('$.', '')}") from None
    parse_windows(made.ready_windows)
    return made


#: Objects that the original's documented files have with nothing in them, and the key that is empty then.
_BLANK: Final = {"dockerRegistry": "username", "sshKey": "fingerprint"}


def _without_blanks(given: dict[str, Any]) -> dict[str, Any]:
    """An entry without what the original's documented files write for "none"."""
    meant = dict(given)
    for key, needed in _BLANK.items():
        if isinstance(meant.get(key), dict) and meant[key].get(needed) == "":
            del meant[key]
    if meant.get("minImages") == -1:
        del meant["minImages"]
    if isinstance(meant.get("engineInstallUrl"), str):
        meant["engineInstallUrl"] = meant["engineInstallUrl"].strip("\"' ")
    return meant


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        found += _flat(item, f"{before}{key}.") if isinstance(item, dict) else [(before + key, item)]
    return found


def as_list(value: str | Sequence[str]) -> list[str]:
    """A string or a list of strings, as the original takes regions."""
    return [value] if isinstance(value, str) else list(value)
