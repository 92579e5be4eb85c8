# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations on uploads that are not committed."""

from __future__ import annotations

from collections import Counter
from typing import Final

from clusterodm.admin.operations import tasks
from clusterodm.admin.operations.parameters import MAX_PAGE
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import Done, UploadPage, UploadView
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.reclaimer import ABANDONED
from clusterodm.cluster.tasks.uploads import Arrival
from clusterodm.core.durations import elapsed, span
from clusterodm.core.errors import BadRequest
from clusterodm.core.tasks import Phase, Stage

#: receiving: bytes arrive now; abandoned: none did for so long that it is dropped when room is short.
STATES: Final = ("receiving", "idle", "abandoned")


def page(cluster: OperatorPlane, *, limit: int = 50, offset: int = 0) -> UploadPage:
    """Return a page of uploads, longest idle first, with requests to `/task/new`, which have no name until they end."""
    views = _all(cluster)
    return UploadPage(
        uploads=views[offset : offset + max(1, min(limit, MAX_PAGE))],
        total=len(views),
        bytes=sum(view.bytes for view in views),
    )


def count(cluster: OperatorPlane) -> Counter[str]:
    """Count uploads by their state."""
    return Counter(view.state for view in _all(cluster))


def held_bytes(cluster: OperatorPlane) -> int:
    """Return the bytes of all uploads."""
    return sum(view.bytes for view in _all(cluster))


def _all(cluster: OperatorPlane) -> list[UploadView]:
    views = [_view(cluster, entry) for entry in cluster.uploads.open()]
    views += [_arrival(cluster, each) for each in cluster.uploads.arrivals()]
    return sorted(views, key=lambda view: (view.active_at, view.uuid))


def _view(cluster: OperatorPlane, entry: Entry) -> UploadView:
    task, attempt, usage = entry.task, entry.attempt, cluster.spool.room.of(entry.task.uuid)
    idle = cluster.uploads.idle(entry)
    return UploadView(
        uuid=task.uuid,
        name=task.name,
        owner=task.owner,
        files=usage.files,
        bytes=usage.size,
        node=attempt.node_name if attempt is not None and attempt.stage is Stage.PREFETCHING else "",
        created_at=task.created_at,
        active_at=cluster.uploads.active_at(entry),
        idle_seconds=idle,
        state=_state(cluster, task.uuid, idle),
    )


def _arrival(cluster: OperatorPlane, arrival: Arrival) -> UploadView:
    """Show a request in progress; it is cut before it could count as abandoned."""
    usage, now = cluster.spool.room.of(arrival.uuid), cluster.clock()
    receives = cluster.spool.receives(arrival.uuid)
    active_at = now if receives else max(arrival.began_at, cluster.spool.last_change(arrival.uuid))
    return UploadView(
        uuid=arrival.uuid,
        name="",
        owner=arrival.owner,
        files=usage.files,
        bytes=usage.size,
        node="",
        created_at=arrival.began_at,
        active_at=active_at,
        idle_seconds=elapsed(active_at, now),
        state="receiving" if receives else "idle",
    )


def _state(cluster: OperatorPlane, uuid: str, idle: float) -> str:
    """Return one of STATES."""
    if cluster.spool.receives(uuid):
        return "receiving"
    return "abandoned" if idle > ABANDONED else "idle"


def line(upload: UploadView) -> str:
    """Return an upload as one line."""
    where = f", prefetched to {upload.node}" if upload.node else ""
    state = f"[{upload.state}] idle for {span(upload.idle_seconds)}"
    size = f"{upload.files} files, {upload.bytes} bytes"
    return f"{upload.uuid} {state}, {size}, {upload.owner}{where} {upload.name[:60]!r}"


async def drop(cluster: OperatorPlane, uuid: str) -> Done:
    """Drop an upload with its files, here and on the node that they were prefetched to."""
    by = "an operator"
    why = f"the upload was dropped by {by}"
    for arrival in cluster.uploads.arrivals():
        if arrival.uuid == uuid:
            cluster.uploads.cut(arrival, why=why)
            return Done(text=f"{uuid} dropped")
    entry = await tasks.find(cluster, uuid)
    if entry.task.phase is not Phase.RECEIVING:
        raise BadRequest("the upload is committed; cancel or remove the task instead")
    if not await cluster.uploads.remove(entry, by=by, why=why):
        raise BadRequest("the upload was just committed or removed")
    return Done(text=f"{entry.task.uuid} dropped")
