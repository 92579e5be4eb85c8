# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of a machine provider. Timeouts, retries and concurrency limits are added by `BoundedProvider`, not by
the provider itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar, Final

import msgspec

from clusterodm.core.scaling import Offering
from clusterodm.plugins import FIRST_VERSION
from clusterodm.providers.cloudinit import user_data
from clusterodm.providers.config import CloudConfig, ProviderConfig, Size

#: Version of this contract: a new minor version adds, a new major version breaks.
API_VERSION: Final = "1.0"
#: Key of the tag or label that every machine carries; its value is the cluster's id.
TAG: Final = "clusterodm"


class MachineStatus(StrEnum):
    """State of a machine at its provider."""

    #: Queued at the provider until there is capacity.
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    #: Being terminated, by either side.
    ENDING = "ending"


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine to be created."""

    #: Never reused; `create` is idempotent on it.
    name: str
    #: Value of the tag.
    cluster: str
    offering: Offering
    #: Bootstrap data as rendered by the provider's `bootstrap`. Contains secrets.
    bootstrap: str

    def __repr__(self) -> str:
        return f"MachineSpec({self.name}, {self.offering})"


class ProviderMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as its provider reports it."""

    id: str
    name: str
    status: MachineStatus
    location: str
    #: Host name or IP address at which the cluster reaches the machine; empty until it has one.
    address: str = ""
    #: Port of its node; 0: the provider's `node_port`.
    port: int = 0
    #: When the provider will terminate it, in seconds since the epoch; 0: not scheduled.
    ends_at: float = 0.0
    #: Why it is waiting, in the provider's words.
    reason: str = ""
    #: True if it would wait forever: the request as such cannot be satisfied.
    unsatisfiable: bool = False
    #: Ids of disks that outlive the machine unless `delete` removes them.
    volumes: list[str] = []


class Provider(ABC):
    """Creates, finds and deletes machines.

    Methods that call the provider raise OutOfCapacity, Rejected, Throttled or Unreachable, and nothing else. The
    constructor takes an entry of the autoscaler's file and a PluginContext, and raises ConfigError.
    """

    #: Version of the contract that the class was written for.
    api_version: ClassVar[str] = FIRST_VERSION
    #: True if the provider queues machines until there is capacity (batch systems).
    has_queue: bool = False
    #: Port of the node on every machine that does not report one.
    node_port: int = 3000

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    def offerings(self) -> list[Offering]:
        """Return everything that can be ordered, smallest size first, each size in all markets and locations."""
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

    @abstractmethod
    def locations(self) -> Iterable[str]:
        """Return regions, zones or partitions in order of preference."""

    def markets(self, size: Size) -> Iterable[bool]:
        """Return the markets for a size in order of preference: True is spot, False on demand."""
        return (False,)

    def price(self, size: Size, *, spot: bool) -> float:
        """Return the configured price per hour."""
        return size.price

    @abstractmethod
    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render the data that a machine boots with (user data, a job script, ...); `token` is what its node requires.
        Also called to show it to operators, so it must have no effect."""

    def secrets(self) -> list[str]:
        """Return values that bootstrap data may contain and that must not be shown."""
        return [self.config.s3.secret_key] if self.config.s3 is not None and self.config.s3.secret_key else []

    @abstractmethod
    async def check(self) -> None:
        """Make a cheap call, so that wrong credentials or names are reported at startup."""

    @abstractmethod
    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a machine that carries the tag. If one of that name exists, finish its creation and return it."""

    @abstractmethod
    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a machine; None if there is none."""

    @abstractmethod
    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return all machines that carry the tag of this cluster, whatever their status."""

    @abstractmethod
    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a machine and its disks. Repeated until `get` returns None; a machine that is gone is no error."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Release connections and other resources."""


class CloudProvider(Provider):
    """A provider whose machines boot with cloud-init."""

    config: CloudConfig

    def __init__(self, config: CloudConfig) -> None:
        super().__init__(config)
        self.node_port = config.node_port

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render cloud-init user data."""
        slots = self.config.tasks_per_machine
        return user_data(self.config, token=token, max_images=offering.max_images, slots=slots)

    def secrets(self) -> list[str]:
        """Add the password of the image registry."""
        registry = self.config.docker_registry
        return [*super().secrets(), *([registry.password] if registry is not None else [])]
