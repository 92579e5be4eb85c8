# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The owner's webhook: called once a task is over, retried until accepted; never at an internal address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec
import structlog

from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.egress import EgressPolicy, failed
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.tasks.photos import Photos
from clusterodm.core.errors import FetchFailed, StaleTask
from clusterodm.core.tasks import Phase, has_results, task_info

_log = structlog.get_logger("notifier")

#: Tries before giving up; some minutes, with the back-off of the queue.
_TRIES: Final = 10
#: Seconds for calls under way to end at a shutdown.
_LAST_CALLS: Final = 5.0
#: Seconds to wait for a node's own webhook call, which describes the photos.
_LATE: Final = 2.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


@dataclass(kw_only=True, slots=True, eq=False)
class Notifier:
    """Call owners' webhooks."""

    state: ClusterState
    photos: Photos
    egress: EgressPolicy
    #: True if nodes call a webhook of the cluster.
    nodes_call: bool
    runtime: Runtime
    _tries: dict[str, int] = field(init=False, default_factory=dict)
    _queue: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "notifier",
            self._notify,
            "calls the owner's webhook",
            keys=self.state.store.webhooks_due,
            concurrency=20,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.tasks.watch(self._task_changed)

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    async def settle(self) -> None:
        """Let calls under way finish before a shutdown, so that they are not made twice."""
        await self._queue.settle(_LAST_CALLS)

    def _task_changed(self, entry: Entry) -> None:
        if entry.task.phase is not Phase.FINISHED:
            self._tries.pop(entry.task.uuid, None)  # each end has its own
        elif entry.task.webhook_due:
            self._queue.put(entry.task.uuid)

    async def _notify(self, uuid: str) -> float | None:
        entry = await self.state.tasks.find(uuid)
        if entry is None or not entry.task.webhook_due or entry.task.phase is not Phase.FINISHED:
            self._tries.pop(uuid, None)
            return None
        if not self.runtime.leadership.held:  # the new leader calls it
            return None
        images = await self.photos.of(entry.task, entry.attempt)
        if images is None and uuid not in self._tries and self.nodes_call and has_results(entry.task, entry.attempt):
            self._tries[uuid] = 0
            return _LATE
        if entry.task.phase is not Phase.FINISHED:  # restarted by its owner meanwhile
            return None
        ended_at = entry.task.finished_at
        count = self._tries[uuid] = self._tries.get(uuid, 0) + 1
        text = "the owner's webhook was called"
        try:
            await self._call(entry, images or [])
            self.runtime.metrics.webhooks.labels("taken").inc()
        except FetchFailed as error:
            self.runtime.metrics.webhooks.labels("failed").inc()
            if count < _TRIES and not error.final:
                raise
            text = f"gave up calling the owner's webhook after {count} tries: {error}"
        self._tries.pop(uuid, None)
        if entry.task.finished_at != ended_at:  # it may have ended again, which has not been told
            return 0.0
        try:
            await self.state.tasks.change(entry, text, webhook_due=False)
        except StaleTask:
            _log.info("webhook note superseded", task=uuid)
        return None

    async def _call(self, entry: Entry, images: list[msgspec.Raw]) -> None:
        """POST the task's info and photo metadata as JSON, as a node does. Errors carry no URL: it may hold a
        secret."""
        info = task_info(entry.task) | {"images": images}
        body = msgspec.json.encode(info)
        url = self.egress.check(entry.task.webhook)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            async with (
                self.egress.session(_TIMEOUT) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                if response.status >= 300:
                    raise FetchFailed(f"HTTP status {response.status}", final=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise failed(error) from None
