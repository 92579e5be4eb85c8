# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A task on a development node: what it shows, and what of it survives a restart."""

from __future__ import annotations

import posixpath
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from clusterodm.core.tasks import CANCELED_CODE, COMPLETED_CODE, FAILED_CODE, QUEUED_CODE, RUNNING_CODE
from clusterodm.devnode.config import integer

OVER: Final = (FAILED_CODE, COMPLETED_CODE, CANCELED_CODE)
BUSY: Final = (QUEUED_CODE, RUNNING_CODE)


class DevTask(msgspec.Struct, kw_only=True):
    """A task of the node."""

    uuid: str
    #: None: not given, not shown.
    name: str | None = None
    options: list[dict[str, Any]] = []
    date_created: int = 0
    webhook: str = ""
    skip_post_processing: bool = False
    #: Paths that `all.zip` is limited to; empty: all there is.
    outputs: list[str] = []
    code: int = RUNNING_CODE
    #: None: not shown.
    error: str | None = None
    output: list[str] = []
    progress: float = 0
    images_count: int = 0
    #: True once its files are in place.
    ready: bool = False
    begun_at: float = 0.0
    processing_time: int = -1
    #: How often it was started; more than once only by a restart.
    runs: int = 0

    def info(self) -> dict[str, Any]:
        """Return the body of `/task/<uuid>/info` without output."""
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

    def saved_state(self) -> dict[str, Any]:
        """Return what a node saves of a task: neither its console nor its progress."""
        status = {"code": self.code} if self.error is None else {"code": self.code, "errorMessage": self.error}
        return {
            "uuid": self.uuid,
            "name": self.name,
            "dateCreated": self.date_created,
            "status": status,
            "options": self.options,
            "webhook": self.webhook,
            "skipPostProcessing": self.skip_post_processing,
            "outputs": self.outputs,
        }

    def begin_again(self, now: int) -> None:
        """Queue the task as if it had never run; `now` in milliseconds."""
        self.code, self.error, self.output, self.progress, self.processing_time = QUEUED_CODE, None, [], 0, -1
        self.date_created = now

    def over_since(self) -> int:
        """Return when a finished task ended according to the node: by the date that its client may have given."""
        return self.date_created + max(0, self.processing_time)


def from_fields(
    uuid: str, fields: dict[str, str], options: list[dict[str, Any]], images: int, created: float
) -> DevTask:
    """Return a task as its client announced it; `created`: in seconds since the epoch, where it says nothing else."""
    name = fields.get("name")
    day = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    date = integer(fields.get("dateCreated"))
    return DevTask(
        uuid=uuid,
        name=f"Task of {day}" if name == "" else name,
        options=options,
        date_created=int(created * 1000) if date is None else date,
        webhook=fields.get("webhook", ""),
        skip_post_processing=fields.get("skipPostProcessing") == "true",
        outputs=_paths(fields.get("outputs", "")),
        images_count=images,
    )


def from_kept(saved: dict[str, Any], images: int) -> DevTask:
    """Return a task as it was saved; one that was running is queued."""
    status = saved["status"]
    return DevTask(
        uuid=saved["uuid"],
        name=saved["name"],
        options=saved["options"],
        date_created=saved["dateCreated"],
        webhook=saved["webhook"],
        skip_post_processing=saved["skipPostProcessing"],
        outputs=saved["outputs"],
        code=QUEUED_CODE if status["code"] == RUNNING_CODE else status["code"],
        error=status.get("errorMessage"),
        images_count=images,
        ready=True,
    )


def _paths(text: str) -> list[str]:
    """Return the paths of `outputs`, each kept inside the project."""
    try:
        paths = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return []
    return [_inside(path) for path in paths if isinstance(path, str)] if isinstance(paths, list) else []


def _inside(path: str) -> str:
    parts = posixpath.normpath(path or ".").split("/")
    while parts and parts[0] in ("..", ""):
        parts.pop(0)
    return "/".join(parts) or "."
