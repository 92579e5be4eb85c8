# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The local authenticator: open to all, or one token for all."""

from __future__ import annotations

import hmac

import aiohttp

from clusterodm.auth.base import SHARED_OWNER, Authenticator, AuthInfo, Grant
from clusterodm.settings import Settings


class LocalAuthenticator(Authenticator):
    """Open when it has no token; any token sent is ignored then, because clients leak those of other nodes."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._token = settings.token.get_secret_value().encode()
        self._grant = Grant(owner=SHARED_OWNER)

    @property
    def open(self) -> bool:
        """Whether there is no token."""
        return not self._token

    @property
    def info(self) -> AuthInfo:
        """As a node says it when it needs none."""
        return AuthInfo("Authentication not available on this node") if self.open else super().info

    def imported_owner(self, token: str) -> str | None:
        """The one owner that there is."""
        return SHARED_OWNER

    async def grant(self, token: str) -> Grant | None:
        """The one grant that there is."""
        return self.known(token)

    def known(self, token: str) -> Grant | None:
        """Compare in constant time."""
        if self.open or hmac.compare_digest(self._token, token.encode()):
            return self._grant
        return None
