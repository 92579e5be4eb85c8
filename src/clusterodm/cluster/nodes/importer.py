# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Import of the original's `nodes.json` and `routes.json`, once for each content.

Tasks keep their owner: the token of a route identifies the owner now, or when it is first presented.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from clusterodm.aio import Clock
from clusterodm.auth import Authenticator
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.tasks.claims import unclaimed_owner
from clusterodm.core.errors import ConfigError
from clusterodm.core.ids import is_task_id
from clusterodm.core.jsontext import decode_file
from clusterodm.core.membership import NodeEntry
from clusterodm.core.tasks import Attempt, Phase, Stage, Task
from clusterodm.store import Store

_log = structlog.get_logger("import")

#: Milliseconds above which a number is a time in milliseconds and not in seconds.
_MS: Final = 1e11


class OldRoute(msgspec.Struct):
    """An entry of routes.json."""

    node: NodeEntry
    token: str | None = ""
    accessed: float = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Importer:
    """Reads the two files in the data folder."""

    store: Store
    registry: Registry
    authenticator: Authenticator
    folder: Path
    clock: Clock

    async def run(self) -> bool:
        """Import both files if they exist and have changed; return True if there were tasks. Raises ConfigError."""
        await self._once("nodes.json", list[NodeEntry], self._nodes)
        return bool(await self._once("routes.json", dict[str, OldRoute], self._routes))

    async def _once(self, name: str, kind: Any, take: Callable[[Any], Awaitable[int]]) -> int:
        path = self.folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return 0
        mark = hashlib.sha256(content).hexdigest()
        if await self.store.value(f"imported {name}") == mark:
            return 0
        try:
            entries = decode_file(content.strip() or b"null", name, kind | None, strict=False)
        except ConfigError as error:
            raise ConfigError(f"{self.folder} cannot be imported: {error}") from None
        count = await take(entries) if entries else 0
        await self.store.keep_value(f"imported {name}", mark)
        _log.info("imported", file=name, entries=count)
        return count

    async def _nodes(self, nodes: list[NodeEntry]) -> int:
        for node in nodes:
            await self.registry.add(node.address(), locked=node.closed)
            if node.machine:
                _log.warning("node imported as locked: its machine must be deleted by hand", machine=node.machine)
        return len(nodes)

    async def _routes(self, routes: dict[str, OldRoute]) -> int:
        count = 0
        for uuid, route in routes.items():
            if is_task_id(uuid.lower()):
                count += await self._route(uuid.lower(), route)
        return count

    async def _route(self, uuid: str, route: OldRoute) -> bool:
        """Import a task that runs or ran on a node: it is tracked there. Return False if its node is unknown."""
        node = self.registry.find(route.node.address())
        if node is None:
            _log.warning("task not imported: its node is gone", task=uuid, node=str(route.node.address()))
            return False
        now = self.clock()
        at = route.accessed / 1000 if route.accessed > _MS else route.accessed or now
        token = route.token or ""
        owner = self.authenticator.imported_owner(token) or unclaimed_owner(token)
        task = Task(uuid=uuid, owner=owner, phase=Phase.RUNNING, attempts=1, created_at=at, committed_at=at)
        attempt = Attempt(
            task=uuid,
            number=1,
            node_id=node.record.id,
            node_name=str(node.address),
            node_uuid=uuid,
            stage=Stage.RUNNING,
            started_at=at,
        )
        return await self.store.add_task(task, "imported from routes.json", attempt=attempt)
