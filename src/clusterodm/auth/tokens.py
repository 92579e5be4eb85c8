# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tokens of several owners in a TOML file that is reread when it changes.

[alice]
token = "..."                       # or token_sha256 = "64 hex digits"
limits.maxImages = 500
limits.maxConcurrentTasks = 2
limits.options.pc-quality = {domain = ["low", "medium"], value = "medium"}
priority = 5
share = 2.0
"""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from clusterodm.auth.base import Authenticator, Grant, digest_of
from clusterodm.core.errors import ConfigError
from clusterodm.core.limits import Limits
from clusterodm.core.tasks import OWNER_MARK
from clusterodm.plugins import PluginContext
from clusterodm.settings import Settings

_log = structlog.get_logger("tokens")

#: Seconds between two checks for changes of the file.
_CHECK_INTERVAL: Final = 1.0


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One owner in the file."""

    token: Annotated[str, msgspec.Meta(min_length=8)] = ""
    token_sha256: Annotated[str, msgspec.Meta(pattern="^([0-9a-fA-F]{64})?$")] = ""
    limits: Limits = Limits()
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    share: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0


def read_tokens(content: bytes) -> dict[str, Grant]:
    """Return grants by the SHA-256 of their token. Raise ConfigError, whose text contains no token."""
    try:
        entries = msgspec.convert(tomllib.loads(content.decode()), dict[str, _Entry])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError("not valid TOML") from None
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    grants: dict[str, Grant] = {}
    for owner, entry in entries.items():
        if OWNER_MARK in owner:
            raise ConfigError(f"the name of an owner may not contain {OWNER_MARK}: [{owner}]")
        if bool(entry.token) == bool(entry.token_sha256):
            raise ConfigError(f"[{owner}] needs either token or token_sha256")
        digest = entry.token_sha256.lower() or digest_of(entry.token)
        if digest in grants:
            raise ConfigError(f"[{owner}] has the same token as [{grants[digest].owner}]")
        grants[digest] = Grant(owner=owner, limits=entry.limits, priority=entry.priority, share=entry.share)
    return grants


class TokensAuthenticator(Authenticator):
    """Looks tokens up by their hash, so that the time of a comparison reveals nothing about them."""

    def __init__(self, settings: Settings, context: PluginContext) -> None:
        if settings.tokens_file is None:
            raise ConfigError("--cloud-provider tokens needs --tokens-file")
        self._file: Path = settings.tokens_file
        self._clock = context.clock
        #: When the file was last checked, by the monotonic clock.
        self._checked_at = float("-inf")
        try:
            self._grants = read_tokens(self._file.read_bytes())
        except OSError as error:
            raise ConfigError(f"the tokens file {self._file} cannot be read: {error.strerror}") from None
        except ConfigError as error:
            raise ConfigError(f"the tokens file {self._file}: {error}") from None
        self._state = self._stat()

    async def grant(self, token: str) -> Grant | None:
        """Return the grant of a token in the current file."""
        await self._refresh()
        return self._grants.get(digest_of(token)) if token else None

    def cached(self, token: str) -> Grant | None:
        """Return the grant if the file was checked within the last second."""
        return self._grants.get(digest_of(token)) if token and self._fresh else None

    def imported_owner(self, token: str) -> str | None:
        """Return the owner whom the file lists with the token."""
        grant = self._grants.get(digest_of(token)) if token else None
        return grant.owner if grant else None

    async def forget(self, owner: str) -> None:
        """Check the file with the next request."""
        self._checked_at = float("-inf")

    @property
    def _fresh(self) -> bool:
        return self._clock.steady() - self._checked_at < _CHECK_INTERVAL

    def _stat(self) -> tuple[int, int]:
        stat = self._file.stat()
        return stat.st_mtime_ns, stat.st_size

    async def _refresh(self) -> None:
        """Reread the file if it has changed."""
        if self._fresh:
            return
        self._checked_at = self._clock.steady()
        try:
            changed = self._stat() != self._state
        except OSError:
            changed = True
        if changed:
            await self.reload()

    async def reload(self) -> None:
        """Reread the file; keep the current tokens if it is not usable."""
        try:
            self._state = self._stat()
            self._grants = read_tokens(await asyncio.to_thread(self._file.read_bytes))
        except (OSError, ConfigError) as error:
            _log.error("tokens file is not usable, keeping the current tokens", error=str(error))
        else:
            _log.info("tokens file loaded", owners=len(self._grants))
