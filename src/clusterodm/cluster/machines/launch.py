# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""ORDERED: have the provider create the machine. `create` is idempotent on its name, so it can be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field

from clusterodm.aio import Clock
from clusterodm.cluster.machines.backoff import OfferingBackoff
from clusterodm.cluster.state.machines import Machines
from clusterodm.core.errors import OutOfCapacity, Rejected, Unreachable
from clusterodm.core.machines import Machine, State
from clusterodm.core.scaling import Offering
from clusterodm.providers import BoundedProvider, MachineSpec


@dataclass(kw_only=True, slots=True)
class LaunchStep:
    """Creates machines."""

    machines: Machines
    backoff: OfferingBackoff
    cluster: str
    clock: Clock
    #: Calls without an answer, by machine.
    _unanswered: dict[str, int] = field(default_factory=dict)

    async def step(self, machine: Machine, provider: BoundedProvider) -> float | None:
        """Create a machine, or give it up if its provider refuses or never answers."""
        offering = Offering.of(machine)
        bootstrap = provider.bootstrap(machine.id, offering, token=machine.token)
        spec = MachineSpec(name=machine.id, cluster=self.cluster, offering=offering, bootstrap=bootstrap)
        try:
            created = await provider.create(spec)
        except OutOfCapacity as error:
            self.backoff.unavailable(machine)
            await self.machines.advance(machine, State.GONE, f"not created: out of capacity ({error})")
        except Rejected as error:
            self.backoff.rejected(machine)
            await self.machines.advance(machine, State.DELETING, f"rejected by its provider: {error}")
        except Unreachable as error:
            tries = self._unanswered[machine.id] = self._unanswered.get(machine.id, 0) + 1
            if tries <= provider.config.create_retries + 1:
                raise
            self.backoff.unavailable(machine)
            await self.machines.advance(machine, State.DELETING, f"creation not confirmed: {error}")
        else:
            await self.machines.advance(
                machine,
                State.BOOTING,
                f"created as {created.id}",
                provider_id=created.id,
                volumes=created.volumes,
                booting_at=self.clock(),
            )
        return None

    def forget(self, machine_id: str) -> None:
        """Drop what is remembered of a machine."""
        self._unanswered.pop(machine_id, None)

    def reset(self) -> None:
        """Drop what is remembered of all machines."""
        self._unanswered.clear()
