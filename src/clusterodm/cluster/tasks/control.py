# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cancel, remove and restart. Each is one transition; what follows on a node is stored with the attempt and carried out
by the cleaner, so that no response waits for a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from clusterodm.aio import Clock
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.holdings import Holdings
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.changes import TaskChanges
from clusterodm.core.errors import BadRequest, FilesLost, NodeError, NodeForgot, NodeRefused, StaleTask
from clusterodm.core.limits import Limits, limited_options
from clusterodm.core.options import Option, check_options, parse_options, split_cluster, unknown_options
from clusterodm.core.tasks import (
    BY_OWNER,
    ON_NODE,
    QUEUED_CODE,
    RUNNING_CODE,
    Attempt,
    Cleanup,
    Outcome,
    Phase,
    Stage,
)
from clusterodm.files.bundle import Files
from clusterodm.nodeodm import NodeClient

#: Columns of a restarted task.
_FRESH: Final[TaskChanges] = {
    "outcome": None,
    "results_in": "",
    "error": "",
    "finished_at": 0.0,
    "webhook_due": False,
    "progress": 0.0,
    "processing_time": -1,
    "node_code": 0,
    "added_options": [],
    "charged": 0,
    "not_before": 0.0,
    "larger_than": 0,
    "more_memory_than": 0,
    "alone": False,
    "avoid": [],
}
_TRIES: Final = 5
_NO_LIMITS: Final = Limits()


