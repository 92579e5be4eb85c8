# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations on machines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from clusterodm.admin.operations.parameters import CostKey
from clusterodm.admin.plane import OperatorPlane
from clusterodm.admin.views import CostView, Done, MachineDetail, MachineEventView, MachinePlan, MachineView
from clusterodm.core.durations import elapsed
from clusterodm.core.errors import BadRequest, MachineNotFound
from clusterodm.core.machines import Machine, State
from clusterodm.core.placement import Needs
from clusterodm.core.scaling import Demand

#: Machines that are gone and still listed.
_GONE: Final = 100


def listing(cluster: OperatorPlane) -> list[MachineView]:
    """List machines that are not gone, oldest launch first."""
    return [_view(cluster, machine) for machine in cluster.machines.alive()]


async def gone(cluster: OperatorPlane) -> list[MachineView]:
    """List the last hundred machines that are gone, latest first."""
    return [_view(cluster, machine) for machine in await cluster.store.machines_gone(limit=_GONE)]


def find(cluster: OperatorPlane, name: str) -> Machine:
    """Return a machine by its id or a unique suffix of it. Raises MachineNotFound."""
    return _one(cluster.machines.alive(), name)


async def show(cluster: OperatorPlane, name: str) -> MachineDetail:
    """Show a machine with its history, also one of the last hundred that are gone. Raises MachineNotFound."""
    machine = _one([*cluster.machines.alive(), *await cluster.store.machines_gone(limit=_GONE)], name)
    history = [
        MachineEventView(at=event.at, state=event.state, text=event.text)
        for event in await cluster.store.machine_events(machine.id)
    ]
    return MachineDetail(machine=_view(cluster, machine), history=history)


def _one(machines: Iterable[Machine], name: str) -> Machine:
    matches = [machine for machine in machines if name and machine.id.endswith(name)]
    if len(matches) != 1:
        raise MachineNotFound(f"several machines end in {name}" if matches else f"there is no machine {name[:100]}")
    return matches[0]


def _view(cluster: OperatorPlane, machine: Machine) -> MachineView:
    node = cluster.machines.node(machine)
    end = machine.gone_at or cluster.clock()
    return MachineView(
        id=machine.id,
        provider=machine.provider,
        state=machine.state,
        size=machine.size,
        location=machine.location,
        spot=machine.spot,
        max_images=machine.max_images,
        slots=machine.slots,
        price=machine.price,
        cost=machine.price * elapsed(machine.booting_at, end) / 3600 if machine.booting_at else 0.0,
        provider_id=machine.provider_id,
        node=str(node.address) if node is not None else "",
        ordered_for=machine.task,
        tasks=[entry.task.uuid for entry in cluster.machines.entries(machine)],
        ordered_at=machine.ordered_at,
        ready_at=machine.ready_at,
        idle_since=machine.idle_since if not cluster.machines.busy(machine) else 0.0,
        gone_at=machine.gone_at,
        kept=machine.kept,
        reason=machine.reason,
    )


def plan_for(cluster: OperatorPlane, images: int) -> MachinePlan:
    """Show which machine would be created for a task now if no node had a free slot. Raises BadRequest with the reason
    if none would."""
    if not cluster.autoscaler.fleet.providers:
        raise BadRequest("there is no autoscaler (--asr)")
    scale_plan = cluster.autoscaler.decide([Demand(task="-", needs=Needs(images=images))])
    if "-" in scale_plan.matched:
        raise BadRequest(f"none would be created: machine {scale_plan.matched['-']} can take the task")
    if "-" in scale_plan.unmet:
        raise BadRequest(f"none would be created: {scale_plan.unmet['-']}")
    launch = next(launch for launch in scale_plan.launches if launch.task == "-")
    provider = cluster.autoscaler.fleet.providers[launch.offering.provider]
    return MachinePlan(
        provider=launch.offering.provider,
        size=launch.offering.size,
        location=launch.offering.location,
        spot=launch.offering.spot,
        max_images=launch.offering.max_images,
        price=launch.offering.price,
        why=launch.why,
        document=provider.shown("NAME", launch.offering),
    )


async def keep(cluster: OperatorPlane, machine: Machine) -> Done:
    """Keep a machine although it is idle, also one that is draining."""
    if machine.state is not State.DELETING:
        machine = await cluster.machines.change(machine, kept=True)
    if machine.state is State.DELETING:
        raise BadRequest(f"{machine.id} is being deleted, which cannot be undone")
    if machine.state is State.DRAINING:
        await cluster.lifecycle.resume(machine)
    return Done(text=f"{machine.id} is kept")


async def release(cluster: OperatorPlane, machine: Machine) -> Done:
    """Let a kept machine go once it has been idle for the configured time."""
    await cluster.machines.change(machine, kept=False)
    return Done(text=f"{machine.id} is no longer kept")


async def delete(cluster: OperatorPlane, machine: Machine) -> Done:
    """Delete a machine now. Its tasks are retried elsewhere."""
    if machine.state is State.DELETING:
        return Done(text=f"{machine.id} is being deleted")
    count = len(cluster.machines.entries(machine))
    await cluster.lifecycle.delete(machine, "deleted by an operator")
    rest = f"; {count} {'task is' if count == 1 else 'tasks are'} retried elsewhere" if count else ""
    return Done(text=f"deleting {machine.id}{rest}")


async def costs(cluster: OperatorPlane, *, month: str, by: CostKey) -> list[CostView]:
    """Return the costs of a month (as "2026-11"; empty: the current one), highest first."""
    await cluster.autoscaler.keep_costs()
    month = month or time.strftime("%Y-%m", time.gmtime(cluster.clock()))
    return [
        CostView(key=key, hours=hours, amount=amount) for key, hours, amount in await cluster.store.costs(month, by)
    ]


def line(machine: MachineView) -> str:
    """Return a machine as one line."""
    flag = " [kept]" if machine.kept else ""
    busy = f"{len(machine.tasks)} tasks" if machine.tasks else "idle" if machine.idle_since else "no task"
    offering = f"{machine.size} in {machine.location} ({machine.provider})"
    return f"{machine.id} [{machine.state}]{flag} {offering} {busy} cost {machine.cost:.2f}: {machine.reason}"
