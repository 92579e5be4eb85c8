# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The image of nodes, and their configuration: NodeODM's `--config` file, so that no secret is in its arguments."""

from __future__ import annotations

from typing import Any, Final

from clusterodm.providers.config import S3, ProviderConfig

#: The default image; with a GPU its tag is GPU_TAG.
IMAGE: Final = "docker.io/webodm/nodeodx"
GPU_TAG: Final = "gpu"


def node_image(image: str, *, gpu: bool) -> str:
    """Return the configured image, or the default if it is empty."""
    return image or (f"{IMAGE}:{GPU_TAG}" if gpu else IMAGE)


def node_config(config: ProviderConfig, *, port: int | str, token: str, max_images: int, slots: int) -> dict[str, Any]:
    """Return the content of the file. `token` is what the node requires of its clients."""
    node = {"port": port, "token": token, "maxImages": max_images, "parallelQueueProcessing": slots}
    return node | (_bucket(config.s3) if config.s3 is not None else {})


def _bucket(s3: S3) -> dict[str, Any]:
    """Return the keys with which the node uploads its results."""
    return {
        "s3Endpoint": s3.endpoint,
        "s3Bucket": s3.bucket,
        "s3AccessKey": s3.access_key,
        "s3SecretKey": s3.secret_key,
        "s3ForcePathStyle": True,
        "s3IgnoreSSL": s3.ignore_ssl,
        "s3_acl": s3.acl or "none",  # the one key in snake case; without it results are public
    }
