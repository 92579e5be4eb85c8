# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The development node itself: its tasks, their order, faults on demand, and its memory after a restart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from clusterodm.aio import Clock
from clusterodm.core.errors import BadRequest
from clusterodm.core.tasks import CANCELED_CODE, FAILED_CODE, QUEUED_CODE, RUNNING_CODE
from clusterodm.devnode.folders import Folders
from clusterodm.devnode.knobs import Knobs
from clusterodm.devnode.options import add_own, filter_options
from clusterodm.devnode.tasks import BUSY, OVER, DevTask, from_fields, from_kept
from clusterodm.devnode.work import Work, call_webhook

_HOUR: Final = 3600.0


class DevNode:
    """Accepts tasks, runs `slots` of them at a time, delivers `all.zip`."""

    def __init__(self, folder: Path, knobs: Knobs, options: list[dict[str, Any]], clock: Clock | None = None) -> None:
        self.knobs = knobs
        self.clock = clock or Clock()
        self.options = options
        self.folders = Folders(folder)
        self.chance = random.Random(knobs.seed)  # nosec B311
        self.tasks: dict[str, DevTask] = {}
        #: Uuids in the order of their commits.
        self.commits: list[str] = []
        #: Called with a task before it counts as completed: a node may deliver its results to a bucket.
        self.done: Callable[[DevTask], Awaitable[None]] = _nothing
        self._runs: dict[str, asyncio.Task[None]] = {}
        #: Tasks whose files are being moved into place.
        self._moving: dict[str, asyncio.Event] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup
        self._session: aiohttp.ClientSession
        self._restore()

    def happens(self, chance: float) -> bool:
        """Return True with a chance."""
        return chance > 0 and self.chance.random() < chance

    def busy(self) -> int:
        """Return the number of running and queued tasks."""
        return sum(task.code in BUSY for task in self.tasks.values())

    def archive(self, uuid: str) -> Path:
        """Return the path of a task's results."""
        return self.folders.archive(uuid)

    def held(self, uuid: str) -> dict[str, Path]:
        """Return the uploaded files of a task, committed or not, by the names that they have here."""
        return self.folders.held(uuid)

    @property
    def announced(self) -> set[str]:
        """The uuids that wait for uploads and a commit."""
        return self.folders.announced()

    # Requests of clients

    def check(self, options: Any) -> list[dict[str, Any]]:
        """Return the options that a task would run with. Raises BadRequest."""
        return filter_options(options, self.options, self.knobs.max_concurrency)

    def commit(self, uuid: str, fields: dict[str, str], no_file: str) -> None:
        """Accept a task. It shows as running until its files are in place, then it is queued. Raises BadRequest, with
        `no_file` if nothing was uploaded."""
        names = self.folders.uploaded(uuid)
        if not names:
            raise BadRequest(no_file)
        task = from_fields(uuid, fields, self.check(fields.get("options")), len(names), self.clock())
        self.tasks[uuid] = task
        self.commits.append(uuid)
        self._moving[uuid] = moved = asyncio.Event()
        self._spawn(self._take_in(task, moved))

    def cancel(self, task: DevTask) -> None:
        """Stop a task; a finished one becomes canceled."""
        if task.code != CANCELED_CODE:
            task.code, task.error, task.processing_time = CANCELED_CODE, None, -1
            self._stop(task.uuid)

    async def remove(self, task: DevTask) -> None:
        """Stop and delete a task."""
        self.cancel(task)
        if moving := self._moving.get(task.uuid):
            await moving.wait()
        self.tasks.pop(task.uuid, None)
        await asyncio.to_thread(self.folders.drop, task.uuid)

    def restart(self, task: DevTask, options: list[dict[str, Any]] | None) -> bool:
        """Restart a finished task; return False if it is not finished."""
        if task.code not in OVER:
            return False
        if options is not None:
            task.options = options
            self._add_own(task)
        if task.ready:
            task.begin_again(int(self.clock() * 1000))
        else:
            task.code = RUNNING_CODE
        self._next()
        return True

    def forget(self, uuid: str) -> None:
        """Forget a task and its upload, as a node that was killed and lost its disk."""
        self.tasks.pop(uuid, None)
        self.folders.drop_upload(uuid)
        self._stop(uuid)

    # Restarts

    def dump(self) -> None:
        """Save the tasks, as every hour and at an orderly end. A node that is killed forgets newer ones."""
        self.folders.keep([task.saved_state() for task in self.tasks.values()])

    def _restore(self) -> None:
        for saved in self.folders.saved_tasks():
            self.tasks[saved["uuid"]] = from_kept(saved, len(self.folders.images(saved["uuid"])))
        self._tidy()
        self.folders.drop_orphans(self.tasks)

    def _tidy(self) -> None:
        """Delete expired tasks and uploads."""
        minutes, now = self.knobs.cleanup_tasks_after, int(self.clock() * 1000)
        for task in list(self.tasks.values()):
            if minutes is not None and task.code in OVER and now - task.over_since() > minutes * 60_000:
                del self.tasks[task.uuid]
                self.folders.drop(task.uuid)
        if self.knobs.cleanup_uploads_after is not None:
            self.folders.drop_stale_uploads(self.knobs.cleanup_uploads_after, self.clock.age)

    async def _every_hour(self) -> None:
        while True:
            await asyncio.sleep(_HOUR - self.clock() % _HOUR)
            self._tidy()
            self.dump()

    # Work

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run tasks while the block runs."""
        async with aiohttp.ClientSession() as self._session, asyncio.TaskGroup() as self._group:
            self._spawn(self._every_hour())
            self._next()
            yield
            for job in list(self._jobs):
                job.cancel()

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        spawned = self._group.create_task(job)
        self._jobs.add(spawned)
        spawned.add_done_callback(self._jobs.discard)
        return spawned

    def _next(self) -> None:
        """Start queued tasks as far as there are slots."""
        for task in list(self.tasks.values()):
            if len(self._runs) >= self.knobs.slots:
                return
            if task.ready and task.code == QUEUED_CODE and task.uuid not in self._runs:
                task.code = RUNNING_CODE
                task.runs += 1
                self._runs[task.uuid] = self._spawn(self._run(task))

    async def _take_in(self, task: DevTask, moved: asyncio.Event) -> None:
        try:
            task.images_count = await asyncio.to_thread(self.folders.take_in, task.uuid, self.knobs.max_images)
            self._add_own(task)
            if task.code == RUNNING_CODE:
                task.code = QUEUED_CODE
        except (BadRequest, OSError) as error:
            if task.code == RUNNING_CODE:
                task.code, task.error = FAILED_CODE, str(error)
        finally:
            task.ready = True
            self._moving.pop(task.uuid, None)
            moved.set()
        self._next()

    def _add_own(self, task: DevTask) -> None:
        if not task.skip_post_processing:
            add_own(task.options, self.options)

    async def _run(self, task: DevTask) -> None:
        work = Work(task, self.folders, self.knobs, self.happens, self.done, self.clock.steady)
        try:
            if self.happens(self.knobs.forget):
                self.tasks.pop(task.uuid, None)
                return
            await work.run()
        except asyncio.CancelledError:
            if task.code != CANCELED_CODE or self._is_current(task):  # the node ends, or has forgotten it
                raise
        except Exception as error:  # noqa: BLE001 - one of the three edges: a work item
            task.code, task.error = FAILED_CODE, f"Processing failed ({type(error).__name__})"
        finally:
            if self._is_current(task):
                del self._runs[task.uuid]
            self._next()
        for url in (task.webhook, self.knobs.webhook):
            if len(url) > 3:
                self._spawn(call_webhook(self._session, url, task, work.photos))

    def _is_current(self, task: DevTask) -> bool:
        return self._runs.get(task.uuid) is asyncio.current_task()

    def _stop(self, uuid: str) -> None:
        if run := self._runs.pop(uuid, None):
            run.cancel()
        self._next()


async def _nothing(task: DevTask) -> None:
    """Results stay where they are."""
