# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of an authenticator: who a token belongs to, and what it may do."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from clusterodm.core.errors import BadRequest
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
    #: The split-merge job whose token it is, and its attempt: tasks become submodels of that.
    job: str = ""
    job_attempt: int = 0


class AuthInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `/auth/info`."""

    message: str
    login_url: str | None = None
    register_url: str | None = None


class Authenticator:
    """Decides about tokens. One that only knows which token is whose says `grant`; the rest has answers of its own.

    `grant`, `login` and `approve` may raise ServiceDown when they cannot tell now.
    """

    #: Whether `approve` and `finished` do anything.
    accounts: bool = False

    @property
    def open(self) -> bool:
        """Whether no token is needed at all."""
        return False

    @property
    def info(self) -> AuthInfo:
        """What clients are told about how to get a token."""
        return AuthInfo("This cluster needs a token. Ask its operator for one.")

    async def grant(self, token: str) -> Grant | None:
        """The grant of `token` (empty: none was sent); None when it is not valid."""
        raise NotImplementedError

    def known(self, token: str) -> Grant | None:
        """The grant of a token for which that can be said at once; None when `grant` must be asked."""
        return None

    def imported_owner(self, token: str) -> str | None:
        """Whose the tasks are that were created elsewhere with `token` (empty: without one); None when that cannot be
        said before somebody comes with it."""
        return None

    def owner_of(self, token: str) -> str:
        """What `forget` knows a token by that is not valid now, where that is remembered; else empty."""
        return ""

    async def forget(self, owner: str) -> None:
        """Ask anew at the next request what a token of `owner` may do."""

    async def reload(self) -> None:
        """Read again what was read from files at the start, and log what came of it."""

    async def login(self, fields: dict[str, str]) -> str | None:
        """A token for a user name and password; None when there is none. Raises BadRequest when it is not offered."""
        raise BadRequest("Not available")

    async def approve(self, owner: str, images: int) -> str:
        """Why `owner` may not have a task of so many images, in words for the owner; empty: it may. Asked once for each
        task, before it goes to a node."""
        return ""

    async def finished(self, owner: str, info: dict[str, Any]) -> None:
        """A task of `owner` is over; `info` is the body of its `/task/<uuid>/info`. Called until it returns."""


def digest_of(token: str) -> str:
    """What is kept of a token where it is only compared."""
    return hashlib.sha256(token.encode()).hexdigest()
