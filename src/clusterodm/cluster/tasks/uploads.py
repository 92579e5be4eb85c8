# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uncommitted uploads: how long each is idle, how many a caller may have, and how one is dropped."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from clusterodm.aio import Clock
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.durations import span
from clusterodm.core.errors import BadRequest, StaleTask
from clusterodm.core.tasks import Attempt, Cleanup, Phase, Stage
from clusterodm.files.spool import Spool
from clusterodm.observe import Metrics

#: Seconds without a byte after which an upload no longer counts against `--flood-limit`, as in the original.
_FORGIVEN: Final = 900.0
#: Dropped uploads remembered, to tell their owners why.
_REMEMBERED: Final = 1000
_UNKNOWN: Final = "Invalid uuid (not found)"
_GIVEN_UP: Final = "given up"


class Arrival(NamedTuple):
    """A `/task/new` request under way: its fields may come last."""

    uuid: str
    owner: str
    began_at: float


@dataclass(kw_only=True, slots=True, eq=False)
class Uploads:
    """Count, expire and drop uploads."""

    tasks: Tasks
    spool: Spool
    flood_limit: int
    clock: Clock
    metrics: Metrics
    #: `/task/new` requests under way, by uuid.
    _arriving: dict[str, Arrival] = field(init=False, default_factory=dict)
    #: Callers of uploads that began here, and of those about to begin.
    _callers: dict[str, str] = field(init=False, default_factory=dict)
    _admitted: Counter[tuple[str, str]] = field(init=False, default_factory=Counter)
    #: Owners of dropped uploads, and the reasons.
    _dropped: OrderedDict[str, tuple[str, str]] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        """Abort transfers of an upload that another replica removed."""
        if entry.task.phase is not Phase.RECEIVING:
            self._callers.pop(entry.task.uuid, None)
        if entry.task.phase is Phase.REMOVED:
            self.spool.abort(entry.task.uuid)

    def open(self) -> list[Entry]:
        """Return all uncommitted uploads."""
        return [entry for entry in self.tasks.active() if entry.task.phase is Phase.RECEIVING]

    def active_at(self, entry: Entry) -> float:
        """Return when the last bytes came; now while a request is being received."""
        if self.spool.receives(entry.task.uuid):
            return self.clock()
        return max(entry.task.created_at, entry.last_activity, self.spool.last_change(entry.task.uuid))

    def idle(self, entry: Entry) -> float:
        """Return the seconds since the last bytes."""
        return max(0.0, self.clock.age(self.active_at(entry)))

    @contextmanager
    def admitted(self, caller: str, uuid: str) -> Iterator[None]:
        """Count an upload that is not listed yet while the block runs. Raises BadRequest when its caller has too many
        others in progress."""
        if self.flood_limit and self._count(caller, uuid) >= self.flood_limit:
            raise BadRequest(f"Too many uploads at the same time (at most {self.flood_limit}), try again later")
        key = (caller, uuid)
        self._admitted[key] += 1
        try:
            yield
        finally:
            self._admitted[key] -= 1
            if not self._admitted[key]:
                del self._admitted[key]

    def began(self, uuid: str, caller: str) -> None:
        """Count an announced upload as its caller's; one that began in another replica counts as its owner's."""
        self._callers[uuid] = caller

    def _count(self, caller: str, but: str) -> int:
        uuids = {uuid for name, uuid in self._admitted if name == caller}
        for entry in self.open():
            uuid = entry.task.uuid
            if self._callers.get(uuid, entry.task.owner) == caller and self.idle(entry) < _FORGIVEN:
                uuids.add(uuid)
        return len(uuids - {but})

    def arrivals(self) -> list[Arrival]:
        """Return the `/task/new` requests under way in this process that are no tasks yet."""
        return [each for each in self._arriving.values() if self.tasks.get(each.uuid) is None]

    def cut(self, arrival: Arrival, *, why: str) -> None:
        """Abort a `/task/new` request under way; its files are deleted."""
        self._remember(arrival.uuid, arrival.owner, why)
        self.spool.abort(arrival.uuid)
        self.metrics.uploads_dropped.labels("removed").inc()

    def check_cut(self, uuid: str, owner: str) -> None:
        """Raise BadRequest for an aborted `/task/new`."""
        if uuid in self._dropped:
            raise self.unknown(uuid, owner)

    def is_arriving(self, uuid: str) -> bool:
        """Return True if a `/task/new` request gathers files under this uuid here."""
        return uuid in self._arriving

    @contextmanager
    def arriving(self, uuid: str, owner: str) -> Iterator[None]:
        """Register a `/task/new` request while the block runs."""
        self._dropped.pop(uuid, None)
        self._arriving[uuid] = Arrival(uuid, owner, self.clock())
        try:
            yield
        finally:
            del self._arriving[uuid]

    def unknown(self, uuid: str, owner: str) -> BadRequest:
        """Return the error for an unknown upload: a node's words, and the reason if it was dropped."""
        dropped_of, why = self._dropped.get(uuid, ("", ""))
        if not why or dropped_of != owner:
            return BadRequest(_UNKNOWN)
        return BadRequest(f"{_UNKNOWN}: {why}; begin again", no_retry=True)

    async def remove(self, entry: Entry, *, by: str, why: str = "") -> bool:
        """Remove an upload with its files, here and on the node of a prefetch; return False if it is over already. An
        owner who continues it is told why."""
        async with self.tasks.locks.hold(entry):
            return await self._drop(entry, f"removed by {by} before its commit", why, outcome="removed")

    async def give_up(self, entry: Entry, rest: float, *, short: bool) -> bool:
        """Remove an upload idle for this many seconds; return False if it is not, or is over already."""
        async with self.tasks.locks.hold(entry):
            idle = self.idle(entry)
            if idle < rest:
                return False
            why = f"nothing was uploaded for {span(idle)}" + (" and room was short" if short else "")
            reason = f"the upload was given up because {why}"
            return await self._drop(entry, f"abandoned: {why}", reason, outcome=_GIVEN_UP)

    async def _drop(self, entry: Entry, text: str, why: str, *, outcome: str) -> bool:
        """Remove an upload whose lock is held, so that nothing of it is published or committed meanwhile."""
        task = entry.task
        if task.phase is not Phase.RECEIVING:
            return False
        try:
            await self.tasks.advance(entry, Phase.REMOVED, text, attempt=self._ended_attempt(entry.attempt))
        except StaleTask:
            return False
        self._remember(task.uuid, task.owner, why)
        await self.spool.drop(task.uuid)
        self.metrics.uploads_dropped.labels(outcome).inc()
        return True

    def _remember(self, uuid: str, owner: str, why: str) -> None:
        self._dropped[uuid] = (owner, why)
        while len(self._dropped) > _REMEMBERED:
            self._dropped.popitem(last=False)

    def _ended_attempt(self, attempt: Attempt | None) -> Attempt | None:
        """Return the ended attempt of a prefetch, to be removed on its node."""
        if attempt is None or attempt.stage is not Stage.PREFETCHING:
            return None
        return attempt.ended(self.clock(), _GIVEN_UP, Cleanup.REMOVE)
