# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tokens for split-merge jobs: each is good for the submodels of one task, as long as that task is not over.

A token is the task's id and a keyed hash of it, so nothing needs to be stored, and the owner's own token never reaches
a node.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

_PREFIX: Final = "job."
#: What separates the owner of a job from its id in the owner of submodels; owners have none.
MARK: Final = "#"


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
        if not token.startswith(_PREFIX) or not dot or not hmac.compare_digest(signature, self._sign(task)):
            return None
        return task

    def _sign(self, task: str) -> str:
        return hmac.new(self._key, task.encode(), hashlib.sha256).hexdigest()[:40]


def submodel_owner(owner: str, task: str) -> str:
    """Whom the submodels of a task belong to: its owner, but apart from all else that owner has."""
    return f"{owner}{MARK}{task}"
