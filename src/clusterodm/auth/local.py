# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of an authenticator, and the local one: open to all, or one token for all."""

from __future__ import annotations

import hmac
from typing import Final, Protocol

import msgspec

#: Owner of all tasks while everybody shares one token, or none is needed.
SHARED_OWNER: Final = "local"


class Grant(msgspec.Struct, frozen=True):
    """What a valid token gives."""

    owner: str


class Authenticator(Protocol):
    """Decides about tokens."""

    async def grant(self, token: str) -> Grant | None:
        """The grant of `token` (empty: none was sent); None when it is not valid."""


class LocalAuthenticator:
    """Open when it has no token; any token sent is ignored then, because clients leak those of other nodes."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._grant = Grant(SHARED_OWNER)

    async def grant(self, token: str) -> Grant | None:
        """Compare in constant time."""
        if not self._token or hmac.compare_digest(self._token, token.encode()):
            return self._grant
        return None
