# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One task on a development node: what it shows, and what of it survives a restart."""

from __future__ import annotations

import posixpath
import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from clusterodm.core.tasks import CANCELED_CODE, COMPLETED_CODE, FAILED_CODE, QUEUED_CODE, RUNNING_CODE
from clusterodm.devnode.config import integer

OVER: Final = (FAILED_CODE, COMPLETED_CODE, CANCELED_CODE)
BUSY: Final = (QUEUED_CODE, RUNNING_CODE)


class DevTask(msgspec.Struct, kw_only=True):
    """One task on the node."""

    uuid: str
    #: None: its client gave none, and none is shown.
    name: str | None = None
    options: list[dict[str, Any]] = []
    date_created: int = 0
    webhook: str = ""
    skip_post_processing: bool = False
    #: Paths that `all.zip` is limited to; empty: all there is.
    outputs: list[str] = []
    code: int = RUNNING_CODE
    #: None: no word about it is shown.
    error: str | None = None
    output: list[str] = []
    progress: float = 0
    images_count: int = 0
    #: Whether its files are in place.
    ready: bool = False
    begun_at: float = 0.0
    processing_time: int = -1
    #: How often it was started; more than one only by a restart.
    runs: int = 0

    def info(self) -> dict[str, Any]:
        """The body of `/task/<uuid>/info` without output."""
        status: dict[str, Any] = {"code": self.code}
        if self.error is not None:
            status["errorMessage"] = self.error
        named = {} if self.name is None else {"name": self.name}
        return {
            "uuid": self.uuid,
            **named,
            "dateCreated": self.date_created,
            "processingTime": self.processing_time,
            "status": status,
            "options": self.options,
            "imagesCount": self.images_count,
            "progress": self.progress,
        }

    def kept(self) -> dict[str, Any]:
        """What a node writes down of a task: neither its console nor how far it is."""
        told = {"code": self.code} if self.error is None else {"code": self.code, "errorMessage": self.error}
        return {
            "uuid": self.uuid,
            "name": self.name,
            "dateCreated": self.date_created,
            "status": told,
            "options": self.options,
            "webhook": self.webhook,
            "skipPostProcessing": self.skip_post_processing,
            "outputs": self.outputs,
        }

    def begin_again(self) -> None:
        """Wait as if it had never run."""
        self.code, self.error, self.output, self.progress, self.processing_time = QUEUED_CODE, None, [], 0, -1
        self.date_created = now()

    def over_since(self) -> int:
        """When a node thinks that a finished task ended: from the date that its client may have given."""
        return self.date_created + max(0, self.processing_time)


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def from_fields(uuid: str, fields: dict[str, str], options: list[dict[str, Any]], images: int) -> DevTask:
    """A task as its client announced it."""
    name = fields.get("name")
    created = integer(fields.get("dateCreated"))
    return DevTask(
        uuid=uuid,
        name=f"Task of {datetime.now(UTC).isoformat(timespec='milliseconds')}" if name == "" else name,
        options=options,
        date_created=now() if created is None else created,
        webhook=fields.get("webhook", ""),
        skip_post_processing=fields.get("skipPostProcessing") == "true",
        outputs=_paths(fields.get("outputs", "")),
        images_count=images,
    )


def from_kept(said: dict[str, Any], images: int) -> DevTask:
    """A task as it was written down; one that ran waits."""
    status = said["status"]
    return DevTask(
        uuid=said["uuid"],
        name=said["name"],
        options=said["options"],
        date_created=said["dateCreated"],
        webhook=said["webhook"],
        skip_post_processing=said["skipPostProcessing"],
        outputs=said["outputs"],
        code=QUEUED_CODE if status["code"] == RUNNING_CODE else status["code"],
        error=status.get("errorMessage"),
        images_count=images,
        ready=True,
    )


def _paths(text: str) -> list[str]:
    """The paths of `outputs`, none of them leading out of the project."""
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return []
    if not isinstance(given, list):
        return []
    return [_inside(path) for path in given if isinstance(path, str)]


def _inside(path: str) -> str:
    parts = posixpath.normpath(path or ".").split("/")
    while parts and parts[0] in ("..", ""):
        parts.pop(0)
    return "/".join(parts) or "."
