# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each machine from its launch to its end: picks the step by the machine's state.

Every step can be repeated after a crash: the state is stored before it, `create` is idempotent on the machine's name,
and a machine whose creation was not confirmed is found by that name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from clusterodm.aio import Clock, Leadership
from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.machines.absence import AbsenceTracker
from clusterodm.cluster.machines.backoff import OfferingBackoff
from clusterodm.cluster.machines.boot import BootStep
from clusterodm.cluster.machines.launch import LaunchStep
from clusterodm.cluster.machines.terminate import TerminateStep
from clusterodm.cluster.machines.watch import WatchStep
from clusterodm.cluster.state.machines import Machines
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.tasks.attempts import Attempts
from clusterodm.core.errors import StaleMachine, Throttled
from clusterodm.core.machines import ALIVE, Machine, State
from clusterodm.providers import BoundedProvider, Fleet

_log = structlog.get_logger("machines")

#: Seconds between two looks at a machine whose provider is not configured.
_UNCONFIGURED: Final = 60.0

Step = Callable[[Machine, BoundedProvider], Awaitable[float | None]]


class Lifecycle:
    """Takes machines from state to state."""

    def __init__(
        self,
        fleet: Fleet,
        machines: Machines,
        registry: Registry,
        attempts: Attempts,
        *,
        cluster: str,
        interval: float,
        leadership: Leadership,
        clock: Clock,
    ) -> None:
        self._fleet, self._machines, self._interval = fleet, machines, interval
        self._absence = absence = AbsenceTracker(cluster=cluster, interval=interval, clock=clock)
        self.backoff = OfferingBackoff(clock)
        self._launch = LaunchStep(machines=machines, backoff=self.backoff, cluster=cluster, clock=clock)
        self._terminate = terminate = TerminateStep(
            machines=machines, registry=registry, attempts=attempts, absence=absence, cluster=cluster, interval=interval
        )
        self._watch = WatchStep(
            machines=machines, registry=registry, absence=absence, terminate=terminate, interval=interval, clock=clock
        )
        self._boot = BootStep(
            fleet=fleet,
            machines=machines,
            registry=registry,
            absence=absence,
            backoff=self.backoff,
            terminate=terminate,
            interval=interval,
            clock=clock,
        )
        #: Machines pending at their provider, and its reason.
        self.waiting = self._boot.waiting
        self.delete, self.resume = terminate.begin, self._watch.resume
        #: The last known status of each machine's node.
        self._online: dict[str, bool] = {}
        does = "takes each machine from state to state (`core/machines.py`)"
        self._queue = Controller(
            "lifecycle", self._step, does, keys=self._keys, concurrency=50, leadership=leadership, clock=clock
        )
        machines.watch(self._changed)
        registry.watch(self._nodes_changed)

    async def _keys(self) -> list[str]:
        """Return all machines, on election. What was counted in an earlier term proves nothing, and a machine that may
        have been pending until now gets all of its time to boot."""
        for step in (self._absence, self._launch, self._boot, self._watch):
            step.reset()
        for machine in self._machines.alive():
            provider = self._fleet.providers.get(machine.provider)
            if provider is not None and provider.has_queue:
                self._boot.restart_timeout(machine)
        return [machine.id for machine in self._machines.alive()]

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    def _changed(self, machine: Machine) -> None:
        self._absence.present(machine.id)  # a denial in another state proves nothing in this one
        if machine.state in ALIVE:
            self._queue.put(machine.id)
            return
        self._online.pop(machine.id, None)
        for step in (self._launch, self._boot, self._watch):
            step.forget(machine.id)

    def _nodes_changed(self) -> None:
        for machine in self._machines.alive():
            node = self._machines.node(machine)
            if node is not None and node.online is not self._online.get(machine.id):
                self._online[machine.id] = node.online
                self._queue.put(machine.id)

    async def _step(self, machine_id: str) -> float | None:
        machine = self._machines.get(machine_id)
        if machine is None:
            return None
        provider = self._fleet.providers.get(machine.provider)
        if provider is None:
            _log.error("provider not configured", machine=machine.id, provider=machine.provider)
            return _UNCONFIGURED
        steps: dict[State, Step] = {
            State.ORDERED: self._launch.step,
            State.BOOTING: self._boot.step,
            State.READY: self._watch.watch,
            State.DRAINING: self._watch.drain,
            State.DELETING: self._terminate.step,
        }
        try:
            return await steps[machine.state](machine, provider)
        except Throttled:
            return provider.pause.remaining
        except StaleMachine as stale:
            _log.info("step superseded", machine=machine.id, why=str(stale))
            return self._interval
