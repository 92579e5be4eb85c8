# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes as server-sent events, merged a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from clusterodm.admin.estimates import Guesses
from clusterodm.admin.operations import figures, machines, nodes, tasks
from clusterodm.admin.plane import OperatorPlane
from clusterodm.cluster.state.entry import Entry

#: Seconds between two ticks.
TICK: Final = 0.5
#: Seconds after which values that change by themselves (waits, slots, room) are sent although nothing happened.
_REFRESH: Final = 5.0
#: Events that are queued for a slow watcher; then it is told to reload.
_WAITING: Final = 500
#: Changed tasks in a tick; with more, watchers are told to reload.
_MANY: Final = 200

#: Kinds of events, and their data.
EVENTS: Final = {
    "status": "`ClusterStatus`, after any change and every few seconds",
    "nodes": "all `NodeView`s, at the start and after nodes were added or removed",
    "node": "a `NodeView` that changed",
    "machines": "all `MachineView`s, at the start and after one changed",
    "task": "a `TaskView` whose phase changed",
    "progress": "`uuid` and `progress` of a task on a node",
    "queue": "`uuid`, `position`, `expected_wait` and `wait` of the first tasks of the queue",
    "reload": "nothing: too much has changed, reload everything",
}

_encode = msgspec.json.Encoder().encode


def event(kind: str, value: Any) -> bytes:
    """Return a server-sent event."""
    return b"event: " + kind.encode() + b"\ndata: " + _encode(value) + b"\n\n"


class Feed:
    """Watches tasks, nodes and machines, and sends changes to watchers."""

    def __init__(self, cluster: OperatorPlane) -> None:
        self._cluster = cluster
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._changed: dict[str, Entry] = {}
        self._shown: dict[str, bytes] = {}
        self._nodes_shown: dict[int, bytes] = {}
        self._machines_shown = b""
        self._nodes_changed = True
        self._sent_all_at = 0.0
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
        """Return a queue of events, which begins with everything but the tasks."""
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
        """Send what has changed since the last tick."""
        if not self._watchers:
            self._shown.clear()
            self._nodes_shown.clear()
            self._changed.clear()
            return
        now = self._cluster.clock.steady()
        everything = now - self._sent_all_at > _REFRESH or self._nodes_changed
        self._sent_all_at = now if everything else self._sent_all_at
        changed, self._changed = self._changed, {}
        try:
            events = await self._events(changed, everything=everything)
        except Exception:
            self._changed = changed | self._changed  # sent with the next tick
            self._nodes_changed = True
            raise
        for each in events:
            self._send(each)

    async def _events(self, changed: dict[str, Entry], *, everything: bool) -> list[bytes]:
        events: list[bytes] = []
        guesses = await Guesses.now(self._cluster)
        if len(changed) > _MANY:
            events.append(event("reload", None))
        else:
            events += [event("task", tasks.entry_view(entry, guesses)) for entry in changed.values()]
        events += self._progress(changed)
        if everything or changed:
            events += self._nodes()
            events += self._machines()
            events.append(event("queue", self._queue(guesses)))
            events.append(event("status", await figures.status(self._cluster, guesses)))
        return events

    def _queue(self, guesses: Guesses) -> list[dict[str, Any]]:
        """Return the positions of the first queued tasks, which change when others leave the queue."""
        places = []
        for uuid in (turn.task.uuid for turn in guesses.turns[:_MANY]):
            position, expected = guesses.of(uuid)
            entry = self._cluster.tasks.get(uuid)
            wait = entry.wait if entry else ""
            places.append({"uuid": uuid, "position": position, "expected_wait": expected, "wait": wait})
        return places

    def _nodes(self) -> list[bytes]:
        """Return events of changed nodes; one of all nodes after some were added or removed."""
        self._nodes_changed = False
        views = nodes.listing(self._cluster)
        now = {view.id: _encode(msgspec.structs.replace(view, seen_at=0.0)) for view in views}
        before, self._nodes_shown = self._nodes_shown, now
        if now.keys() != before.keys():
            return [event("nodes", views)]
        return [event("node", view) for view in views if now[view.id] != before[view.id]]

    def _machines(self) -> list[bytes]:
        """Return an event of all machines if one changed, other than its cost."""
        views = machines.listing(self._cluster)
        now = _encode([msgspec.structs.replace(view, cost=0.0) for view in views])
        before, self._machines_shown = self._machines_shown, now
        return [event("machines", views)] if now != before else []

    def _progress(self, changed: dict[str, Entry]) -> list[bytes]:
        """Return events of tasks on nodes whose progress changed."""
        events: list[bytes] = []
        encoded: dict[str, bytes] = {}
        for entry in self._cluster.tasks.active():
            uuid = entry.task.uuid
            if entry.attempt is None or uuid in changed:
                continue
            encoded[uuid] = _encode((entry.task.progress, entry.task.processing_time))
            before = self._shown.get(uuid)
            if before in (None, encoded[uuid]):
                continue
            if len(events) < _MANY:
                events.append(event("progress", {"uuid": uuid, "progress": entry.task.progress}))
            else:
                encoded[uuid] = before  # its turn comes with the next tick
        self._shown = encoded
        return events

    def _send(self, sent: bytes) -> None:
        for waiting in self._watchers:
            if waiting.full():
                while not waiting.empty():
                    waiting.get_nowait()
                waiting.put_nowait(event("reload", None))
            waiting.put_nowait(sent)