@dataclass(kw_only=True, slots=True, eq=False)
class Control:
    """Carry out requests of owners and operators."""

    state: ClusterState
    client: NodeClient
    files: Files
    holdings: Holdings
    uploads: Uploads
    callbacks: Callbacks
    #: Called with a split-merge job before it is restarted.
    before_restart: Callable[[str], Awaitable[object]]
    clock: Clock

    async def cancel(self, entry: Entry, *, by: str = "its owner", cleanup: Cleanup = Cleanup.CANCEL) -> None:
        """Cancel a task in any phase, and have its node cancel or remove it; an upload is removed. Like on a node, a
        finished task can be canceled and keeps its results. With Cleanup.REMOVE its held files go, too."""
        if entry.task.phase is Phase.RECEIVING and await self.uploads.remove(entry, by=by):
            return
        for _ in range(_TRIES):
            if entry.task.phase is Phase.REMOVED or entry.task.outcome is Outcome.CANCELED:
                return
            try:
                if entry.task.phase is Phase.FINISHED:
                    await self.state.tasks.change(entry, f"canceled after its end by {by}", outcome=Outcome.CANCELED)
                    return
                ended = self._ended_attempt(entry, cleanup)
                await self.state.tasks.finish(entry, Outcome.CANCELED, f"canceled by {by}", attempt=ended)
            except StaleTask:
                continue
            if cleanup is Cleanup.REMOVE:
                await self.files.spool.drop(entry.task.uuid)
            return
        raise BadRequest("The task is changing, try again")

    async def remove(self, entry: Entry, *, by: str = "its owner") -> None:
        """Remove a task in any phase with its files, here and on its node."""
        if entry.task.phase is Phase.RECEIVING and await self.uploads.remove(entry, by=by):
            return
        for _ in range(_TRIES):
            if entry.task.phase is Phase.REMOVED:
                return
            try:
                ended = self._ended_attempt(entry, Cleanup.REMOVE)
                await self.state.tasks.advance(entry, Phase.REMOVED, f"removed by {by}", attempt=ended)
            except StaleTask:
                continue
            await self.files.spool.drop(entry.task.uuid)
            await self.files.results.drop(entry.task.uuid)
            return
        raise BadRequest("The task is changing, try again")

    async def restart(
        self, entry: Entry, options: str | None, limits: Limits = _NO_LIMITS, cluster_url: str = ""
    ) -> None:
        """Restart a finished task, with new options if given: on its node, which still has files and intermediate
        results, or else from the held files on any node. A split-merge job keeps its address for submodels, else gets
        `cluster_url`."""
        if entry.task.phase is not Phase.FINISHED:
            raise BadRequest("Task cannot be restarted")
        described = self.state.registry.options
        given_options = [] if options is None else parse_options(options)
        chosen = None
        if options is not None:
            chosen = limited_options(check_options(given_options, described), described, limits)
            chosen = self.callbacks.with_cluster(chosen, split_cluster(entry.task.options) or cluster_url)
        if split_cluster(entry.task.options):
            await self.before_restart(entry.task.uuid)
        changes = _FRESH if chosen is None else _FRESH | {"options": chosen}
        unknown = unknown_options(given_options, described)
        try:
            restarted_in_place = self._keeps_it(entry) is not None and await self.state.tasks.locks.command(
                entry.task.uuid, lambda: self._restart_there(entry, chosen, changes, unknown)
            )
            if not restarted_in_place:
                await self._restart_here(entry, changes, unknown)
        except StaleTask:
            return  # it was restarted or removed at the same moment
        await self.files.results.drop(entry.task.uuid)

    async def _begin_console(self, entry: Entry, notes: list[str]) -> None:
        """Empty the console, as a node does on a restart, and begin it with notes on the options."""
        await self.files.consoles.reset(entry.task.uuid)
        await self.files.consoles.append(entry.task.uuid, [f"[clusterodm] {text}" for text in notes])
        for text in notes:
            await self.state.tasks.note(entry, text)

    async def _restart_here(self, entry: Entry, changes: TaskChanges, notes: list[str]) -> None:
        """Queue a task again, under its lock so that its files are not released meanwhile."""
        async with self.state.tasks.locks.hold(entry):
            try:
                restored = await self.holdings.restored(entry.task)
            except FilesLost as lost:
                raise BadRequest(f"Task cannot be restarted: its node is gone, and {lost}") from None
            _require_finished(entry)
            await self._begin_console(entry, notes)
            _require_finished(entry)
            text = "restarted from the held files"
            # its next attempt may be on another node: what this one has there would stay
            left = entry.attempt and msgspec.structs.replace(entry.attempt, cleanup=Cleanup.REMOVE)
            await self.state.tasks.advance(entry, Phase.QUEUED, text, attempt=left, **(changes | restored))

    async def _restart_there(
        self, entry: Entry, options: list[Option] | None, changes: TaskChanges, notes: list[str]
    ) -> bool:
        """Restart the latest attempt on its node; return False if that is not possible there. Raises StaleTask."""
        _require_finished(entry)
        attempt, node = entry.attempt, self._keeps_it(entry)
        if attempt is None or node is None:
            return False
        # if this replica dies, or the answer is lost, the cleaner ends the run that may have begun
        pending = msgspec.structs.replace(attempt, cleanup=Cleanup.CANCEL)
        await self.state.tasks.change(entry, attempt=pending)
        if not await self._ordered_there(attempt, node, options):
            return False
        await self._begin_console(entry, notes)
        _require_finished(entry)
        await self._now_running(entry, attempt, changes)
        return True

    def _keeps_it(self, entry: Entry) -> Node | None:
        """Return the node that still has the task's files, if it is online."""
        attempt = entry.attempt
        node = self.state.registry.get(attempt.node_id) if attempt else None
        unavailable = attempt is None or node is None or not node.online or attempt.cleanup is Cleanup.REMOVE
        return None if unavailable else node

    async def _ordered_there(self, attempt: Attempt, node: Node, options: list[Option] | None) -> bool:
        """Return True once a node has the order to restart an attempt."""
        if options is not None:
            options = self.callbacks.options(attempt.task, options, attempt.number)
        try:
            if attempt.cleanup is Cleanup.CANCEL:  # still pending: carried out later, it would end the new run
                await self.client.cancel(node.address, attempt.node_uuid)
            await self.client.restart(node.address, attempt.node_uuid, options)
        except NodeForgot:
            return False
        except NodeError as error:
            return await self._runs_there(attempt, error)
        return True

    async def _runs_there(self, attempt: Attempt, error: NodeError) -> bool:
        """Return True if a refused restart was already carried out by an earlier request."""
        node = self.state.registry.get(attempt.node_id)
        if node is None or not isinstance(error, NodeRefused):
            return False
        try:
            snapshot = await self.client.task(node.address, attempt.node_uuid)
        except NodeError:
            return False
        return snapshot.status.code in (QUEUED_CODE, RUNNING_CODE)

    async def _now_running(self, entry: Entry, before: Attempt, changes: TaskChanges) -> None:
        attempt = msgspec.structs.replace(
            before,
            stage=Stage.RUNNING,
            started_at=max(self.clock(), entry.task.committed_at),
            ended_at=0.0,
            reason="",
            console_start=await self.files.consoles.count(entry.task.uuid),
            cleanup=Cleanup.NONE,
        )
        text = f"restarted on {attempt.node_name}"
        changes = changes | {"node_code": QUEUED_CODE}  # other tasks may have its slot
        await self.state.tasks.advance(entry, Phase.RUNNING, text, attempt=attempt, **changes)

    def _ended_attempt(self, entry: Entry, cleanup: Cleanup) -> Attempt | None:
        """Return the ended attempt with its cleanup; None if nothing is to be done on a node."""
        attempt = entry.attempt
        if attempt is None or (attempt.stage is Stage.ENDED and attempt.cleanup is Cleanup.REMOVE):
            return None
        if attempt.stage in (Stage.PREFETCHING, Stage.SENDING):
            cleanup = Cleanup.REMOVE
        elif cleanup is Cleanup.CANCEL and entry.task.phase not in ON_NODE:
            return None
        return attempt.ended(self.clock(), BY_OWNER, cleanup)


def _require_finished(entry: Entry) -> None:
    """Raise StaleTask if a task was restarted or removed meanwhile."""
    if entry.task.phase is not Phase.FINISHED:
        raise StaleTask(f"task {entry.task.uuid} is {entry.task.phase}")
