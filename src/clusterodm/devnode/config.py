# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""NodeODM's configuration file, read as NodeODM reads it: numbers by their first digits, empty values as absent, keys
that it does not know ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from clusterodm.core.errors import ConfigError

_INTEGER: Final = re.compile(r"\s*([-+]?\d+)")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says, with a node's own defaults. A development node knows buckets, but delivers to none."""

    port: int | str = "auto"
    token: str = ""
    parallel_queue_processing: int | None = 1
    max_images: int | None = None
    cleanup_tasks_after: int | None = 2880
    cleanup_uploads_after: int | None = 2880
    test_drop_uploads: bool = False
    test_fail_tasks: bool = False
    test_seconds: int | None = 0
    webhook: str = ""
    max_concurrency: int | None = 0
    s3_endpoint: str = ""
    s3_bucket: str = ""
    s3_access_key: str = ""
    s3_secret_key: str = ""
    s3_force_path_style: bool = False
    s3_ignore_ssl: bool = False
    s3_acl: str = "public-read"


def read_config(path: Path) -> NodeConfig:
    """The configuration in a file. As on a node, one whose name does not end in .json is not looked into."""
    if path.suffix.lower() != ".json":
        return NodeConfig()
    try:
        said = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"Invalid configuration file {path}: {error}") from None
    given = said if isinstance(said, dict) else {}
    return NodeConfig(
        port=_port(given.get("port", "auto")),
        token=str(given.get("token") or ""),
        parallel_queue_processing=integer(given.get("parallelQueueProcessing", 1)),
        max_images=integer(given.get("maxImages")) or None,
        cleanup_tasks_after=integer(given.get("cleanupTasksAfter", 2880)),
        cleanup_uploads_after=integer(given.get("cleanupUploadsAfter", 2880)),
        test_drop_uploads=bool(given.get("testDropUploads")),
        test_fail_tasks=bool(given.get("testFailTasks")),
        test_seconds=integer(given.get("testSeconds", 0)),
        webhook=str(given.get("webhook") or ""),
        max_concurrency=integer(given.get("maxConcurrency", 0)),
        s3_endpoint=str(given.get("s3Endpoint") or ""),
        s3_bucket=str(given.get("s3Bucket") or ""),
        s3_access_key=str(given.get("s3AccessKey") or ""),
        s3_secret_key=str(given.get("s3SecretKey") or ""),
        s3_force_path_style=bool(given.get("s3ForcePathStyle")),
        s3_ignore_ssl=bool(given.get("s3IgnoreSSL")),
        s3_acl=str(given.get("s3_acl", "public-read")),
    )


def _port(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


def integer(value: Any) -> int | None:
    """The digits at the beginning of a value, as JavaScript's parseInt; None where there are none."""
    found = _INTEGER.match(str(value))
    return int(found[1]) if found else None
