# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`/metrics`: what was counted (observe.Metrics), and what can be looked up at the time of asking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from clusterodm import __version__
from clusterodm.cluster.context import Context
from clusterodm.core.tasks import ACTIVE


class Looked(Collector):
    """Gauges that are made when somebody asks."""

    def __init__(self, cluster: Context) -> None:
        self._cluster = cluster

    def describe(self) -> list[Metric]:
        """Nothing: they need a running cluster, and names do not clash."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All gauges."""
        yield InfoMetricFamily("clusterodm", "This program.", value={"version": __version__})
        yield self._tasks()
        yield from self._nodes()
        cluster = self._cluster
        yield GaugeMetricFamily("clusterodm_held_bytes", "Bytes of held files.", value=cluster.spool.held)
        room = max(0, cluster.spool.room())
        yield GaugeMetricFamily("clusterodm_room_bytes", "Bytes of uploads that may still come.", value=room)

    def _tasks(self) -> Metric:
        gauge = GaugeMetricFamily("clusterodm_tasks", "Tasks that are not over, by phase.", labels=["phase"])
        counted = Counter(entry.task.phase for entry in self._cluster.tasks.active())
        for phase in sorted(ACTIVE):
            gauge.add_metric([str(phase)], counted[phase])
        return gauge

    def _nodes(self) -> Iterator[Metric]:
        online = GaugeMetricFamily("clusterodm_node_online", "Whether a node answered lately.", labels=["node"])
        slots = GaugeMetricFamily("clusterodm_node_slots", "Slots of a node, by state.", labels=["node", "state"])
        closed = GaugeMetricFamily("clusterodm_node_closed", "Whether a node gets nothing new.", labels=["node"])
        machines = GaugeMetricFamily("clusterodm_nodes", "Nodes, by how they came to be known.", labels=["origin"])
        origins: Counter[str] = Counter()
        for node in self._cluster.registry.nodes():
            name, facts = str(node.address), node.facts()
            used = min(facts.slots, facts.queue)
            online.add_metric([name], float(node.online))
            closed.add_metric([name], float(bool(facts.closed)))
            slots.add_metric([name, "used"], used)
            slots.add_metric([name, "reserved"], min(facts.reserved, facts.slots - used))
            slots.add_metric([name, "free"], max(0, facts.free))
            origins[str(node.record.origin)] += 1
        for origin, count in sorted(origins.items()):
            machines.add_metric([origin], count)
        yield from (online, closed, slots, machines)


def exposition(cluster: Context) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(cluster.metrics.registry)
