# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that come and go by themselves: a watched file, the addresses of a name, and expiring leases."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.cluster.state.registry import Registry
from clusterodm.core.errors import ConfigError
from clusterodm.core.membership import Listed, changes, parse_nodes_file
from clusterodm.core.nodes import NodeAddress, Origin, parse_address

_log = structlog.get_logger("discovery")

#: Look-ups in a row that must miss an address before its node is removed: DNS answers flicker.
_MISSES: Final = 3
#: Seconds after the end of its lease until a node is removed.
_LEASE_GRACE: Final = 300.0
_MAX_FILE: Final = 1 << 20


class Discovery:
    """Syncs the registry with lists that others maintain."""

    def __init__(self, registry: Registry, *, file: Path | None, name: str, clock: Clock) -> None:
        self._registry = registry
        self._file = file
        self._name = parse_address(name) if name else None
        self._clock = clock
        self._read: tuple[int, int] | None = None
        self._missing: dict[NodeAddress, int] = {}

    async def sweep(self) -> None:
        """Sync with all lists."""
        await self.sync_file()
        if self._name is not None:
            await self._look_up(self._name)
        await self._end_leases()

    async def sync_file(self) -> None:
        """Read the file if it changed; one that cannot be read or parsed changes nothing, and is logged once."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return
        state = (stat.st_mtime_ns, stat.st_size)
        if state == self._read:
            return
        try:
            listed = parse_nodes_file(await asyncio.to_thread(_read, self._file))
        except (OSError, ConfigError) as error:
            _log.warning("nodes file cannot be used", file=str(self._file), error=str(error))
        else:
            await self._keep(listed, Origin.FILE)
        self._read = state

    async def _look_up(self, name: NodeAddress) -> None:
        """Sync with all addresses of a name; a failed look-up changes nothing."""
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.info("DNS look-up of the nodes failed", name=name.host, error=str(error))
            return
        hosts = {str(address[0]) for *_, address in answers}
        present = {msgspec.structs.replace(name, host=host) for host in hosts}
        registered = {node.address for node in self._registry.nodes() if node.record.origin is Origin.DNS}
        self._missing = {address: self._missing.get(address, 0) + 1 for address in registered - present}
        flickers = {address for address, count in self._missing.items() if count < _MISSES}
        await self._keep([Listed(address) for address in present | flickers], Origin.DNS)

    async def _keep(self, listed: list[Listed], origin: Origin) -> None:
        difference = changes((node.record for node in self._registry.nodes()), listed, origin)
        for entry in difference.add:
            await self._registry.add(entry.address, locked=entry.locked, origin=origin)
            _log.info("node discovered", node=str(entry.address), origin=str(origin))
        for record in difference.remove:
            if node := self._registry.get(record.id):
                await self._registry.remove(node)
                _log.info("node no longer listed", node=str(record.address), origin=str(origin))

    async def _end_leases(self) -> None:
        for node in self._registry.nodes():
            until = node.record.lease_until
            if until and self._clock.age(until) > _LEASE_GRACE:
                await self._registry.remove(node)
                _log.info("lease expired", node=str(node.address))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ConfigError("it is too large")
    return content
