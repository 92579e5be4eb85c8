# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tokens of several owners in a TOML file, read again when it changes.

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
import time
import tomllib
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import msgspec
import structlog

from clusterodm.auth.base import Authenticator, Grant, digest_of
from clusterodm.core.errors import ConfigError
from clusterodm.core.limits import Limits
from clusterodm.core.tasks import OWNER_MARK
from clusterodm.settings import Settings

_log = structlog.get_logger("tokens")

#: Seconds between two looks whether the file has changed.
_LOOK: Final = 1.0


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One owner of the file."""

    token: Annotated[str, msgspec.Meta(min_length=8)] = ""
    token_sha256: Annotated[str, msgspec.Meta(pattern="^([0-9a-fA-F]{64})?$")] = ""
    limits: Limits = Limits()
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    share: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0


def read_tokens(content: bytes) -> dict[str, Grant]:
    """Grants by the SHA-256 of their token. Raises ConfigError, without a token in its text."""
    try:
        entries = msgspec.convert(tomllib.loads(content.decode()), dict[str, _Entry])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError("it is not TOML") from None
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    found: dict[str, Grant] = {}
    for owner, entry in entries.items():
        if OWNER_MARK in owner:
            raise ConfigError(f"an owner's name has no {OWNER_MARK}: [{owner}]")
        if bool(entry.token) == bool(entry.token_sha256):
            raise ConfigError(f"[{owner}] needs either token or token_sha256")
        digest = entry.token_sha256.lower() or digest_of(entry.token)
        if digest in found:
            raise ConfigError(f"[{owner}] has the token of [{found[digest].owner}]")
        found[digest] = Grant(owner=owner, limits=entry.limits, priority=entry.priority, share=entry.share)
    return found


class TokensAuthenticator(Authenticator):
    """Looks tokens up by their hash, so that a comparison tells nothing about them."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        if settings.tokens_file is None:
            raise ConfigError("--cloud-provider tokens needs --tokens-file")
        self._file: Path = settings.tokens_file
        self._state = (0, 0)
        self._looked_at = 0.0
        try:
            self._grants = read_tokens(self._file.read_bytes())
        except OSError as error:
            raise ConfigError(f"the tokens file {self._file} cannot be read: {error.strerror}") from None
        except ConfigError as error:
            raise ConfigError(f"the tokens file {self._file}: {error}") from None
        self._state = self._now()

    async def grant(self, token: str) -> Grant | None:
        """The grant of a token of the file as it is now."""
        await self._look()
        return self._grants.get(digest_of(token)) if token else None

    def known(self, token: str) -> Grant | None:
        """As long as the file was looked at just now."""
        fresh = time.monotonic() - self._looked_at < _LOOK
        return self._grants.get(digest_of(token)) if token and fresh else None

    def imported_owner(self, token: str) -> str | None:
        """The owner that the file has for it."""
        grant = self._grants.get(digest_of(token)) if token else None
        return grant.owner if grant else None

    async def forget(self, owner: str) -> None:
        """Look at the file with the next request."""
        self._looked_at = 0.0

    def _now(self) -> tuple[int, int]:
        found = self._file.stat()
        return found.st_mtime_ns, found.st_size

    async def _look(self) -> None:
        """Read the file again when it changed."""
        if time.monotonic() - self._looked_at < _LOOK:
            return
        self._looked_at = time.monotonic()
        try:
            changed = self._now() != self._state
        except OSError:
            changed = True
        if changed:
            await self.reload()

    async def reload(self) -> None:
        """Read the file again; one that cannot be used leaves things as they are."""
        try:
            self._state = self._now()
            self._grants = read_tokens(await asyncio.to_thread(self._file.read_bytes))
        except (OSError, ConfigError) as error:
            _log.error("the tokens file cannot be used; the tokens stay as they were", error=str(error))
        else:
            _log.info("the tokens file was read", owners=len(self._grants))
