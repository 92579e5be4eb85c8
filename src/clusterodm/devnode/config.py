# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""NodeODM's configuration file, read as NodeODM reads it: numbers by their leading digits, empty values as absent,
unknown keys ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from clusterodm.core.errors import ConfigError

_INTEGER: Final = re.compile(r"\s*([-+]?\d+)")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The file, with a node's own defaults. A development node accepts the keys of a bucket, but delivers to none."""

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
    """Return the configuration in a file. As on a node, a file whose name does not end in .json is not read."""
    if path.suffix.lower() != ".json":
        return NodeConfig()
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"Invalid configuration file {path}: {error}") from None
    values = content if isinstance(content, dict) else {}
    return NodeConfig(
        port=_port(values.get("port", "auto")),
        token=str(values.get("token") or ""),
        parallel_queue_processing=integer(values.get("parallelQueueProcessing", 1)),
        max_images=integer(values.get("maxImages")) or None,
        cleanup_tasks_after=integer(values.get("cleanupTasksAfter", 2880)),
        cleanup_uploads_after=integer(values.get("cleanupUploadsAfter", 2880)),
        test_drop_uploads=bool(values.get("testDropUploads")),
        test_fail_tasks=bool(values.get("testFailTasks")),
        test_seconds=integer(values.get("testSeconds", 0)),
        webhook=str(values.get("webhook") or ""),
        max_concurrency=integer(values.get("maxConcurrency", 0)),
        s3_endpoint=str(values.get("s3Endpoint") or ""),
        s3_bucket=str(values.get("s3Bucket") or ""),
        s3_access_key=str(values.get("s3AccessKey") or ""),
        s3_secret_key=str(values.get("s3SecretKey") or ""),
        s3_force_path_style=bool(values.get("s3ForcePathStyle")),
        s3_ignore_ssl=bool(values.get("s3IgnoreSSL")),
        s3_acl=str(values.get("s3_acl", "public-read")),
    )


def _port(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


def integer(value: Any) -> int | None:
    """Return the leading digits of a value, as JavaScript's parseInt; None if there are none."""
    match = _INTEGER.match(str(value))
    return int(match[1]) if match else None
