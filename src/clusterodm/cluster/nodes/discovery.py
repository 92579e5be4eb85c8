# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that come and go by themselves: a watched file, the addresses of a name, and leases that run out."""

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

#: Times in a row that an address must be missing from a name before its node goes: names flicker.
_MISSES: Final = 3
#: Seconds after the end of a lease after which its node is no longer shown.
_LEASE_GRACE: Final = 300.0
_MAX_FILE: Final = 1 << 20


class Discovery:
    """Keeps the registry in step with lists that somebody else keeps."""

    def __init__(self, registry: Registry, *, file: Path | None, name: str, clock: Clock) -> None:
        self._registry = registry
        self._file = file
        self._name = parse_address(name) if name else None
        self._clock = clock
        self._read: tuple[int, int] | None = None
        self._missing: dict[NodeAddress, int] = {}

    async def sweep(self) -> None:
        """One look at everything."""
        await self.look_at_file()
        if self._name is not None:
            await self._look_up(self._name)
        await self._end_leases()

    async def look_at_file(self) -> None:
        """Read the file when it changed; one that cannot be read or understood changes nothing, and is told of once."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return
        state = (found.st_mtime_ns, found.st_size)
        if state == self._read:
            return
        try:
            listed = parse_nodes_file(await asyncio.to_thread(_read, self._file))
        except (OSError, ConfigError) as error:
            _log.warning("the nodes file cannot be used", file=str(self._file), error=str(error))
        else:
            await self._keep(listed, Origin.FILE)
        self._read = state

    async def _look_up(self, name: NodeAddress) -> None:
        """All addresses of a name; a failed look-up changes nothing."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.info("the name of the nodes cannot be looked up", name=name.host, error=str(error))
            return
        hosts = {str(address[0]) for *_, address in found}
        there = {msgspec.structs.replace(name, host=host) for host in hosts}
        known = {node.address for node in self._registry.nodes() if node.record.origin is Origin.DNS}
        self._missing = {address: self._missing.get(address, 0) + 1 for address in known - there}
        flickers = {address for address, count in self._missing.items() if count < _MISSES}
        await self._keep([Listed(address) for address in there | flickers], Origin.DNS)

    async def _keep(self, listed: list[Listed], origin: Origin) -> None:
        wanted = changes((node.record for node in self._registry.nodes()), listed, origin)
        for entry in wanted.add:
            await self._registry.add(entry.address, locked=entry.locked, origin=origin)
            _log.info("a node came", node=str(entry.address), origin=str(origin))
        for record in wanted.remove:
            if node := self._registry.get(record.id):
                await self._registry.remove(node)
                _log.info("a node went", node=str(record.address), origin=str(origin))

    async def _end_leases(self) -> None:
        for node in self._registry.nodes():
            until = node.record.lease_until
            if until and self._clock.age(until) > _LEASE_GRACE:
                await self._registry.remove(node)
                _log.info("a lease was not renewed", node=str(node.address))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ConfigError("it is too large")
    return content
