# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Lightning service: it validates tokens, approves tasks, and is notified when they have ended.

A validation is cached for a quarter of an hour. While the service does not respond, the last one stays in effect, also
after a restart: known owners are stored in the data folder together with their tokens, which the service requires
again when a task has ended.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import structlog

from clusterodm.aio import Clock, KeyedLock, chance
from clusterodm.auth.base import Authenticator, AuthInfo, Grant, digest_of
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ConfigError, ServiceDown
from clusterodm.core.limits import Limits
from clusterodm.http.reasons import describe
from clusterodm.plugins import PluginContext
from clusterodm.settings import Settings

T = TypeVar("T")

_log = structlog.get_logger("lightning")

#: Seconds for which a validation is cached.
_FRESH: Final = 900.0
#: Seconds until a token that was invalid, or could not be validated, is validated again.
_RETRY_AFTER: Final = 30.0
#: Seconds in which only the first `forget` of an owner takes effect at once.
_FORGET_INTERVAL: Final = 3.0
#: Tries to validate an unknown token, and the delays between them.
_TRIES: Final = 10
_BACKOFF: Final = Backoff(first=0.1, longest=3.0)
#: Seconds for one call.
_TIMEOUT: Final = 10.0
#: Concurrent validations.
_CONCURRENCY: Final = 50
_MAX_RESPONSE: Final = 1 << 20
#: Tokens in memory, valid or not, and seconds after which an owner who has not returned is deleted from disk.
_MAX_TOKENS: Final = 10_000
_EXPIRES_AFTER: Final = 180 * 86400.0


class _Owner(msgspec.Struct, frozen=True):
    """The last validation of a token; `checked_at` in seconds since the epoch."""

    token: str
    limits: Limits
    checked_at: float

    def is_fresh(self, now: float) -> bool:
        """True while the validation may be used without asking again."""
        return 0 <= now - self.checked_at < _FRESH


class _Validity(msgspec.Struct, frozen=True):
    valid: bool
    limits: Limits | None = None


class _Approval(msgspec.Struct, frozen=True):
    approved: bool
    error: str | None = None


class _Login(msgspec.Struct, frozen=True):
    token: str | None = None


