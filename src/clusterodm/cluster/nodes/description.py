# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the cluster says of itself: the engine and the options of its reference node, kept for when none is online."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
import structlog

from clusterodm.aio import chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeError
from clusterodm.core.nodes import NodeAddress, NodeInfo
from clusterodm.core.options import exact
from clusterodm.nodeodm import NodeClient
from clusterodm.store import Store

_log = structlog.get_logger("registry")

_KEY: Final = "description"
#: Seconds after which the reference node is asked for its options again; most nodes answer that they are as before.
_FRESH: Final = 30.0
#: The same while it does not give them.
_AGAIN: Final = Backoff(first=1.0, longest=_FRESH)


class Description(msgspec.Struct, frozen=True):
    """That of the node seen last, or the one that is shipped."""

    info: NodeInfo
    options: list[dict[str, Any]]


class Describer:
    """Keeps the description in step with the reference node."""

    def __init__(self, store: Store, client: NodeClient, shipped: Description) -> None:
        self._store = store
        self._client = client
        #: Whose options were asked for last, and what the answer was marked with.
        self._source: tuple[int, str, str] | None = None
        self._etag = ""
        self._due = 0.0
        self._failures = 0
        self._take(shipped)

    def _take(self, description: Description) -> None:
        self.now = description
        self.options_json = msgspec.json.encode(exact(description.options))

    async def reload(self) -> None:
        """Read again what was kept, by this process or another one."""
        if stored := await self._store.value(_KEY):
            self._take(msgspec.convert(stored, Description))

    async def refresh(self, node_id: int, address: NodeAddress, info: NodeInfo) -> None:
        """Ask the reference node for its options: at once when it is another node or another engine, else now and
        then; options may change without the engine."""
        source = (node_id, info.engine, info.engine_version)
        if source != self._source:
            self._source, self._etag, self._due, self._failures = source, "", 0.0, 0
        if time.monotonic() < self._due:
            return
        try:
            options, self._etag = await self._client.changed_options(address, self._etag)
        except NodeError as error:
            self._failures += 1
            self._due = time.monotonic() + _AGAIN.wait(self._failures, chance())
            _log.info("options cannot be read", node=str(address), error=str(error))
            return
        self._failures, self._due = 0, time.monotonic() + _FRESH
        found = Description(info, self.now.options if options is None else options)
        if _said(found) != _said(self.now):
            self._take(found)
            await self._store.keep_value(_KEY, msgspec.to_builtins(found))


def _said(description: Description) -> tuple[str, str, str, list[dict[str, Any]]]:
    info = description.info
    return info.engine, info.engine_version, info.version, description.options
