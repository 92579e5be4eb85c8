# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The development node itself: tasks in memory, files in a folder, faults on demand."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from clusterodm.core.names import is_image
from clusterodm.core.tasks import CANCELED_CODE, COMPLETED_CODE, FAILED_CODE, QUEUED_CODE, RUNNING_CODE
from clusterodm.devnode.outputs import write_archive
from clusterodm.devnode.photos import Photo, read_photo
from clusterodm.spool import Spool

#: Error texts of a real node by what `--fail` calls them.
FAILURES: Final = {
    "memory": "Not enough memory (exit code 137)",
    "cpu": "Unsupported CPU (exit code 132)",
    "dataset": "Cannot process dataset (exit code 1)",
    "installation": "Installation issue (exit code 3)",
    "other": "Processing failed (99)",
}
_WEBHOOK_TRIES: Final = 6


class Knobs(msgspec.Struct, kw_only=True):
    """How the node behaves. Chances are between 0 (never) and 1 (always); they may be changed while it runs."""

    slots: int = 1
    max_images: int | None = None
    token: str = ""
    #: How long a task takes.
    seconds: float = 5.0
    #: What tasks fail with (a key of FAILURES); empty: they do not.
    fail: str = ""
    fail_chance: float = 1.0
    #: Chance that a request is never answered.
    hang: float = 0.0
    #: Chance that an upload's connection is closed instead of answered; half of them after the file was stored.
    drop: float = 0.0
    #: Seconds that every answer is late.
    slow: float = 0.0
    #: Chance that a task is forgotten while it runs, as by a killed node.
    forget: float = 0.0
    total_memory: int = 16 << 30
    engine: str = "odm"
    seed: int | None = None


class DevTask(msgspec.Struct, kw_only=True):
    """One task on the node."""

    uuid: str
    name: str
    options: list[dict[str, Any]]
    date_created: int
    webhook: str = ""
    code: int = RUNNING_CODE
    error: str = ""
    output: list[str] = []
    progress: float = 0
    images_count: int = 0
    begun_at: float = 0.0
    processing_time: int = -1
    #: How often it was started; more than one only by a restart.
    runs: int = 0

    def info(self) -> dict[str, Any]:
        """The body of `/task/<uuid>/info` without output."""
        status: dict[str, Any] = {"code": self.code}
        if self.error:
            status["errorMessage"] = self.error
        return {
            "uuid": self.uuid,
            "name": self.name,
            "dateCreated": self.date_created,
            "processingTime": self.processing_time,
            "status": status,
            "options": self.options,
            "imagesCount": self.images_count,
            "progress": self.progress,
        }


