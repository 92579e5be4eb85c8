# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The local authenticator: open to everybody, or one token shared by all clients."""

from __future__ import annotations

import hmac

from clusterodm.auth.base import SHARED_OWNER, Authenticator, AuthInfo, Grant
from clusterodm.plugins import PluginContext
from clusterodm.settings import Settings


class LocalAuthenticator(Authenticator):
    """Open if no token is set. Then any token is ignored, because clients send those of other nodes."""

    def __init__(self, settings: Settings, _: PluginContext) -> None:
        self._token = settings.token.get_secret_value().encode()
        self._grant = Grant(owner=SHARED_OWNER)

    @property
    def open(self) -> bool:
        """True if no token is set."""
        return not self._token

    @property
    def info(self) -> AuthInfo:
        """Return what a node without a token says."""
        return AuthInfo("Authentication not available on this node") if self.open else super().info

    def imported_owner(self, token: str) -> str | None:
        """Return the only owner."""
        return SHARED_OWNER

    async def grant(self, token: str) -> Grant | None:
        """Return the only grant if the token matches."""
        return self.cached(token)

    def cached(self, token: str) -> Grant | None:
        """Compare in constant time."""
        if self.open or hmac.compare_digest(self._token, token.encode()):
            return self._grant
        return None
