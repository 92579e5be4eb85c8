# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Lightning service: it knows tokens and their limits, approves tasks, and is told when they are over.

It is asked about a token every quarter of an hour. While it does not answer, what it said last goes on, also after a
restart: the owners that it knows are kept in the data folder, with their tokens, which it wants to hear again when a
task is over.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import structlog

from clusterodm.aio import KeyedLock, chance
from clusterodm.auth.base import Authenticator, AuthInfo, Grant, digest_of
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ConfigError, ServiceDown
from clusterodm.core.limits import Limits
from clusterodm.http.reasons import describe
from clusterodm.settings import Settings

T = TypeVar("T")

_log = structlog.get_logger("lightning")

#: Seconds for which an answer about a token counts.
_FRESH: Final = 900.0
#: Seconds until the service is asked again about a token that it does not know, or after it did not answer.
_AGAIN: Final = 30.0
#: Seconds in which only the first order to forget a token has the service asked at once.
_BETWEEN: Final = 3.0
#: Tries to ask about a token that we know nothing of, and seconds before each but the first.
_TRIES: Final = 10
_BACKOFF: Final = Backoff(first=0.1, longest=3.0)
#: Seconds that one call may take.
_TIMEOUT: Final = 10.0
#: Tokens that are asked about at the same time; more wait.
_AT_A_TIME: Final = 50
_MAX_ANSWER: Final = 1 << 20
#: Tokens that are kept in mind, good or bad, and seconds after which an owner who did not come back is forgotten.
_MAX_TOKENS: Final = 10_000
_FORGOTTEN: Final = 180 * 86400.0


class _Owner(msgspec.Struct, frozen=True):
    """A token as the service knew it last; seconds since the epoch."""

    token: str
    limits: Limits
    checked_at: float

    @property
    def fresh(self) -> bool:
        """Whether that still counts."""
        return 0 <= time.time() - self.checked_at < _FRESH


class _Validity(msgspec.Struct, frozen=True):
    valid: bool
    limits: Limits | None = None


class _Approval(msgspec.Struct, frozen=True):
    approved: bool
    error: str | None = None


class _Login(msgspec.Struct, frozen=True):
    token: str | None = None


