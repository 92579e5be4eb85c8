# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One attempt from the chosen node to the commit: its files are sent, and it is committed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.attempts import Failed
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.prefetch import Prefetch, Prefetcher
from clusterodm.core.errors import FilesLost, NodeError, NodeForgot, NodeRefused, NodeUnreachable
from clusterodm.core.files import HeldFile
from clusterodm.core.retry import Failure
from clusterodm.core.tasks import Attempt, Phase, Stage, node_uuid
from clusterodm.files.console import Consoles
from clusterodm.nodeodm import NodeClient, Transfer, Transfers

_COMMIT_TRIES: Final = 3


@dataclass(kw_only=True, slots=True, eq=False)
class Sender:
    """Send attempts; each step returns how it failed, or None."""

    state: ClusterState
    prefetcher: Prefetcher
    holdings: Holdings
    consoles: Consoles
    client: NodeClient
    transfers: Transfers
    callbacks: Callbacks
    runtime: Runtime
    #: Transfers under way, by task.
    under_way: dict[str, Transfer] = field(init=False, default_factory=dict)

    async def begin(self, entry: Entry, node: Node, sender: str) -> Failed | None:
        """Store the choice of a node, and send if `sender` is given; otherwise any replica may claim the attempt."""
        prefetch = await self.prefetcher.take(entry, node)
        if prefetch is not None:
            return await self._send_rest(entry, node, prefetch)
        task, number = entry.task, entry.task.attempts + 1
        attempt = Attempt(
            task=task.uuid,
            number=number,
            node_id=node.record.id,
            node_name=str(node.address),
            node_uuid=node_uuid(task.uuid, number),
            started_at=max(self.runtime.clock(), task.committed_at),
            console_start=await self.consoles.count(task.uuid),
            sender=sender,
        )
        text = f"attempt {number}: sending to {node.address}"
        await self.state.tasks.advance(entry, Phase.DISPATCHING, text, attempt=attempt, attempts=number)
        return await self._send(entry, attempt) if sender else None

    async def claim(self, entry: Entry, attempt: Attempt, sender: str) -> Failed | None:
        """Send an attempt that no replica sends yet. Raises StaleTask when another one was faster."""
        return await self._send(entry, await self.state.tasks.change_attempt(entry, attempt, sender=sender))

    async def resume(self, entry: Entry, attempt: Attempt) -> Failed | None:
        """Pick up an attempt interrupted by a restart or a failed write: its files are sent anew, but a commit may have
        arrived, so its node is polled first."""
        if attempt.stage is not Stage.COMMITTING:
            return Failed(Failure.INTERRUPTED)
        text = "interrupted during the commit; checking whether the node has the task"
        await self._now_running(entry, attempt, text)
        return None

    async def _send_rest(self, entry: Entry, node: Node, prefetch: Prefetch) -> Failed | None:
        """Send what was not prefetched."""
        try:
            attempt = msgspec.structs.replace(
                prefetch.attempt,
                stage=Stage.SENDING,
                started_at=max(self.runtime.clock(), entry.task.committed_at),
                console_start=await self.consoles.count(entry.task.uuid),
            )
            count = f"{prefetch.transfer.arrived_files} of {entry.task.file_count} files"
            text = f"attempt {attempt.number}: {count} prefetched to {node.address}, sending the rest"
            await self.state.tasks.advance(entry, Phase.DISPATCHING, text, attempt=attempt, was=prefetch.attempt)
            return await self._send(entry, attempt, prefetch)
        finally:
            await self.prefetcher.stop(prefetch)

    async def _send(self, entry: Entry, attempt: Attempt, prefetch: Prefetch | None = None) -> Failed | None:
        node = self.state.registry.get(attempt.node_id)
        if node is None:
            return Failed(Failure.DISPATCH, "the node was deleted")
        try:
            files = await self.holdings.whole(entry.task, besides=prefetch.names if prefetch is not None else ())
            await self._send_files(entry, attempt, node, files, prefetch)
        except FilesLost as error:
            return Failed(Failure.FILES, str(error))
        except NodeRefused as error:
            return Failed.refused(error)
        except NodeError as error:
            return Failed(Failure.DISPATCH, str(error))
        images = await self.holdings.expected_images(entry.task.uuid, files)
        attempt = await self.state.tasks.change_attempt(entry, attempt, stage=Stage.COMMITTING, expected_images=images)
        return await self._commit(entry, attempt, node)

    async def _send_files(
        self, entry: Entry, attempt: Attempt, node: Node, files: list[HeldFile], prefetch: Prefetch | None
    ) -> None:
        """Send these files, except those prefetched. Raises a NodeError, or FilesLost."""
        uuid = entry.task.uuid
        transfer = prefetch.transfer if prefetch is not None else self.transfers.to(node.address, attempt.node_uuid)
        for file in files:
            if prefetch is None or file.name not in prefetch.names:
                transfer.add(self.holdings.path(uuid, file.name), file.size)
        transfer.end()
        transfer.elsewhere = partial(self.state.registry.has_room_elsewhere, entry.task, node.record.id)
        transfer.prioritise()
        self.under_way[uuid] = transfer
        try:
            if prefetch is not None:
                await prefetch.finish()
            else:
                task, webhook = self.callbacks.for_node(entry.task, attempt.number), self.callbacks.webhook(uuid)
                await self.client.init(node.address, task, attempt.node_uuid, webhook)
                await transfer.run()
        finally:
            del self.under_way[uuid]
            self.runtime.metrics.sent.inc(transfer.sent_bytes)

    async def _commit(self, entry: Entry, attempt: Attempt, node: Node) -> Failed | None:
        """Start the task on its node, once: after a commit without an answer the node is asked for the task, and the
        commit is repeated only if it has none. If that is not answered either, the tracker finds out."""
        text = f"running on {node.address}"
        for _ in range(_COMMIT_TRIES):
            try:
                await self.client.commit(node.address, attempt.node_uuid)
                break
            except NodeRefused as error:
                return Failed.refused(error)
            except (NodeForgot, NodeUnreachable) as error:
                has_task = await self._has_task(node, attempt.node_uuid)
                if has_task is None:
                    text = f"commit to {node.address} not answered ({error}); checking whether the task runs there"
                if has_task is not False:
                    break
        else:
            return Failed(Failure.DISPATCH, "the commit was not taken")
        await self._now_running(entry, attempt, text)
        return None

    async def _has_task(self, node: Node, uuid: str) -> bool | None:
        """Return True if a node has the committed task; None if it does not answer."""
        try:
            await self.client.task(node.address, uuid)
        except NodeForgot:
            return False
        except NodeError:
            return None
        return True

    async def _now_running(self, entry: Entry, attempt: Attempt, text: str) -> None:
        running = msgspec.structs.replace(attempt, stage=Stage.RUNNING)
        await self.state.tasks.advance(entry, Phase.RUNNING, text, attempt=running, progress=0, processing_time=-1)
