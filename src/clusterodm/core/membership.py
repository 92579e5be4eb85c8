# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Discovered nodes: a list of addresses, from a file or DNS, compared with the known nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from clusterodm.core.errors import ConfigError
from clusterodm.core.jsontext import decode_file
from clusterodm.core.nodes import NodeAddress, NodeRecord, Origin, make_address, parse_address


class Listed(msgspec.Struct, frozen=True):
    """One entry of a list of nodes."""

    address: NodeAddress
    locked: bool = False


class Changes(msgspec.Struct, frozen=True):
    """The changes that a list implies."""

    add: list[Listed]
    remove: list[NodeRecord]


class DockerMachine(msgspec.Struct):
    """The machine of a node that the original's autoscaler made."""

    name: str | None = ""


class NodeEntry(msgspec.Struct):
    """An entry of the original's nodes.json."""

    hostname: str
    port: int
    token: str | None = ""
    locked: bool | None = False
    docker_machine: DockerMachine | None = msgspec.field(default=None, name="dockerMachine")
    #: Of this cluster: the certificate of this node is not verified.
    insecure: bool = False

    @property
    def closed(self) -> bool:
        """True if it must not get tasks: locked, or on a machine that an operator has to delete by hand."""
        return bool(self.locked) or self.machine != ""

    @property
    def machine(self) -> str:
        """The name of its docker-machine machine; empty if none."""
        return (self.docker_machine and (self.docker_machine.name or self.hostname)) or ""

    def address(self) -> NodeAddress:
        """Return its address. Raises ConfigError."""
        return make_address(self.hostname, self.port, self.token or "", insecure=self.insecure)


def parse_nodes_file(content: bytes) -> list[Listed]:
    """Parse a file of nodes: JSON as in nodes.json, or one address per line with `#` comments. Raises ConfigError."""
    if content.lstrip()[:1] == b"[":
        entries = decode_file(content, "the list of nodes", list[NodeEntry], strict=False)
        return [Listed(entry.address(), locked=entry.closed) for entry in entries]
    try:
        lines = [line.partition("#")[0].strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError:
        raise ConfigError("not a text file") from None
    return [Listed(parse_address(line)) for line in lines if line]


def changes(records: Iterable[NodeRecord], listed: Iterable[Listed], origin: Origin) -> Changes:
    """Return the nodes to add and remove so that those of `origin` match the list. Nodes configured by an operator are
    left alone, even if they are listed."""
    present = {record.address.place: record for record in records if not record.removed}
    by_place = {entry.address.place: entry for entry in listed}
    add = [
        entry
        for key, entry in by_place.items()
        if key not in present or (present[key].origin is origin and present[key].address != entry.address)
    ]
    remove = [record for key, record in present.items() if record.origin is origin and key not in by_place]
    return Changes(add, remove)


def lease_terms(now: float, request: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a node that registers itself. `request`: ttl, ends_in and drain_before in seconds, labels,
    slots."""
    ends_in = request.get("ends_in")
    return {
        "origin": Origin.LEASE,
        "labels": request["labels"],
        "slots": request["slots"],
        "lease_until": now + request["ttl"],
        "ends_at": now + ends_in if ends_in is not None else 0.0,
        "drain_before": request["drain_before"],
    }
