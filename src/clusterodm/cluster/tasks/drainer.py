# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that are about to go: their results are brought here, so that nothing is lost when they are switched off."""

from __future__ import annotations

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.registry import Node, Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.core.errors import ClusterError, ResultsGone
from clusterodm.files.results import Results
from clusterodm.store import Store

_log = structlog.get_logger("drainer")
_PAGE = 200


class Drainer:
    """Empties nodes that drain, end soon, or were removed."""

    def __init__(
        self, store: Store, tasks: Tasks, registry: Registry, collector: Collector, results: Results, *, clock: Clock
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._registry = registry
        self._collector = collector
        self._results = results
        self._clock = clock
        #: Nodes that can be switched off: nothing runs there and all their results are here.
        self.drained: frozenset[int] = frozenset()

    async def sweep(self) -> None:
        """One round over all nodes that leave. A drained one is not looked through again: nothing new comes there."""
        leaving = {node.record.id: node for node in self._registry.all() if node.record.leaving(self._clock())}
        known = self.drained - self._busy()
        left = {number: 0 if number in known else await self._empty(node) for number, node in leaving.items()}
        self.drained = frozenset(number for number, count in left.items() if not count) - self._busy()

    def _busy(self) -> set[int]:
        """Nodes that have tasks."""
        return {attempt.node_id for _, attempt in self._tasks.on_nodes()}

    async def _empty(self, node: Node) -> int:
        """Bring all results of a node here; how many could not be brought."""
        left = offset = 0
        while uuids := await self._store.completed_on(node.record.id, limit=_PAGE, offset=offset):
            offset += len(uuids)
            for uuid in uuids:
                left += not (self._results.archive(uuid) or await self._bring(uuid, node))
        return left

    async def _bring(self, uuid: str, node: Node) -> bool:
        entry = await self._tasks.find(uuid)
        if entry is None or entry.task.results_in:
            return True
        try:
            await self._collector.archive(entry)
        except ResultsGone:  # deleted there long ago: nothing is lost with the node
            return True
        except ClusterError as error:
            _log.warning("results cannot be brought here", task=uuid, node=str(node.address), error=str(error))
            return False
        await self._tasks.note(entry, f"results fetched from {node.address} before it is switched off")
        return True