class DevNode:
    """Takes tasks, works through them `slots` at a time, delivers `all.zip`."""

    def __init__(self, folder: Path, knobs: Knobs, options: list[dict[str, Any]]) -> None:
        self.knobs = knobs
        self.options = options
        self.spool = Spool(folder / "files")
        self._results = folder / "results"
        self._results.mkdir(parents=True, exist_ok=True)
        self.chance = random.Random(knobs.seed)  # nosec B311
        #: Announced, not committed.
        self.announced: dict[str, DevTask] = {}
        self.tasks: dict[str, DevTask] = {}
        #: Uuids in the order in which they were committed; a test asks it what really ran here.
        self.commits: list[str] = []
        #: What happens to results before a task counts as completed: a node may put them into a bucket.
        self.done: Callable[[DevTask], Awaitable[None]] = _nothing
        self._work: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def happens(self, chance: float) -> bool:
        """Throw the dice."""
        return chance > 0 and self.chance.random() < chance

    def busy(self) -> int:
        """Tasks that run or wait."""
        return sum(task.code in (QUEUED_CODE, RUNNING_CODE) for task in self.tasks.values())

    def archive(self, uuid: str) -> Path:
        """Where a task's results are or will be."""
        return self._results / uuid / "all.zip"

    async def commit(self, uuid: str) -> None:
        """Take an announced task in. It shows as running until its files are in place, then waits for a slot."""
        task = self.announced.pop(uuid)
        task.images_count = len(await self.spool.listing(uuid))
        self.tasks[uuid] = task
        self.commits.append(uuid)
        self._wake.set()

    def cancel(self, task: DevTask) -> None:
        """Stop a task; one that is over stays as it is."""
        if task.code in (QUEUED_CODE, RUNNING_CODE):
            task.code = CANCELED_CODE
            self._stop(task.uuid)

    async def remove(self, task: DevTask) -> None:
        """Stop and delete a task."""
        self.tasks.pop(task.uuid, None)
        self._stop(task.uuid)
        await self.spool.drop(task.uuid)
        await asyncio.to_thread(shutil.rmtree, self._results / task.uuid, ignore_errors=True)

    def restart(self, task: DevTask) -> None:
        """Begin a finished task again."""
        task.code, task.error, task.output, task.progress, task.processing_time = QUEUED_CODE, "", [], 0, -1
        self._wake.set()

    def forget(self, uuid: str) -> None:
        """No longer know a task, as a node that was killed."""
        self.tasks.pop(uuid, None)
        self._stop(uuid)

    def _stop(self, uuid: str) -> None:
        if work := self._work.pop(uuid, None):
            work.cancel()
        self._wake.set()

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
            while True:
                self._wake.clear()
                for task in list(self.tasks.values()):
                    self._start(task, group, session)
                await self._wake.wait()

    def _start(self, task: DevTask, group: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        if task.uuid in self._work or task.code not in (QUEUED_CODE, RUNNING_CODE):
            return
        if len(self._work) >= self.knobs.slots:
            task.code = QUEUED_CODE
            return
        task.code = RUNNING_CODE
        task.runs += 1
        self._work[task.uuid] = group.create_task(self._one(task, session))

    async def _one(self, task: DevTask, session: aiohttp.ClientSession) -> None:
        try:
            await self._process(task)
        except Exception as error:  # noqa: BLE001 - one of the three edges: a work item
            task.code, task.error = FAILED_CODE, f"Processing failed ({type(error).__name__})"
        self._work.pop(task.uuid, None)
        self._wake.set()
        if task.webhook:
            await self._tell(task, session)

    async def _process(self, task: DevTask) -> None:
        task.begun_at = time.monotonic()
        self._say(task, "Development node: no photogrammetry is done here", 0)
        if self.happens(self.knobs.forget):
            self.tasks.pop(task.uuid, None)
            return
        paths = [self.spool.path(task.uuid, file.name) for file in await self.spool.listing(task.uuid)]
        photos: list[Photo] = []
        for number, path in enumerate(paths, 1):
            await self._spend(task, number / (len(paths) + 1))
            photo = await asyncio.to_thread(read_photo, path) if is_image(path.name) else None
            if photo:
                photos.append(photo)
            self._say(task, str(photo or f"{path.name}: not a picture, kept as it is"), 90 * number / len(paths))
        if self.knobs.fail and self.happens(self.knobs.fail_chance):
            self._say(task, FAILURES[self.knobs.fail], task.progress)
            task.code, task.error = FAILED_CODE, FAILURES[self.knobs.fail]
            return
        self._say(task, "Writing positions, contact sheet and report", 95)
        await asyncio.to_thread(self._write, task, photos, paths)
        await self._spend(task, 1.0)
        self._say(task, "Compressing all.zip\n", 100)
        await self.done(task)
        task.code = COMPLETED_CODE

    def _write(self, task: DevTask, photos: list[Photo], paths: list[Path]) -> None:
        target = self.archive(task.uuid)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_archive(target, task.name, photos, [path for path in paths if is_image(path.name)], task.options)

    async def _spend(self, task: DevTask, share: float) -> None:
        """Wait until this share of the task's time is over."""
        end = task.begun_at + self.knobs.seconds * share
        await asyncio.sleep(max(0.0, end - time.monotonic()))

    def _say(self, task: DevTask, line: str, progress: float) -> None:
        task.output.append(line)
        task.progress = round(progress, 1)
        task.processing_time = int((time.monotonic() - task.begun_at) * 1000)

    async def _tell(self, task: DevTask, session: aiohttp.ClientSession) -> None:
        for attempt in range(_WEBHOOK_TRIES):
            try:
                async with session.post(task.webhook, json=task.info()) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, OSError, ValueError):
                await asyncio.sleep(2**attempt)


async def _nothing(task: DevTask) -> None:
    """Results stay where they are."""
