# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of an authenticator: who a token belongs to, and what it may do."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from clusterodm.core.limits import Limits

#: Owner of all tasks while everybody shares one token, or none is needed.
SHARED_OWNER: Final = "local"


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid token gives."""

    owner: str
    limits: Limits = Limits()
    #: Priority of its tasks: higher goes first.
    priority: int = 0
    #: Its part of the cluster against others of the same priority.
    share: float = 1.0


class AuthInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `/auth/info`."""

    message: str
    login_url: str | None = None
    register_url: str | None = None


class Authenticator(Protocol):
    """Decides about tokens. Methods may raise ClusterError when they cannot decide now."""

    @property
    def open(self) -> bool:
        """Whether no token is needed at all."""

    @property
    def info(self) -> AuthInfo:
        """What clients are told about how to get a token."""

    async def grant(self, token: str) -> Grant | None:
        """The grant of `token` (empty: none was sent); None when it is not valid."""

    async def login(self, fields: dict[str, str]) -> str | None:
        """A token for a user name and password; None when there is none. Raises BadRequest when it is not offered."""


def token_needed() -> AuthInfo:
    """What most authenticators say."""
    return AuthInfo("This cluster needs a token. Ask its operator for one.")
