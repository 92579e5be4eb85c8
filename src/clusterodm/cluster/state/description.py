# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The description of the cluster: engine and options of its reference node, kept for when no node is online."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeError
from clusterodm.core.nodes import NodeAddress, NodeInfo
from clusterodm.core.options import exact
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store

_log = structlog.get_logger("registry")

_KEY: Final = "description"
#: Seconds between two requests for the options of the reference node; most nodes answer that they are unchanged.
_FRESH: Final = 30.0
#: The same while the requests fail.
_AGAIN: Final = Backoff(first=1.0, longest=_FRESH)


class Description(msgspec.Struct, frozen=True):
    """That of the last reference node, or the one that is shipped."""

    info: NodeInfo
    options: list[dict[str, Any]]


class Describer:
    """Keeps the description in step with the reference node."""

    def __init__(self, store: Store, client: NodeClient, shipped: Description, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._client = client
        #: The node and engine of the last request for options, and the ETag of its answer.
        self._source: tuple[int, str, str] | None = None
        self._etag = ""
        self._due = 0.0
        self._failures = 0
        #: What was last read from the store or written to it; before that, the shipped one.
        self._stored = shipped
        self._take(shipped)

    def _take(self, description: Description) -> None:
        self.now = description
        self.options_json = msgspec.json.encode(exact(description.options))

    async def reload(self) -> None:
        """Reload the stored description, by this process or another one."""
        if stored := await self._store.value(_KEY):
            self._stored = msgspec.convert(stored, Description)
            self._take(self._stored)

    async def refresh(self, node_id: int, address: NodeAddress, info: NodeInfo) -> None:
        """Request the options of the reference node: now if the node or its engine changed, else at intervals, because
        options may change without the engine."""
        source = (node_id, info.engine, info.engine_version)
        if source != self._source:
            self._source, self._etag, self._due, self._failures = source, "", 0.0, 0
        if self._clock.steady() < self._due:
            return
        try:
            options, self._etag = await self._client.changed_options(address, self._etag)
        except NodeError as error:
            self._failures += 1
            self._due = self._clock.steady() + _AGAIN.wait(self._failures, chance())
            _log.info("options cannot be read", node=str(address), error=str(error))
            return
        self._failures, self._due = 0, self._clock.steady() + _FRESH
        current = Description(info, self.now.options if options is None else options)
        if _shown(current) != _shown(self.now):
            self._take(current)
        if _shown(self.now) != _shown(self._stored):  # again after the store failed
            await self._store.keep_value(_KEY, msgspec.to_builtins(self.now))
            self._stored = self.now


def _shown(description: Description) -> tuple[str, str, str, list[dict[str, Any]]]:
    info = description.info
    return info.engine, info.engine_version, info.version, description.options
