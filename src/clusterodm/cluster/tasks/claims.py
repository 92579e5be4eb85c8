# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ownership of imported tasks: each goes to the first caller with the token it had in the original, or, if it had none,
to the first who asks for its uuid, as anybody could there."""

from __future__ import annotations

import re
from typing import Final

from clusterodm.auth import Grant
from clusterodm.auth.base import digest_of
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.core.tasks import OWNER_MARK
from clusterodm.store import Store

_PREFIX: Final = f"imported{OWNER_MARK}"
#: Does not match the owner of submodels of an owner with such a name: that ends with a uuid.
_UNCLAIMED: Final = re.compile(rf"{_PREFIX}([0-9a-f]{{20}})?")


def unclaimed_owner(token: str) -> str:
    """Return the placeholder owner of a task until a caller comes with `token`; empty: the task had none."""
    return _PREFIX + (digest_of(token)[:20] if token else "")


class Claims:
    """Hand imported tasks over to their owners."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._waiting: dict[str, set[str]] = {}
        tasks.watch(self._task_changed)

    async def load(self) -> None:
        """Read all unclaimed tasks, finished ones too."""
        for uuid, owner in (await self._store.owned_by(_PREFIX)).items():
            self._note(uuid, owner)

    async def settle(self, grant: Grant, token: str, uuid: str) -> bool:
        """Give a caller all tasks of this token, and the task of this uuid if it had no token; return True for the
        latter."""
        if not self._waiting:
            return False
        for each in list(self._waiting.get(unclaimed_owner(token), ())) if token else ():
            await self._hand_over(each, unclaimed_owner(token), grant)
        if uuid not in self._waiting.get(_PREFIX, ()):
            return False
        await self._hand_over(uuid, _PREFIX, grant)
        return True

    async def _hand_over(self, uuid: str, was: str, grant: Grant) -> None:
        await self._tasks.change_owner(uuid, was, grant.owner)
        self._forget(uuid, was)

    def _task_changed(self, entry: Entry) -> None:
        self._note(entry.task.uuid, entry.task.owner)

    def _note(self, uuid: str, owner: str) -> None:
        if _UNCLAIMED.fullmatch(owner):
            self._waiting.setdefault(owner, set()).add(uuid)

    def _forget(self, uuid: str, owner: str) -> None:
        uuids = self._waiting.get(owner, set())
        uuids.discard(uuid)
        if not uuids:
            self._waiting.pop(owner, None)
