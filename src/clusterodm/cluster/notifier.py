# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The owner's webhook: called once when a task is over, repeated until it was taken; never where only we may look."""

from __future__ import annotations

import zipfile
import zlib
from typing import Final

import aiohttp
import msgspec
import structlog

from clusterodm.aio import Duty, WorkQueue
from clusterodm.cluster.outward import Outward, failed
from clusterodm.cluster.tasks import Entry, Tasks
from clusterodm.core.errors import BadRequest, FetchFailed, StaleTask
from clusterodm.core.tasks import Phase, task_info
from clusterodm.observe import Metrics
from clusterodm.results import Results
from clusterodm.store import Store

_log = structlog.get_logger("notifier")

#: Tries after which a webhook is given up; with the back-off of the queue that is some minutes.
_TRIES: Final = 10
#: Seconds that calls get to end when we do.
_LAST_CALLS: Final = 5.0
#: Where results say what is known of the photos, and bytes of it at most.
_IMAGES: Final = "images.json"
_MAX_IMAGES: Final = 8 << 20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


class Notifier:
    """Tells owners that their tasks are over."""

    def __init__(
        self, store: Store, tasks: Tasks, results: Results, metrics: Metrics, *, duty: Duty, allow_private: bool
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._results = results
        self._outward = Outward(allow_private=allow_private)
        self._metrics = metrics
        self._tries: dict[str, int] = {}
        self._queue: WorkQueue[str] = WorkQueue("notifier", self._notify, workers=20, duty=duty)
        self._duty = duty
        tasks.watch(self._task_changed)

    async def recover(self) -> None:
        """After a restart: tell those who were not told yet."""
        for uuid in await self._store.webhooks_due():
            self._queue.put(uuid)

    async def run(self) -> None:
        """Notify for ever."""
        await self._queue.run()

    async def settle(self) -> None:
        """Before the end: let calls that are under way be answered, so that nobody makes them again."""
        await self._queue.settle(_LAST_CALLS)

    def _task_changed(self, entry: Entry) -> None:
        if entry.task.phase is Phase.FINISHED and entry.task.webhook_due:
            self._queue.put(entry.task.uuid)

    async def _notify(self, uuid: str) -> None:
        entry = await self._tasks.find(uuid)
        if entry is None or not entry.task.webhook_due or entry.task.phase is not Phase.FINISHED:
            self._tries.pop(uuid, None)
            return
        if not self._duty.held:  # somebody else calls it
            return
        count = self._tries[uuid] = self._tries.get(uuid, 0) + 1
        text = "the owner's webhook was called"
        try:
            await self._call(entry)
            self._metrics.webhooks.labels("taken").inc()
        except FetchFailed as error:
            self._metrics.webhooks.labels("failed").inc()
            if count < _TRIES and not error.final:
                raise
            text = f"the owner's webhook was given up after {count} tries: {error}"
        self._tries.pop(uuid, None)
        try:
            await self._tasks.change(entry, text, webhook_due=False)
        except StaleTask:
            _log.info("the task changed while its webhook was called", task=uuid)

    async def _call(self, entry: Entry) -> None:
        """POST the task's info and what is known of its photos as JSON, as a node does. Errors carry no URL: it may
        hold a secret."""
        info = task_info(entry.task) | {"images": await self._images(entry.task.uuid)}
        body = msgspec.json.encode(info)
        wanted = self._outward.check(entry.task.webhook)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            async with (
                self._outward.session(_TIMEOUT) as session,
                session.post(wanted, data=body, headers=headers, allow_redirects=False) as response,
            ):
                if response.status >= 300:
                    raise FetchFailed(f"HTTP status {response.status}", final=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise failed(error) from None

    async def _images(self, uuid: str) -> list[msgspec.Raw]:
        """What the engine wrote down of each photo, where the results are here: nothing is fetched for it."""
        try:
            content = await self._results.asset(uuid, _IMAGES)
        except BadRequest:
            return []
        try:
            if content.size > _MAX_IMAGES:
                return []
            written = b"".join([block async for block in content.blocks(0, content.size)])
            return msgspec.json.decode(written, type=list[msgspec.Raw])
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, msgspec.DecodeError):
            return []
        finally:
            content.close()
