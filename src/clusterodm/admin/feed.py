# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What changes, for everybody who watches: merged, a few times a second, over server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from clusterodm.admin.estimates import Guesses
from clusterodm.admin.operations import figures, machines, nodes, tasks
from clusterodm.cluster.context import Context
from clusterodm.cluster.state.entry import Entry

#: Seconds between two looks at what changed.
TICK: Final = 0.5
#: Seconds after which everything that goes by itself (waits, slots, room) is sent even though nothing happened.
_REFRESH: Final = 5.0
#: Events that wait for a slow watcher; then it is told to begin anew.
_WAITING: Final = 500
#: Changed tasks in one tick; with more, watchers are told to begin anew.
_MANY: Final = 200

#: Every kind of event, and what its data is.
EVENTS: Final = {
    "status": "`ClusterStatus`, when anything changed and every few seconds",
    "nodes": "all of `NodeView`, at the beginning and when some came or went",
    "node": "one `NodeView` that changed",
    "machines": "all of `MachineView`, at the beginning and when one changed",
    "task": "one `TaskView` that came into another phase",
    "progress": "`uuid` and `progress` of a task on a node",
    "queue": "`uuid`, `position`, `expected_wait` and `wait` of the first tasks of the queue",
    "reload": "nothing: too much has changed, ask for everything again",
}

_encode = msgspec.json.Encoder().encode


def event(kind: str, value: Any) -> bytes:
    """One server-sent event."""
    return b"event: " + kind.encode() + b"\ndata: " + _encode(value) + b"\n\n"


class Feed:
    """Watches tasks and nodes, and tells watchers."""

    def __init__(self, cluster: Context) -> None:
        self._cluster = cluster
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._changed: dict[str, Entry] = {}
        self._shown: dict[str, bytes] = {}
        self._nodes_shown: dict[int, bytes] = {}
        self._machines_shown = b""
        self._nodes_changed = True
        self._told_all_at = 0.0
        cluster.tasks.watch(self._task_changed)
        cluster.registry.watch(self._node_changed)
        cluster.machines.watch(lambda machine: self._node_changed())

    def _task_changed(self, entry: Entry) -> None:
        if self._watchers:
            self._changed[entry.task.uuid] = entry

    def _node_changed(self) -> None:
        self._nodes_changed = True

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Events as they come, beginning with everything that is not a list of tasks."""
        waiting: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        waiting.put_nowait(event("status", await figures.status(self._cluster)))
        waiting.put_nowait(event("nodes", nodes.listing(self._cluster)))
        waiting.put_nowait(event("machines", machines.listing(self._cluster)))
        self._watchers.add(waiting)
        try:
            yield waiting
        finally:
            self._watchers.discard(waiting)

    async def tick(self) -> None:
        """Tell what has changed since the last time."""
        if not self._watchers:
            self._shown.clear()
            self._nodes_shown.clear()
            self._changed.clear()
            return
        now = self._cluster.clock.steady()
        all_of_it = now - self._told_all_at > _REFRESH or self._nodes_changed
        self._told_all_at = now if all_of_it else self._told_all_at
        changed, self._changed = self._changed, {}
        try:
            news = await self._news(changed, all_of_it=all_of_it)
        except Exception:
            self._changed = changed | self._changed  # told with the next tick
            self._nodes_changed = True
            raise
        for told in news:
            self._tell(told)

    async def _news(self, changed: dict[str, Entry], *, all_of_it: bool) -> list[bytes]:
        told: list[bytes] = []
        guesses = await Guesses.now(self._cluster)
        if len(changed) > _MANY:
            told.append(event("reload", None))
        else:
            told += [event("task", tasks.entry_view(entry, guesses)) for entry in changed.values()]
        told += self._progress(changed)
        if all_of_it or changed:
            told += self._nodes()
            told += self._machines()
            told.append(event("queue", self._queue(guesses)))
            told.append(event("status", await figures.status(self._cluster, guesses)))
        return told

    def _queue(self, guesses: Guesses) -> list[dict[str, Any]]:
        """Where the first tasks of the queue stand: that changes when others go."""
        places = []
        for uuid in (turn.task.uuid for turn in guesses.turns[:_MANY]):
            position, expected = guesses.of(uuid)
            entry = self._cluster.tasks.get(uuid)
            wait = entry.wait if entry else ""
            places.append({"uuid": uuid, "position": position, "expected_wait": expected, "wait": wait})
        return places

    def _nodes(self) -> list[bytes]:
        """Nodes that are not what was told last; all of them when some came or went."""
        self._nodes_changed = False
        views = nodes.listing(self._cluster)
        now = {view.id: _encode(msgspec.structs.replace(view, seen_at=0.0)) for view in views}
        before, self._nodes_shown = self._nodes_shown, now
        if now.keys() != before.keys():
            return [event("nodes", views)]
        return [event("node", view) for view in views if now[view.id] != before[view.id]]

    def _machines(self) -> list[bytes]:
        """All machines, when one is not what was told last; what they cost goes on by itself."""
        views = machines.listing(self._cluster)
        now = _encode([msgspec.structs.replace(view, cost=0.0) for view in views])
        before, self._machines_shown = self._machines_shown, now
        return [event("machines", views)] if now != before else []

    def _progress(self, changed: dict[str, Entry]) -> list[bytes]:
        """Tasks on nodes whose progress is not what was told last."""
        told: list[bytes] = []
        seen: dict[str, bytes] = {}
        for entry in self._cluster.tasks.active():
            uuid = entry.task.uuid
            if entry.attempt is None or uuid in changed:
                continue
            seen[uuid] = _encode((entry.task.progress, entry.task.processing_time))
            before = self._shown.get(uuid)
            if before in (None, seen[uuid]):
                continue
            if len(told) < _MANY:
                told.append(event("progress", {"uuid": uuid, "progress": entry.task.progress}))
            else:
                seen[uuid] = before  # its turn comes with the next tick
        self._shown = seen
        return told

    def _tell(self, told: bytes) -> None:
        for waiting in self._watchers:
            if waiting.full():
                while not waiting.empty():
                    waiting.get_nowait()
                waiting.put_nowait(event("reload", None))
            waiting.put_nowait(told)
