# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results: checked before a task counts as completed, and pulled from the node where the cluster keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from clusterodm.aio import KeyedLock, next_piece
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.core.errors import (
    BadArchive,
    BadRequest,
    BadResults,
    NodeError,
    NodeForgot,
    NodeRefused,
    ProviderError,
    ResultsGone,
)
from clusterodm.core.nodes import Origin
from clusterodm.core.retry import FETCHED
from clusterodm.core.tasks import COMPLETED, Attempt, Outcome, has_results
from clusterodm.files.archives import ARCHIVE_MARK, TAIL, Tail, check_whole
from clusterodm.files.bundle import Files
from clusterodm.files.results import ARCHIVE
from clusterodm.nodeodm import Download, NodeClient
from clusterodm.providers import Bucket, Fleet

_log = structlog.get_logger("collector")

_MARK: Final = len(ARCHIVE_MARK)


@dataclass(kw_only=True, slots=True, eq=False)
class Collector:
    """Take tasks from COLLECTING to completed."""

    state: ClusterState
    client: NodeClient
    files: Files
    fleet: Fleet
    #: True if the cluster keeps all results.
    keep: bool
    runtime: Runtime
    _pulls: KeyedLock[str] = field(init=False, default_factory=KeyedLock)

    async def collect(self, entry: Entry, attempt: Attempt, node: Node) -> None:
        """Complete a task whose node has finished. Raises a NodeError when its results cannot be fetched now."""
        uuid = entry.task.uuid
        # of an attempt that could not deliver, the bucket may hold the results of an earlier run
        provider = await self._bucket_with(attempt, node) if attempt.reason != FETCHED else ""
        if provider:
            text = f"completed; results in the bucket of {provider}"
        elif self.keep or node.record.origin is Origin.AUTOSCALER:  # its machine may be gone any moment
            await self._pull(uuid, attempt, node)
            text = "completed; results kept by the cluster"
        else:
            await self._check_remote(attempt, node)
            text = f"completed; results stay on {attempt.node_name}"
        ended = attempt.ended(self.runtime.clock(), COMPLETED, attempt.cleanup)
        await self.state.tasks.finish(
            entry, Outcome.COMPLETED, text, attempt=ended, was=attempt, progress=100.0, results_in=provider
        )
        self.runtime.metrics.attempts.labels("completed").inc()
        await self.files.spool.drop(uuid)

    async def _bucket_with(self, attempt: Attempt, node: Node) -> str:
        """Return the provider whose bucket holds the results; empty if none does, or the bucket cannot be read."""
        provider = node.record.labels.get("provider", "")
        bucket = self.fleet.bucket(provider) if node.record.origin is Origin.AUTOSCALER else None
        if bucket is None:
            return ""
        try:
            key = f"{attempt.node_uuid}/{ARCHIVE}"
            archive = await bucket.find(key)
            if archive is not None:
                await asyncio.to_thread(check_whole, bucket.open(key, archive.size))
        except ProviderError as error:
            _log.warning("bucket unreadable, pulling results from the node", error=str(error))
            return ""
        except BadArchive as error:
            _log.warning("broken all.zip in the bucket, pulling results from the node", error=f"it {error}")
            return ""
        return provider if archive is not None else ""

    async def _check_remote(self, attempt: Attempt, node: Node) -> None:
        """Raise BadResults unless the archive on a node is whole. Read its begin and end only, where the node honours
        ranges."""
        tail = Tail()
        async with self._download(node, attempt, "bytes=0-3") as response:
            if response.status == 200:
                while block := await next_piece(response.content):
                    tail.add(block)
            else:
                tail.size, tail.head = _total(response), await response.content.read(_MARK)
        if not tail.end and tail.size:
            async with self._download(node, attempt, f"bytes={max(0, tail.size - TAIL)}-{tail.size - 1}") as response:
                tail.end = await response.content.read() if response.status == 206 else b""
        with _translated():
            tail.check()

    def _download(
        self, node: Node, attempt: Attempt, ranged: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.client.download(node.address, attempt.node_uuid, ARCHIVE, {"Range": ranged})

    async def archive(self, entry: Entry) -> Path:
        """Return the archive of a completed task on local disk, pulled from its node or bucket if needed.

        Raises BadRequest when the task has no results, a NodeError when they cannot be fetched now.
        """
        if not has_results(entry.task, entry.attempt):
            raise BadRequest("Asset not ready")
        if path := self.files.results.archive(entry.task.uuid):
            return path
        attempt, uuid = entry.attempt, entry.task.uuid
        bucket = self.fleet.bucket(entry.task.results_in) if entry.task.results_in else None
        if attempt is not None and bucket is not None:
            return await self._keep_once(uuid, _stored(bucket, f"{attempt.node_uuid}/{ARCHIVE}"))
        node = self.state.registry.get(attempt.node_id) if attempt else None
        if attempt is None or node is None:
            raise results_gone(attempt)
        try:
            return await self._pull(uuid, attempt, node)
        except (NodeForgot, NodeRefused) as error:
            raise why_no_results(attempt, error) from None

    async def _pull(self, uuid: str, attempt: Attempt, node: Node) -> Path:
        return await self._keep_once(uuid, _downloaded(self.client, node, attempt))

    async def _keep_once(self, uuid: str, blocks: AsyncIterator[bytes]) -> Path:
        """Store an archive once: a second caller waits for the first."""
        async with self._pulls.hold(uuid):
            return self.files.results.archive(uuid) or await self._receive(uuid, blocks)

    async def _receive(self, uuid: str, blocks: AsyncIterator[bytes]) -> Path:
        self.files.results.drop_part(uuid)
        part = self.files.results.new_part(uuid)
        try:
            async for block in blocks:
                await part.write(block)
            await part.close()
            with _translated():
                await asyncio.to_thread(_check, part.path)
            return self.files.results.publish(uuid, part)
        finally:
            part.drop()


def results_gone(attempt: Attempt | None) -> ResultsGone:
    """Return the error for results that their node has deleted, or that went with it."""
    fate = f"{attempt.node_name} has deleted them, or is no longer here" if attempt else "nothing of it is left"
    return ResultsGone(f"The results of this task are gone: {fate}", no_retry=True)


def why_no_results(attempt: Attempt, error: NodeError) -> ResultsGone | NodeError:
    """Translate a failed download: nodes keep results for a limited time (48 hours by default), then know neither them
    nor the task."""
    deleted = isinstance(error, NodeForgot) or (isinstance(error, NodeRefused) and "asset" in str(error).lower())
    return results_gone(attempt) if deleted else error


def _check(path: Path) -> None:
    with path.open("rb") as file:
        check_whole(file)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BadArchive as error:
        raise BadResults(f"{ARCHIVE} {error}") from None


def _total(response: aiohttp.ClientResponse) -> int:
    """Return the full size of a file served in part. Raises BadResults."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if not total.isdecimal():
        raise BadResults(f"the size of {ARCHIVE} is not told")
    return int(total)


async def _downloaded(client: NodeClient, node: Node, attempt: Attempt) -> AsyncIterator[bytes]:
    async with Download(client, node.address, attempt.node_uuid, ARCHIVE) as download:
        while block := await download.read():
            yield block


async def _stored(bucket: Bucket, key: str) -> AsyncIterator[bytes]:
    archive = await bucket.find(key)
    if archive is None:
        raise results_gone(None)
    async for block in bucket.read(key, 0, archive.size):
        yield block
