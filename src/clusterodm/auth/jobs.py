# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Credentials that the cluster issues to nodes: tokens for split-merge jobs, each valid for the submodels of one
attempt of one task, and keys with which a node authenticates callbacks about a task.

A token consists of the task's id, the number of the attempt and a keyed hash of both, so nothing has to be stored, and
the owner's own token never reaches a node.
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
    #: 0: the current attempt, in tokens of earlier versions.
    attempt: int


class JobTokens:
    """Issues and verifies the credentials with the cluster's own key."""

    def __init__(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    @staticmethod
    def new_key() -> str:
        """Return a random key, to be stored."""
        return secrets.token_hex(32)

    def token(self, task: str, attempt: int) -> str:
        """Return the token for the submodels of an attempt of a task."""
        job = f"{task}.{attempt}"
        return f"{_PREFIX}{job}.{self._sign(job)}"

    def job(self, token: str) -> Job | None:
        """Return the job that a token was issued for; None if it is no such token, or another cluster's."""
        job, _, signature = token.removeprefix(_PREFIX).rpartition(".")
        matches = hmac.compare_digest(signature.encode(), self._sign(job).encode())
        if not (token.startswith(_PREFIX) and job and matches):
            return None
        task, dot, attempt = job.partition(".")
        return Job(task, int(attempt) if dot else 0)

    def callback_key(self, task: str) -> str:
        """Return the key that the node of a task must send with its callbacks."""
        return self._sign(f"callback {task}")

    def is_callback_key(self, task: str, key: str) -> bool:
        """True if `key` is the one of `task`."""
        return hmac.compare_digest(key.encode(), self.callback_key(task).encode())

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:40]


def submodel_owner(owner: str, task: str) -> str:
    """Return the owner of the submodels of a task: derived from the task's owner, but separate from the owner's own
    tasks."""
    return f"{owner}{OWNER_MARK}{task}"
