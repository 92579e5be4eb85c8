# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of an authenticator: who owns a token, and what the owner may do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import msgspec

from clusterodm.core.errors import BadRequest
from clusterodm.core.limits import Limits
from clusterodm.plugins import FIRST_VERSION

#: Version of this contract: a new minor version adds, a new major version breaks.
API_VERSION: Final = "1.0"
#: Owner of all tasks where all clients share one token, or none is required.
SHARED_OWNER: Final = "local"


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid token entitles to."""

    owner: str
    limits: Limits = Limits()
    #: Priority of the owner's tasks; higher goes first.
    priority: int = 0
    #: Weight in fair sharing against owners of the same priority.
    share: float = 1.0
    #: The cluster's own: the split-merge job that the token was issued to, and its attempt. Leave them empty.
    job: str = ""
    job_attempt: int = 0


class AuthInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `/auth/info`."""

    message: str
    login_url: str | None = None
    register_url: str | None = None


class Authenticator(ABC):
    """Decides about tokens. Only `grant` is required; everything else has a default.

    `grant`, `login`, `approve` and `finished` raise ServiceDown while they cannot decide, and the client is asked to
    retry. The constructor takes the cluster's Settings and a PluginContext, and raises ConfigError.
    """

    #: Version of the contract that the class was written for.
    api_version: ClassVar[str] = FIRST_VERSION
    #: True if `approve` and `finished` do something.
    billing: bool = False

    @property
    def open(self) -> bool:
        """True if no token is required."""
        return False

    @property
    def info(self) -> AuthInfo:
        """What clients are told about how to get a token."""
        return AuthInfo("This cluster needs a token. Ask its operator for one.")

    @abstractmethod
    async def grant(self, token: str) -> Grant | None:
        """Return the grant of `token` (empty if the client sent none); None if it is not valid."""

    def cached(self, token: str) -> Grant | None:
        """Return the grant of a token from memory; None if only `grant` can tell. Called for every request."""
        return None

    def imported_owner(self, token: str) -> str | None:
        """Return the owner of tasks that were created with `token` (empty if without one) before this cluster managed
        them; None if that is unknown until a client presents the token."""
        return None

    def owner_of(self, token: str) -> str:
        """Return the owner to pass to `forget` for a token that is not valid now; empty if it is not cached."""
        return ""

    async def forget(self, owner: str) -> None:  # noqa: B027 - optional
        """Drop what is cached about the tokens of `owner`, so that the next request looks them up again."""

    async def reload(self) -> None:  # noqa: B027 - optional
        """Reread configuration files, and log the outcome."""

    async def login(self, fields: dict[str, str]) -> str | None:
        """Return a token for a user name and password; None if they are wrong. Raise BadRequest if logging in is not
        supported."""
        raise BadRequest("Not available")

    async def approve(self, owner: str, images: int) -> str:
        """Return why `owner` may not have a task of so many images, worded for the owner; empty if the task is
        approved. Called once per task, before it goes to a node."""
        return ""

    async def finished(self, owner: str, info: dict[str, Any]) -> None:  # noqa: B027 - optional
        """Record that a task of `owner` has ended; `info` is the body of `/task/<uuid>/info`. Repeated until it
        returns."""


def digest_of(token: str) -> str:
    """Return the hash under which a token is stored where it only has to be compared."""
    return hashlib.sha256(token.encode()).hexdigest()
