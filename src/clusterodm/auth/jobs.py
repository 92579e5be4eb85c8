# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the cluster gives to nodes: tokens for split-merge jobs, each good for the submodels of one attempt of one task,
and keys with which a node says that something happened to a task.

A token is the task's id, the number of the attempt and a keyed hash of both, so nothing needs to be stored, and the
owner's own token never reaches a node.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, NamedTuple

from clusterodm.core.tasks import OWNER_MARK

_PREFIX: Final = "job."


class Job(NamedTuple):
    """An attempt of a split-merge job."""

    task: str
    #: 0: whichever attempt runs, as tokens of earlier versions have it.
    attempt: int


class JobTokens:
    """Makes and checks them with the cluster's own key."""

    def __init__(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    @staticmethod
    def new_key() -> str:
        """A key, to be kept."""
        return secrets.token_hex(32)

    def token(self, task: str, attempt: int) -> str:
        """Return the token for the submodels of an attempt of a task."""
        job = f"{task}.{attempt}"
        return f"{_PREFIX}{job}.{self._sign(job)}"

    def job(self, token: str) -> Job | None:
        """Return the job that a token was made for; None if it is no such token, or another cluster's."""
        job, _, signature = token.removeprefix(_PREFIX).rpartition(".")
        fits = hmac.compare_digest(signature.encode(), self._sign(job).encode())
        if not (token.startswith(_PREFIX) and job and fits):
            return None
        task, dot, attempt = job.partition(".")
        return Job(task, int(attempt) if dot else 0)

    def callback_key(self, task: str) -> str:
        """What the node that has a task must show when it says that something happened to it."""
        return self._sign(f"callback {task}")

    def is_callback_key(self, task: str, key: str) -> bool:
        """Whether `key` is that for `task`."""
        return hmac.compare_digest(key.encode(), self.callback_key(task).encode())

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:40]


def submodel_owner(owner: str, task: str) -> str:
    """Whom the submodels of a task belong to: its owner, but apart from all else that owner has."""
    return f"{owner}{OWNER_MARK}{task}"