class LightningAuthenticator(Authenticator):
    """Delegates to the service at `--lightning-url`."""

    billing = True

    def __init__(self, settings: Settings, context: PluginContext) -> None:
        self._url = settings.lightning_url
        self._session = context.session
        self._clock: Clock = context.clock
        self._folder = settings.data_dir / "owners"
        self._owners: OrderedDict[str, _Owner] = OrderedDict()
        #: When a token may be validated again, by the monotonic clock.
        self._not_before: OrderedDict[str, float] = OrderedDict()
        #: When `forget` last took effect at once, by the monotonic clock.
        self._forgotten: OrderedDict[str, float] = OrderedDict()
        self._validating: KeyedLock[str] = KeyedLock()
        self._turns = asyncio.Semaphore(_CONCURRENCY)
        self._delete_expired()

    @property
    def info(self) -> AuthInfo:
        """Return where to get a token."""
        return AuthInfo("Log in to get a token.", login_url=f"{self._url}/auth/getToken")

    async def grant(self, token: str) -> Grant | None:
        """Return the cached grant, or ask the service."""
        if not token:
            return None
        owner = _owner_of(token)
        record = self._owners.get(owner)
        if record is None or not self._is_fresh(record):
            async with self._validating.hold(owner):
                record = await self._refresh(owner, token)
        return Grant(owner=owner, limits=record.limits) if record else None

    def cached(self, token: str) -> Grant | None:
        """Return the cached grant."""
        owner = _owner_of(token)
        record = self._owners.get(owner)
        return (
            Grant(owner=owner, limits=record.limits)
            if token and record is not None and self._is_fresh(record)
            else None
        )

    def owner_of(self, token: str) -> str:
        """Return the owner also of a token that was invalid at the last validation."""
        return _owner_of(token) if token else ""

    async def forget(self, owner: str) -> None:
        """Expire the cached validation, which stays only as the fallback for an outage. The next validation happens at
        once, or soon after the last one: frequent calls must not keep the service busy."""
        record = self._owners.get(owner) or await asyncio.to_thread(self._read, owner)
        if record is not None and record.checked_at:
            stale = msgspec.structs.replace(record, checked_at=0.0)
            await asyncio.to_thread(self._write, owner, stale)
            self._remember(owner, stale)
        now = self._clock.steady()
        if now >= (soon := self._forgotten.get(owner, -_FORGET_INTERVAL) + _FORGET_INTERVAL):
            self._not_before.pop(owner, None)
            _keep(self._forgotten, owner, now)
        else:
            _keep(self._not_before, owner, soon)

    async def login(self, fields: dict[str, str]) -> str | None:
        """Exchange a user name and password for a token."""
        form = {name: fields.get(name, "") for name in ("username", "password")}
        return (await self._call("/auth/getToken", _Login, data=form)).token or None

    async def approve(self, owner: str, images: int) -> str:
        """Ask the service to approve a task of so many images."""
        body = {"token": await self._token(owner), "imagesCount": images}
        approval = await self._call("/tasks/approve", _Approval, json=body)
        return "" if approval.approved else approval.error or "This task was not approved"

    async def finished(self, owner: str, info: dict[str, Any]) -> None:
        """Report a task that has ended."""
        body = {"token": await self._token(owner), "taskInfo": msgspec.json.encode(info).decode()}
        await self._call("/tasks/finished", dict[str, Any], json=body)

    async def _refresh(self, owner: str, token: str) -> _Owner | None:
        record = self._owners.get(owner) or await asyncio.to_thread(self._read, owner)
        if record is not None and self._is_fresh(record):
            return self._remember(owner, record)
        if self._clock.steady() < self._not_before.get(owner, 0.0):
            return record
        try:
            async with self._turns:
                validity = await self._validate(token, tries=_TRIES if record is None else 1)
        except ServiceDown as error:
            if record is None:
                raise
            _log.warning("service does not respond, keeping the last validation of a token", error=str(error))
            self._pause(owner)
            return record
        if not validity.valid:
            self._owners.pop(owner, None)
            await asyncio.to_thread((self._folder / owner).unlink, missing_ok=True)
            self._pause(owner)
            return None
        record = _Owner(token, validity.limits or Limits(), self._clock())
        await asyncio.to_thread(self._write, owner, record)
        return self._remember(owner, record)

    async def _validate(self, token: str, *, tries: int) -> _Validity:
        for count in range(1, tries):
            try:
                return await self._call("/tokens/validate", _Validity, json={"token": token})
            except ServiceDown:
                await asyncio.sleep(_BACKOFF.wait(count, chance()))
        return await self._call("/tokens/validate", _Validity, json={"token": token})

    async def _call(self, path: str, kind: type[T], **body: Any) -> T:
        """POST and return the decoded JSON. Raise ServiceDown for anything but status 200 with JSON of that kind."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        try:
            async with self._session.post(self._url + path, timeout=timeout, allow_redirects=False, **body) as response:
                if response.status != 200:
                    raise ServiceDown(f"the token service responds with HTTP status {response.status}")
                content = await response.content.read(_MAX_RESPONSE)
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            raise ServiceDown("the token service gives no valid response") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceDown(f"the token service does not respond ({describe(error)})") from None

    def _is_fresh(self, record: _Owner) -> bool:
        return record.is_fresh(self._clock())

    def _remember(self, owner: str, record: _Owner) -> _Owner:
        _keep(self._owners, owner, record)
        return record

    def _pause(self, owner: str) -> None:
        _keep(self._not_before, owner, self._clock.steady() + _RETRY_AFTER)

    async def _token(self, owner: str) -> str:
        record = self._owners.get(owner) or await asyncio.to_thread(self._read, owner)
        if record is None:
            raise ServiceDown("the owner's token is no longer known")
        return record.token

    def _read(self, owner: str) -> _Owner | None:
        try:
            return msgspec.json.decode((self._folder / owner).read_bytes(), type=_Owner)
        except (OSError, msgspec.DecodeError):
            return None

    def _write(self, owner: str, record: _Owner) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f".{owner}"
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(file, "wb") as stream:
            stream.write(msgspec.json.encode(record))
        part.replace(self._folder / owner)

    def _delete_expired(self) -> None:
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if self._clock() - path.stat().st_mtime > _EXPIRES_AFTER:
                path.unlink(missing_ok=True)


class LightningDevAuthenticator(LightningAuthenticator):
    """The same protocol with a service of the operator's own."""

    def __init__(self, settings: Settings, context: PluginContext) -> None:
        if "lightning_url" not in settings.model_fields_set:
            raise ConfigError("--cloud-provider lightningdev needs --lightning-url")
        super().__init__(settings, context)


def _keep(where: OrderedDict[str, T], owner: str, value: T) -> None:
    """Cache a value, evicting the oldest one."""
    where[owner] = value
    where.move_to_end(owner)
    while len(where) > _MAX_TOKENS:
        where.popitem(last=False)


def _owner_of(token: str) -> str:
    """Return the name of a token's owner: stable, and without a way back to the token."""
    return digest_of(token)[:20]
