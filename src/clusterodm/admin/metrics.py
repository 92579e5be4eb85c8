# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`/metrics`: counters (observe.Metrics), and gauges that are looked up for each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from clusterodm import __version__
from clusterodm.admin.operations import uploads
from clusterodm.admin.plane import OperatorPlane
from clusterodm.cluster.state.registry import Node
from clusterodm.core.machines import State
from clusterodm.core.nodes import Origin
from clusterodm.core.tasks import ACTIVE

#: Gauges that are looked up: help and labels.
GAUGES: Final[dict[str, tuple[str, list[str]]]] = {
    "clusterodm_tasks": ("Unfinished tasks, by phase.", ["phase"]),
    "clusterodm_uploads": ("Uploads that are not committed: receiving, idle, or abandoned.", ["state"]),
    "clusterodm_upload_bytes": ("Bytes of uploads that are not committed.", []),
    "clusterodm_held_bytes": ("Bytes of held files.", []),
    "clusterodm_room_bytes": ("Bytes of uploads that there is still room for.", []),
    "clusterodm_nodes": ("Nodes, by origin.", ["origin"]),
    "clusterodm_machines": ("Machines that are not gone, by provider and state.", ["provider", "state"]),
    "clusterodm_machines_hourly_cost": ("Hourly cost of all machines, as configured.", []),
    "clusterodm_machines_month_cost": ("Cost of machines this month.", []),
    "clusterodm_leads": ("1 if this process is the leader.", []),
    "clusterodm_replicas": ("Replicas of this cluster.", []),
    "clusterodm_orphans": ("Machines that carry this cluster's tag but are unknown to it.", []),
    "clusterodm_observer_failures": ("Failed observers of changes, each a bug.", ["observer"]),
    "clusterodm_node_online": ("1 if a node is online.", ["node"]),
    "clusterodm_node_closed": ("1 if a node accepts no new tasks.", ["node"]),
    "clusterodm_node_slots": ("Slots of a node: used, reserved, free.", ["node", "state"]),
}


class LiveGauges(Collector):
    """Gauges that are looked up for each scrape."""

    def __init__(self, cluster: OperatorPlane) -> None:
        self._cluster = cluster

    def describe(self) -> list[Metric]:
        """Return nothing: gauges need a running cluster, and names do not clash."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return all gauges."""
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        cluster = self._cluster
        gauges["clusterodm_held_bytes"].add_metric([], cluster.spool.room.held)
        gauges["clusterodm_room_bytes"].add_metric([], max(0, cluster.spool.room.free_bytes()))
        _add_uploads(gauges, cluster)
        phases = Counter(entry.task.phase for entry in cluster.tasks.active())
        for phase in sorted(ACTIVE):
            gauges["clusterodm_tasks"].add_metric([str(phase)], phases[phase])
        for node in cluster.registry.nodes():
            _add_node(gauges, node)
        states = Counter((machine.provider, str(machine.state)) for machine in cluster.machines.alive())
        providers = {*cluster.autoscaler.fleet.providers, *(provider for provider, _ in states)}
        for labels in product(sorted(providers), (str(state) for state in State if state is not State.GONE)):
            gauges["clusterodm_machines"].add_metric(labels, states[labels])
        hourly = sum(machine.price for machine in cluster.machines.alive())
        gauges["clusterodm_machines_hourly_cost"].add_metric([], hourly)
        gauges["clusterodm_machines_month_cost"].add_metric([], cluster.autoscaler.spent_this_month)
        gauges["clusterodm_leads"].add_metric([], float(cluster.replicas.leads))
        gauges["clusterodm_replicas"].add_metric([], len(cluster.replicas.members))
        gauges["clusterodm_orphans"].add_metric([], len(cluster.reaper.orphans))
        origins = Counter(str(node.record.origin) for node in cluster.registry.nodes())
        for origin in Origin:
            gauges["clusterodm_nodes"].add_metric([origin], origins[origin])
        observers = (cluster.tasks.observers, cluster.registry.observers, cluster.machines.observers)
        for name, count in sorted(_sum(each.failures for each in observers).items()):
            gauges["clusterodm_observer_failures"].add_metric([name], count)
        yield InfoMetricFamily("clusterodm", "This program.", value={"version": __version__})
        yield from gauges.values()


def _sum(counted: Iterable[Counter[str]]) -> Counter[str]:
    """Add counts up, and keep those that are zero."""
    total: Counter[str] = Counter()
    for each in counted:
        total.update(each)
    return total


def _add_uploads(gauges: dict[str, GaugeMetricFamily], cluster: OperatorPlane) -> None:
    gauges["clusterodm_upload_bytes"].add_metric([], uploads.held_bytes(cluster))
    states = uploads.count(cluster)
    for state in uploads.STATES:
        gauges["clusterodm_uploads"].add_metric([state], states[state])


def _add_node(gauges: dict[str, GaugeMetricFamily], node: Node) -> None:
    name, facts = str(node.address), node.facts()
    used = min(facts.slots, facts.queue)
    gauges["clusterodm_node_online"].add_metric([name], float(node.online))
    gauges["clusterodm_node_closed"].add_metric([name], float(bool(facts.closed)))
    slots = {"used": used, "reserved": min(facts.reserved, facts.slots - used), "free": max(0, facts.free)}
    for state, count in slots.items():
        gauges["clusterodm_node_slots"].add_metric([name, state], count)


def exposition(cluster: OperatorPlane) -> bytes:
    """Return the metrics in the text format of Prometheus."""
    return generate_latest(cluster.metrics.registry)
