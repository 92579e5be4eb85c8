# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A client of the API that survives lost connections: uploads and downloads are repeated or resumed."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ClusterError, NodeForgot, NodeRefused, NodeUnreachable
from clusterodm.core.nodes import NodeAddress
from clusterodm.core.tasks import Phase, Task
from clusterodm.http.reasons import describe
from clusterodm.nodeodm import NodeClient, Snapshot

T = TypeVar("T")

_BLOCK: Final = 1 << 20
_BACKOFF: Final = Backoff(first=0.5, longest=15.0)
_UPLOAD_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=15, sock_read=180)


class Remote:
    """A node or cluster. Failures of the connection are retried for `patience` seconds."""

    def __init__(self, session: aiohttp.ClientSession, address: NodeAddress, *, patience: float = 600.0) -> None:
        self._session = session
        self._clock = Clock()
        self._client = NodeClient(session)
        self._address = address
        self._patience = patience
        #: Called with a line before each retry.
        self.on_trouble: Callable[[str], None] = lambda line: None

    async def _patiently(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        deadline = self._clock.steady() + self._patience
        count = 0
        while True:
            count += 1
            pause = _BACKOFF.wait(count, chance())
            try:
                return await work()
            except NodeUnreachable as error:
                if self._clock.steady() > deadline:
                    raise
                self.on_trouble(f"{what}: {error}; retrying in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def known(self, uuid: str) -> bool:
        """Return True if the task was committed already."""
        try:
            await self.look(uuid, 0)
        except NodeForgot:
            return False
        return True

    async def init(self, uuid: str, name: str, options: list[dict[str, Any]]) -> None:
        """Announce a task; it is safe to repeat because the client chooses the uuid."""
        task = Task(uuid=uuid, owner="", phase=Phase.RECEIVING, name=name, options=options)
        await self._patiently("starting", lambda: self._client.init(self._address, task, uuid, ""))

    async def upload(self, uuid: str, path: Path, on_bytes: Callable[[int], None]) -> None:
        """Send a file, from its beginning again after a lost connection."""
        sent = 0

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            on_bytes(size)

        async def attempt() -> None:
            nonlocal sent
            on_bytes(-sent)
            sent = 0
            await self._upload(uuid, path, count)

        await self._patiently(path.name, attempt)

    async def _upload(self, uuid: str, path: Path, on_bytes: Callable[[int], None]) -> None:
        form = aiohttp.FormData()
        form.add_field("images", _blocks(path, on_bytes), filename=path.name, content_type="application/octet-stream")
        url = f"{self._address.url}/task/new/upload/{uuid}"
        query = {"token": self._address.token} if self._address.token else {}
        tls = self._client.trust.context(self._address)
        try:
            async with self._session.post(url, params=query, data=form, timeout=_UPLOAD_TIMEOUT, ssl=tls) as response:
                status, content = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise NodeUnreachable(describe(error)) from None
        if status == 401:
            raise NodeRefused("a valid token is needed")
        try:
            answer = msgspec.json.decode(content)
        except msgspec.DecodeError:
            raise NodeUnreachable(f"HTTP status {status}") from None
        if "error" in answer:
            refused = NodeRefused if answer.get("noRetry") or "not found" in answer["error"] else NodeUnreachable
            raise refused(answer["error"])

    async def commit(self, uuid: str) -> None:
        """Start the task. After a lost connection the node may know it already."""

        async def attempt() -> None:
            try:
                await self._client.commit(self._address, uuid)
            except NodeForgot:
                await self._client.task(self._address, uuid)

        await self._patiently("commit", attempt)

    async def look(self, uuid: str, line: int) -> Snapshot:
        """Return the state of the task and its console lines from `line`."""
        return await self._patiently("status", lambda: self._client.task(self._address, uuid, from_line=line))

    async def cancel(self, uuid: str) -> None:
        """Cancel the task."""
        await self._client.cancel(self._address, uuid)

    async def download(self, uuid: str, target: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        """Fetch all.zip to `target`, resuming after a lost connection if the server can."""
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        await self._patiently("download", lambda: self._download(uuid, part, on_bytes))
        part.rename(target)

    async def _download(self, uuid: str, part: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        async with self._client.download(self._address, uuid, "all.zip", headers) as response:
            have = have if response.status == 206 else 0
            total = None if response.content_length is None else have + response.content_length
            with part.open("ab" if have else "wb") as file:
                while block := await response.content.readany():
                    await asyncio.to_thread(file.write, block)
                    have += len(block)
                    on_bytes(have, total)
        if total is not None and have != total:
            raise NodeUnreachable("the download was cut off")


async def _blocks(path: Path, on_bytes: Callable[[int], None]) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, _BLOCK):
            yield block
            on_bytes(len(block))


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack results into `folder`; return the names of the files. Raises ClusterError for a damaged archive."""
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)
            return [name for name in content.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise ClusterError(f"the results cannot be unpacked: {error}") from None
