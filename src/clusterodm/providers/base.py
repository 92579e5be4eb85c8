# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of a provider of machines. Times, retries and limits are wrapped around it (guarded.py), not inside."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from clusterodm.core.scaling import Offering
from clusterodm.providers.cloudinit import user_data
from clusterodm.providers.config import Cloud, Common, Size

#: Key of the tag or label that all our machines have; its value is the cluster's id.
TAG = "clusterodm"


class MachineStatus(StrEnum):
    """What a provider says of a machine."""

    #: It waits for room there.
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    #: Its provider is taking it away.
    ENDING = "ending"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be created."""

    #: Unique for ever; `create` is idempotent on it.
    name: str
    #: Value of the tag.
    cluster: str
    offering: Offering
    #: What the machine is started with, as its provider's `document` made it.
    document: str

    def __repr__(self) -> str:
        return f"Spec({self.name}, {self.offering})"


class ProviderMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as its provider knows it."""

    id: str
    name: str
    status: MachineStatus
    location: str
    #: Where we reach it; empty while it has none.
    address: str = ""
    #: Of its node, where each machine has another one; 0: the configured one.
    port: int = 0
    #: When its provider will end it, in seconds since the epoch; 0: it will not.
    ends_at: float = 0.0
    #: Why it waits, in the provider's words; `never`: it would wait for ever.
    reason: str = ""
    never: bool = False
    #: Disks that outlive it unless they are deleted.
    volumes: list[str] = []


class Provider:
    """Creates, finds and deletes machines. Every method raises OutOfCapacity, Rejected, Throttled or Unreachable, and
    nothing else."""

    def __init__(self, config: Common) -> None:
        self.config = config

    def offerings(self) -> list[Offering]:
        """What can be ordered: smallest size first, of each size in all locations."""
        return [
            Offering(
                provider=self.config.label,
                size=size.slug,
                location=location,
                spot=spot,
                max_images=size.max_images,
                price=self.price(size, spot=spot),
            )
            for size in sorted(self.config.image_size_mapping, key=lambda size: size.max_images)
            for spot in self.markets(size)
            for location in self.locations()
        ]

    def locations(self) -> Iterable[str]:
        """Regions or zones, in the order in which they are tried."""
        raise NotImplementedError

    def markets(self, size: Size) -> Iterable[bool]:
        """Whether spot, on demand, or both in this order."""
        return (False,)

    def price(self, size: Size, *, spot: bool) -> float:
        """What an hour costs, as configured."""
        return size.price

    #: Whether a machine may wait there for room before it begins to boot.
    waits: bool = False
    #: Port of the node on each machine, where that is the same for all.
    node_port: int = 3000

    def document(self, name: str, offering: Offering, *, token: str) -> str:
        """What a machine is to be started with, with the token that its node wants to see of us."""
        raise NotImplementedError

    def secrets(self) -> list[str]:
        """Values that may occur in documents and must not be shown."""
        return [self.config.s3.secret_key] if self.config.s3 is not None and self.config.s3.secret_key else []

    async def check(self) -> None:
        """Ask for something small, so that a wrong key or name is known at the start."""
        raise NotImplementedError

    async def create(self, spec: Spec) -> ProviderMachine:
        """Create a machine with our tag; when there is one of that name already, that one, brought to the same end."""
        raise NotImplementedError

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """One machine; None when there is none."""
        raise NotImplementedError

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """All machines with the tag of this cluster, in whatever state."""
        raise NotImplementedError

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a machine and its disks; one that is gone already is fine."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of connections."""


class CloudProvider(Provider):
    """A provider whose machines are told by cloud-init what to do."""

    config: Cloud

    def __init__(self, config: Cloud) -> None:
        super().__init__(config)
        self.node_port = config.node_port

    def document(self, name: str, offering: Offering, *, token: str) -> str:
        """User-data."""
        slots = self.config.tasks_per_machine
        return user_data(self.config, token=token, max_images=offering.max_images, slots=slots)

    def secrets(self) -> list[str]:
        """The password of the registry, beside what all have."""
        registry = self.config.docker_registry
        return [*super().secrets(), *([registry.password] if registry is not None else [])]
