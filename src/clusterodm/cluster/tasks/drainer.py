# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes about to be switched off: their results are pulled first, so that nothing is lost with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.collector import Collector
from clusterodm.core.errors import ClusterError, ResultsGone
from clusterodm.files.results import Results

_log = structlog.get_logger("drainer")
_PAGE = 200


@dataclass(kw_only=True, slots=True, eq=False)
class Drainer:
    """Empty nodes that drain, end soon, or were removed."""

    state: ClusterState
    collector: Collector
    results: Results
    clock: Clock
    #: Nodes that can be switched off: idle, with all their results pulled.
    drained: frozenset[int] = field(init=False, default=frozenset())

    async def sweep(self) -> None:
        """Empty all nodes that are about to go. A drained one is not checked again: it gets no new tasks."""
        draining = {node.record.id: node for node in self.state.registry.all() if node.record.leaving(self.clock())}
        done = self.drained - self._busy()
        remaining = {node_id: 0 if node_id in done else await self._empty(node) for node_id, node in draining.items()}
        self.drained = frozenset(node_id for node_id, count in remaining.items() if not count) - self._busy()

    def _busy(self) -> set[int]:
        """Return the nodes that have tasks."""
        return {attempt.node_id for _, attempt in self.state.tasks.on_nodes()}

    async def _empty(self, node: Node) -> int:
        """Pull all results of a node; return how many are left there."""
        remaining = offset = 0
        while uuids := await self.state.store.completed_on(node.record.id, limit=_PAGE, offset=offset):
            offset += len(uuids)
            for uuid in uuids:
                remaining += not (self.results.archive(uuid) or await self._pull(uuid, node))
        return remaining

    async def _pull(self, uuid: str, node: Node) -> bool:
        entry = await self.state.tasks.find(uuid)
        if entry is None or entry.task.results_in:
            return True
        try:
            await self.collector.archive(entry)
        except ResultsGone:  # deleted there before: nothing is lost with the node
            return True
        except ClusterError as error:
            _log.warning("results cannot be pulled", task=uuid, node=str(node.address), error=str(error))
            return False
        await self.state.tasks.note(entry, f"results fetched from {node.address} before it is switched off")
        return True
