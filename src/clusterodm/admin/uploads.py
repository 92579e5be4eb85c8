# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators do with uploads that are not committed."""

from __future__ import annotations

from typing import Final

from clusterodm.admin import tasks
from clusterodm.admin.views import Done, UploadPage, UploadView
from clusterodm.cluster.context import Context
from clusterodm.cluster.reclaimer import ABANDONED
from clusterodm.cluster.tasks import Entry
from clusterodm.core.durations import span
from clusterodm.core.errors import BadRequest
from clusterodm.core.tasks import Phase, Stage

MAX_PAGE: Final = 500
#: What an upload may be: bytes arrive now, none do, or none did for so long that it goes when room is short.
STATES: Final = ("receiving", "idle", "abandoned")


def page(cluster: Context, *, limit: int = 50, offset: int = 0) -> UploadPage:
    """A page of uploads, longest idle first."""
    entries = cluster.uploads.open()
    active = {entry.task.uuid: cluster.uploads.active_at(entry) for entry in entries}
    entries.sort(key=lambda entry: (active[entry.task.uuid], entry.task.uuid))
    chosen = entries[offset : offset + min(limit, MAX_PAGE)]
    return UploadPage(
        uploads=[_view(cluster, entry, active[entry.task.uuid]) for entry in chosen],
        total=len(entries),
        bytes=held_bytes(cluster),
    )


def held_bytes(cluster: Context) -> int:
    """Bytes of all uploads."""
    return sum(cluster.spool.room.of(entry.task.uuid).size for entry in cluster.uploads.open())


def state(cluster: Context, entry: Entry) -> str:
    """One of STATES."""
    if cluster.spool.receives(entry.task.uuid):
        return "receiving"
    return "abandoned" if cluster.uploads.idle(entry) > ABANDONED else "idle"


def _view(cluster: Context, entry: Entry, active_at: float) -> UploadView:
    task, attempt, usage = entry.task, entry.attempt, cluster.spool.room.of(entry.task.uuid)
    return UploadView(
        uuid=task.uuid,
        name=task.name,
        owner=task.owner,
        files=usage.files,
        bytes=usage.size,
        node=attempt.node_name if attempt is not None and attempt.stage is Stage.AHEAD else "",
        created_at=task.created_at,
        active_at=active_at,
        idle_seconds=cluster.uploads.idle(entry),
        state=state(cluster, entry),
    )


def line(upload: UploadView) -> str:
    """An upload in one line."""
    where = f", sent ahead to {upload.node}" if upload.node else ""
    rest = f"[{upload.state}] idle for {span(upload.idle_seconds)}"
    return (
        f"{upload.uuid} {rest}, {upload.files} files, {upload.bytes} bytes, {upload.owner}{where} {upload.name[:60]!r}"
    )


async def drop(cluster: Context, uuid: str) -> Done:
    """Drop an upload with its files, here and on the node that got some ahead."""
    entry = await tasks.find(cluster, uuid)
    if entry.task.phase is not Phase.RECEIVING:
        raise BadRequest("it is committed; cancel or remove the task instead")
    by = "an operator"
    if not await cluster.uploads.remove(entry, by=by, why=f"the upload was dropped by {by}"):
        raise BadRequest("it was committed or removed in this moment")
    return Done(text=f"{entry.task.uuid} is dropped")