class LightningAuthenticator(Authenticator):
    """Asks the service at `--lightning-url`."""

    accounts = True

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._url = settings.lightning_url
        self._session = session
        self._folder = settings.data_dir / "owners"
        self._known: OrderedDict[str, _Owner] = OrderedDict()
        #: When (by a clock that nobody sets) the service may be asked again about a token.
        self._not_before: OrderedDict[str, float] = OrderedDict()
        #: When it was last to be asked again at once, because a token was to be forgotten.
        self._forgotten: OrderedDict[str, float] = OrderedDict()
        self._asking: KeyedLock[str] = KeyedLock()
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._forget_old()

    @property
    def info(self) -> AuthInfo:
        """Where tokens are had."""
        return AuthInfo("Log in to get a token.", login_url=f"{self._url}/auth/getToken")

    async def grant(self, token: str) -> Grant | None:
        """What the service said of a token lately, or says now."""
        if not token:
            return None
        owner = _owner_of(token)
        known = self._known.get(owner)
        if known is None or not known.fresh:
            async with self._asking.hold(owner):
                known = await self._look(owner, token)
        return Grant(owner=owner, limits=known.limits) if known else None

    def known(self, token: str) -> Grant | None:
        """What the service said lately."""
        owner = _owner_of(token)
        known = self._known.get(owner)
        return Grant(owner=owner, limits=known.limits) if token and known is not None and known.fresh else None

    def owner_of(self, token: str) -> str:
        """Also of a token that was not valid when the service was last asked."""
        return _owner_of(token) if token else ""

    async def forget(self, owner: str) -> None:
        """Have what the service said of a token count no more, but for the case that it does not answer. It is asked
        at once, or soon after the last time: whoever calls this again and again must not keep it busy."""
        known = self._known.get(owner) or await asyncio.to_thread(self._read, owner)
        if known is not None and known.checked_at:
            stale = msgspec.structs.replace(known, checked_at=0.0)
            await asyncio.to_thread(self._write, owner, stale)
            self._remember(owner, stale)
        now = time.monotonic()
        if now >= (soon := self._forgotten.get(owner, -_BETWEEN) + _BETWEEN):
            self._not_before.pop(owner, None)
            _keep(self._forgotten, owner, now)
        else:
            _keep(self._not_before, owner, soon)

    async def login(self, fields: dict[str, str]) -> str | None:
        """Have the service look at a user name and password."""
        form = {name: fields.get(name, "") for name in ("username", "password")}
        return (await self._ask("/auth/getToken", _Login, data=form)).token or None

    async def approve(self, owner: str, images: int) -> str:
        """Ask whether a task of so many images may be."""
        body = {"token": await self._token(owner), "imagesCount": images}
        answer = await self._ask("/tasks/approve", _Approval, json=body)
        return "" if answer.approved else answer.error or "This task was not approved"

    async def finished(self, owner: str, info: dict[str, Any]) -> None:
        """Tell the service of a task that is over."""
        body = {"token": await self._token(owner), "taskInfo": msgspec.json.encode(info).decode()}
        await self._ask("/tasks/finished", dict[str, Any], json=body)

    async def _look(self, owner: str, token: str) -> _Owner | None:
        known = self._known.get(owner) or await asyncio.to_thread(self._read, owner)
        if known is not None and known.fresh:
            return self._remember(owner, known)
        if time.monotonic() < self._not_before.get(owner, 0.0):
            return known
        try:
            async with self._turns:
                answer = await self._validate(token, tries=_TRIES if known is None else 1)
        except ServiceDown as error:
            if known is None:
                raise
            _log.warning("a token that was valid goes on while the service does not answer", error=str(error))
            self._wait(owner)
            return known
        if not answer.valid:
            self._known.pop(owner, None)
            await asyncio.to_thread((self._folder / owner).unlink, missing_ok=True)
            self._wait(owner)
            return None
        now = _Owner(token, answer.limits or Limits(), time.time())
        await asyncio.to_thread(self._write, owner, now)
        return self._remember(owner, now)

    async def _validate(self, token: str, *, tries: int) -> _Validity:
        for count in range(1, tries):
            try:
                return await self._ask("/tokens/validate", _Validity, json={"token": token})
            except ServiceDown:
                await asyncio.sleep(_BACKOFF.wait(count, chance()))
        return await self._ask("/tokens/validate", _Validity, json={"token": token})

    async def _ask(self, path: str, kind: type[T], **body: Any) -> T:
        """A POST and its JSON answer. Raises ServiceDown for anything else."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        try:
            async with self._session.post(self._url + path, timeout=timeout, allow_redirects=False, **body) as response:
                if response.status != 200:
                    raise ServiceDown(f"the service that knows the tokens answers with HTTP status {response.status}")
                content = await response.content.read(_MAX_ANSWER)
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            raise ServiceDown("the service that knows the tokens gives an answer that is none") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceDown(f"the service that knows the tokens does not answer ({describe(error)})") from None

    def _remember(self, owner: str, known: _Owner) -> _Owner:
        _keep(self._known, owner, known)
        return known

    def _wait(self, owner: str) -> None:
        _keep(self._not_before, owner, time.monotonic() + _AGAIN)

    async def _token(self, owner: str) -> str:
        known = self._known.get(owner) or await asyncio.to_thread(self._read, owner)
        if known is None:
            raise ServiceDown("the owner's token is no longer known")
        return known.token

    def _read(self, owner: str) -> _Owner | None:
        try:
            return msgspec.json.decode((self._folder / owner).read_bytes(), type=_Owner)
        except (OSError, msgspec.DecodeError):
            return None

    def _write(self, owner: str, known: _Owner) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f".{owner}"
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(file, "wb") as writing:
            writing.write(msgspec.json.encode(known))
        part.replace(self._folder / owner)

    def _forget_old(self) -> None:
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > _FORGOTTEN:
                path.unlink(missing_ok=True)


class LightningDevAuthenticator(LightningAuthenticator):
    """The same protocol, spoken by a service that one runs oneself."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        if "lightning_url" not in settings.model_fields_set:
            raise ConfigError("--cloud-provider lightningdev needs --lightning-url")
        super().__init__(settings, session)


def _keep(where: OrderedDict[str, T], owner: str, value: T) -> None:
    """Keep in mind what is known of a token, in the place of the one that was kept longest."""
    where[owner] = value
    where.move_to_end(owner)
    while len(where) > _MAX_TOKENS:
        where.popitem(last=False)


def _owner_of(token: str) -> str:
    """What a token's owner is called here: the same at every start, and nothing that leads back to the token."""
    return digest_of(token)[:20]
