# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A part that fails when it is told of a change: the others hear of it, the change is made, and operators see a bug."""

from __future__ import annotations

from typing import Any

import structlog

from tests.admin.support import start
from tests.support import Rig


def broken(*_: Any) -> None:
    raise ZeroDivisionError


async def test_a_task_goes_its_way_though_an_observer_of_tasks_nodes_and_machines_fails(cluster: Rig) -> None:
    _, operator = await start(cluster)
    context = cluster.cluster.context
    for observed in (context.tasks, context.registry, context.machines):
        observed.observers._observers.insert(0, broken)  # whoever comes after it must hear, too
    with structlog.testing.capture_logs() as logs:
        await cluster.add_node()
        await cluster.ready()
        await cluster.api.ends(await cluster.api.create())
    assert [line["observer"] for line in logs if "observer" in line] == ["tests.cluster.test_observers.broken"] * 2
    async with operator.session.get(f"{operator.url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if line.startswith("clusterodm_observer_failures")]
    failed = [line.split() for line in lines if not line.endswith(" 0.0")]
    assert len(failed) == 1 < len(lines)
    [[name, count]] = failed
    assert name == 'clusterodm_observer_failures{observer="tests.cluster.test_observers.broken"}'
    assert float(count) >= 5
