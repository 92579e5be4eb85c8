# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Images from archives, bounded in size: from a zipurl, downloaded from public addresses only, or uploaded."""

from __future__ import annotations

import asyncio
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import aiohttp

from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.egress import EgressPolicy, failed, is_web_url
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.forecasts import Forecasts
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.core.errors import BadArchive, BadRequest, FetchFailed, FilesLost, StaleTask
from clusterodm.core.files import Manifest
from clusterodm.core.names import base_name, counted_files, is_archive, is_image
from clusterodm.core.tasks import HELD, Outcome, Phase
from clusterodm.files.archives import Bounds, open_archive, wanted
from clusterodm.files.spool import Part, Spool

_MAX_REDIRECTS: Final = 5
_TRIES: Final = 5
#: 4xx statuses worth a retry: too slow, too early, too often.
_LATER: Final = (408, 425, 429)
_BLOCK: Final = 1 << 20


def check_zipurl(url: str) -> None:
    """Raise BadRequest for a URL that can never be fetched."""
    if not is_web_url(url):
        raise BadRequest("zipurl must be an http or https URL")


@dataclass(kw_only=True, slots=True, eq=False)
class Fetcher:
    """Fetch and unpack the zipurl of queued tasks, or unpack their uploaded archives."""

    tasks: Tasks
    spool: Spool
    holdings: Holdings
    forecasts: Forecasts
    bounds: Bounds
    egress: EgressPolicy
    runtime: Runtime
    _tries: dict[str, int] = field(init=False, default_factory=dict)
    _queue: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "fetcher",
            self._fetch,
            "fetches and unpacks zipurls, unpacks uploaded archives of photos",
            keys=self._keys,
            concurrency=4,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.tasks.watch(self._task_changed)

    def _task_changed(self, entry: Entry) -> None:
        if entry.task.phase is Phase.QUEUED and entry.task.zipurl:
            self._queue.put(entry.task.uuid)
        elif entry.task.phase in (Phase.FINISHED, Phase.REMOVED):
            self._tries.pop(entry.task.uuid, None)
            self._queue.cancel(entry.task.uuid)

    async def _keys(self) -> list[str]:
        active = (entry.task for entry in self.tasks.active())
        return [task.uuid for task in active if task.phase is Phase.QUEUED and task.zipurl]

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    async def _fetch(self, uuid: str) -> None:
        entry = self.tasks.get(uuid)
        if entry is None or entry.task.phase is not Phase.QUEUED or not entry.task.zipurl:
            return
        held = entry.task.zipurl == HELD
        try:
            await (self._unpack_held(uuid) if held else self._fetch_url(uuid, entry.task.zipurl))
            await self._ready(entry, "unpacked" if held else "fetched from the zipurl")
        except FetchFailed as error:
            count = self._tries[uuid] = self._tries.get(uuid, 0) + 1
            if not error.final and count < _TRIES:
                raise
            self._tries.pop(uuid, None)
            text = str(error) if held else f"zipurl: {error}"
            await self.tasks.finish(entry, Outcome.FAILED, text, error=text)

    async def _fetch_url(self, uuid: str, url: str) -> None:
        part = self.spool.new_part(uuid)
        try:
            await self._download(url, part)
            await self._unpack(uuid, part.path)
        finally:
            part.drop()

    async def _unpack_held(self, uuid: str) -> None:
        """Unpack each uploaded archive, then delete it; safe to run again after an interruption."""
        try:
            await self.holdings.check_packed(uuid)
        except FilesLost as lost:
            raise FetchFailed(str(lost), final=True) from None
        for file in await self.spool.listing(uuid):
            if is_archive(file.name):
                try:
                    await self._unpack(uuid, self.spool.path(uuid, file.name))
                except FetchFailed as error:
                    raise FetchFailed(f"{file.name} {error}", final=error.final) from None
                await self.spool.discard(uuid, file.name)

    async def _ready(self, entry: Entry, how: str) -> None:
        files = await self.spool.listing(entry.task.uuid)
        if not files:
            raise FetchFailed("the archive holds no files", final=True)
        if len(files) > self.bounds.max_files:
            raise FetchFailed(f"too many files: {len(files)} (at most {self.bounds.max_files})", final=True)
        images = sum(is_image(file.name) for file in files)
        expected = await self.forecasts.expect(entry.task.uuid, [file.name for file in files], entry.task.options)
        try:
            await self.tasks.change(
                entry,
                f"{len(files)} files {how}",
                manifest=Manifest(files, "" if entry.task.zipurl == HELD else entry.task.zipurl),
                zipurl="",
                file_count=len(files),
                image_count=images,
                counted_files=counted_files(file.name for file in files),
                expected_memory=expected.memory if expected else 0,
                byte_count=sum(file.size for file in files),
            )
        except StaleTask:
            return

    async def _download(self, url: str, part: Part) -> None:
        timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=60)
        async with self.egress.session(timeout) as session:
            for _ in range(_MAX_REDIRECTS + 1):
                target = self.egress.check(url)
                try:
                    async with session.get(target, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308):
                            url = urljoin(url, response.headers.get("Location", ""))
                            continue
                        await self._receive(response, part)
                        return
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    raise failed(error) from None
            raise FetchFailed("too many redirects", final=True)

    async def _receive(self, response: aiohttp.ClientResponse, part: Part) -> None:
        if response.status != 200:
            raise FetchFailed(
                f"answered with HTTP status {response.status}",
                final=400 <= response.status < 500 and response.status not in _LATER,
            )
        received = 0
        async for content in response.content.iter_any():
            received += len(content)
            if received > self.bounds.max_size:
                raise FetchFailed(f"larger than {self.bounds.max_size} bytes", final=True)
            await part.write(content)
        await part.close()

    async def _unpack(self, uuid: str, path: Path) -> None:
        try:
            archive = await asyncio.to_thread(open_archive, path, self.bounds)
        except BadArchive as error:
            raise FetchFailed(str(error), final=True) from None
        with archive:
            for entry in wanted(archive):
                part = self.spool.new_part(uuid)
                try:
                    await _extract(archive, entry, part)
                    await self.spool.publish(uuid, part, base_name(entry.filename))
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
                    raise FetchFailed("is a damaged or encrypted zip archive", final=True) from None
                finally:
                    part.drop()


async def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, part: Part) -> None:
    """Unpack one entry; zipfile stops at the declared size, which was counted before."""
    with archive.open(entry) as source:
        while content := await asyncio.to_thread(source.read, _BLOCK):
            await part.write(content)
    await part.close()
