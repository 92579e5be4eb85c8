# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The work of a development node on one task: read its photos, write results, call webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp

from clusterodm.core.names import is_image
from clusterodm.core.tasks import COMPLETED_CODE, FAILED_CODE
from clusterodm.devnode.folders import Folders
from clusterodm.devnode.knobs import DELIVERY, FAILURES, PACKING, Knobs
from clusterodm.devnode.outputs import write_archive
from clusterodm.devnode.photos import Photo, read_photo
from clusterodm.devnode.tasks import DevTask
from clusterodm.http.urls import as_written

#: Seconds before each call of a webhook; there is another one until it answers with 200.
_AGAIN: Final = (0, 5, 10, 15, 20, 25)


class Work:
    """One run of one task."""

    def __init__(
        self,
        task: DevTask,
        folders: Folders,
        knobs: Knobs,
        happens: Callable[[float], bool],
        done: Callable[[DevTask], Awaitable[None]],
        steady: Callable[[], float],
    ) -> None:
        self._task = task
        self._folders = folders
        self._knobs = knobs
        self._happens = happens
        #: Called with the task before it counts as completed.
        self._done = done
        #: Seconds by a monotonic clock.
        self._steady = steady
        self.photos: list[Photo] = []

    async def run(self) -> None:
        """Run the task."""
        task = self._task
        task.begun_at = self._steady()
        self._say("Development node: no photogrammetry is done here", 0)
        paths = self._folders.images(task.uuid)
        for number, path in enumerate(paths, 1):
            await self._spend(number / (len(paths) + 1))
            photo = await asyncio.to_thread(read_photo, path) if is_image(path.name) else None
            if photo:
                self.photos.append(photo)
            self._say(str(photo or f"{path.name}: not an image, kept as it is"), 90 * number / len(paths))
        fails = bool(self._knobs.fail) and self._happens(self._knobs.fail_chance)
        if fails and self._knobs.fail not in (PACKING, DELIVERY):
            self._fail(FAILURES[self._knobs.fail])
            return
        self._say("Writing positions, contact sheet and report", 95)
        await self._spend(1.0)
        self._say("Compressing all.zip\n", 100)
        if fails and self._knobs.fail == PACKING:
            self._fail(FAILURES[PACKING])
            return
        await asyncio.to_thread(self._write, paths)
        if fails:
            self._say("Cannot upload file to S3: Access Denied (AccessDenied), retrying... 6", 100)
            self._fail(FAILURES[DELIVERY])
            return
        await self._done(task)
        task.code = COMPLETED_CODE

    def _fail(self, text: str) -> None:
        task = self._task
        if text:
            self._say(text, task.progress)
        task.code, task.error, task.progress = FAILED_CODE, text or None, 100

    def _write(self, paths: list[Path]) -> None:
        pictures = [path for path in paths if is_image(path.name)]
        write_archive(self._folders.archive(self._task.uuid), self._task, self.photos, pictures)

    async def _spend(self, share: float) -> None:
        """Wait until this share of the task's time has passed."""
        end = self._task.begun_at + self._knobs.seconds * share
        await asyncio.sleep(max(0.0, end - self._steady()))

    def _say(self, line: str, progress: float) -> None:
        task = self._task
        task.output.append(line)
        task.progress = round(progress, 1)
        task.processing_time = int((self._steady() - task.begun_at) * 1000)


async def call_webhook(session: aiohttp.ClientSession, url: str, task: DevTask, photos: list[Photo]) -> None:
    """Call a webhook with the end of a task, until it answers with 200."""
    images = [
        {"filename": photo.name, "width": photo.width, "height": photo.height, "camera": photo.camera}
        | {"latitude": photo.latitude, "longitude": photo.longitude, "altitude": photo.altitude}
        for photo in photos
    ]
    body = task.info() | {"images": images}
    for pause in _AGAIN:
        try:
            async with session.post(as_written(url), json=body) as response:
                if response.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            pass
        await asyncio.sleep(pause)
