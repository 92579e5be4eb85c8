# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of a provider of machines. Times, retries and limits are wrapped around it (guarded.py), not inside."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from clusterodm.core.scaling import Rung
from clusterodm.providers.config import Common, Size

#: Key of the tag or label that all our machines have; its value is the cluster's id.
TAG = "clusterodm"


class Status(StrEnum):
    """What a provider says of a machine."""

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
    rung: Rung
    user_data: str

    def __repr__(self) -> str:
        return f"Spec({self.name}, {self.rung})"


class ProviderMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as its provider knows it."""

    id: str
    name: str
    status: Status
    location: str
    #: Where we reach it; empty while it has none.
    address: str = ""
    #: Disks that outlive it unless they are deleted.
    volumes: list[str] = []


class Provider:
    """Creates, finds and deletes machines. Every method raises OutOfCapacity, Rejected or Unreachable, nothing else."""

    def __init__(self, config: Common) -> None:
        self.config = config

    def ladder(self) -> list[Rung]:
        """What can be ordered: smallest size first, of each size in all locations."""
        return [
            Rung(
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
