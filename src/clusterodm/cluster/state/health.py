# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which nodes are set aside and why: `core.health`, fed with the outcomes of tasks on all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from clusterodm.core.health import WELL, Health
from clusterodm.core.nodes import LONGEST_SET_ASIDE
from clusterodm.core.retry import Failure

if TYPE_CHECKING:
    from clusterodm.cluster.state.registry import Node

#: Seconds for which a failing node is shown as a problem after its last failure, if it is not set aside for longer.
_SHOWN: Final = 3600.0


class Healths:
    """The health of each node, as observed by this process."""

    def __init__(self, node: Callable[[int], Node | None], clock: Callable[[], float]) -> None:
        self._node = node
        self._clock = clock
        self._by_node: dict[int, Health] = {}

    def set_aside(self, node_id: int, seconds: float) -> None:
        """Keep new tasks from a node for a while; one that is set aside for longer stays so."""
        if (node := self._node(node_id)) and seconds > 0:
            now = self._clock()
            current = node.set_aside_until if node.set_aside_until <= now + LONGEST_SET_ASIDE else 0.0  # clock set back
            node.set_aside_until = max(current, now + seconds)

    def pardon(self, node: Node) -> None:
        """Use a node again that was set aside, by an operator's order."""
        node.set_aside_until = 0.0
        self.forget(node.record.id)

    def learn_limit(self, node_id: int, limit: int) -> None:
        """Trust the limit in a refusal more than the one that the node reports."""
        if node := self._node(node_id):
            node.learnt = (limit, node.info.max_images)

    def failed(self, node_id: int, task: str, failure: Failure, words: str, seconds: float) -> None:
        """Note that a task failed on a node after so many seconds of processing; set a failing node aside."""
        health = self._by_node.get(node_id, Health())
        others = [other for each, other in self._by_node.items() if each != node_id]
        self._put(node_id, health.failed_task(task, failure, words, self._clock(), seconds=seconds, others=others))

    def completed(self, node_id: int, task: str) -> None:
        """Note that a task completed on a node: that node is healthy, and nodes where the task failed are in doubt."""
        self._by_node[node_id] = WELL
        for each, health in list(self._by_node.items()):
            if task in health.doubted:
                others = [other for other_id, other in self._by_node.items() if other_id != each]
                self._put(each, health.completed_elsewhere(task, self._clock(), others))

    def absolve(self, task: str) -> None:
        """Blame no node for a task that was itself at fault."""
        self._by_node = {node_id: health.absolved(task) for node_id, health in self._by_node.items()}

    def forget(self, node_id: int) -> None:
        """Forget a node."""
        self._by_node.pop(node_id, None)

    def ill(self) -> dict[int, Health]:
        """Return the nodes, by id, that were set aside as failing and have not completed a task since."""
        now = self._clock()
        return {
            node_id: health
            for node_id, health in self._by_node.items()
            if health.times and now < max(health.until, health.at + _SHOWN)
        }

    def _put(self, node_id: int, health: Health) -> None:
        self._by_node[node_id] = health
        self.set_aside(node_id, health.until - self._clock())
