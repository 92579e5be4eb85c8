# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the cluster gives to nodes: tokens for split-merge jobs, each good for the submodels of one task as long as that
task is not over, and keys with which a node says that something happened to a task.

A token is the task's id and a keyed hash of it, so nothing needs to be stored, and the owner's own token never reaches
a node.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from clusterodm.core.tasks import OWNER_MARK

_PREFIX: Final = "job."


class JobTokens:
    """Makes and checks them with the cluster's own key."""

    def __init__(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    @staticmethod
    def new_key() -> str:
        """A key, to be kept."""
        return secrets.token_hex(32)

    def token(self, task: str) -> str:
        """The token for the submodels of a task."""
        return f"{_PREFIX}{task}.{self._sign(task)}"

    def task(self, token: str) -> str | None:
        """The task that a token is for; None when it is no such token, or not ours."""
        task, dot, signature = token.removeprefix(_PREFIX).rpartition(".")
        fits = hmac.compare_digest(signature.encode(), self._sign(task).encode())
        return task if token.startswith(_PREFIX) and dot and fits else None

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
