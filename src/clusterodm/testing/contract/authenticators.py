# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of an authenticator as tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from clusterodm.aio import Clock
from clusterodm.auth import Authenticator, BadRequest, Grant, ServiceDown, Settings, make_authenticator
from clusterodm.core.tasks import OWNER_MARK

_UUID = "11111111-1111-4111-8111-111111111111"


@dataclass(kw_only=True)
class AuthenticatorBackend:
    """Settings that name an authenticator (`cloud_provider`), and tokens to present to it. A test that needs something
    that is not given is skipped."""

    settings: Settings
    #: A valid token.
    token: str
    #: A valid token of another owner; empty: there is only one owner.
    other_token: str = ""
    invalid_token: str = "no-such-token"  # noqa: S105 - that is what it is
    #: Interrupt the service that the authenticator asks.
    interrupt: Callable[[], None] | None = None
    #: End the interruption.
    recover: Callable[[], None] = lambda: None


class AuthenticatorContract:
    """Subclass it, and override the fixture `backend`. The authenticator is found by its entry point, as in
    production."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def backend(self) -> AuthenticatorBackend:
        """Return the backend of one test."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest_asyncio.fixture
    async def authenticator(self, backend: AuthenticatorBackend) -> AsyncIterator[Authenticator]:
        """Yield the authenticator."""
        async with aiohttp.ClientSession() as session:
            yield make_authenticator(backend.settings, session, Clock())

    async def test_a_valid_token_has_an_owner(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """The owner is the same at every call, and does not reveal the token."""
        grant = await _granted(authenticator, backend.token)
        assert grant.owner
        assert OWNER_MARK not in grant.owner, f"{OWNER_MARK} marks owners of submodels"
        assert not backend.token or backend.token not in grant.owner, "owners are logged"
        assert grant.share > 0
        assert (grant.job, grant.job_attempt) == ("", 0), "jobs are the cluster's own"
        assert (await _granted(authenticator, backend.token)).owner == grant.owner

    async def test_what_is_cached_agrees_with_what_is_granted(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """`cached` may say None at any time, but nothing else."""
        grant = await _granted(authenticator, backend.token)
        assert authenticator.cached(backend.token) in (None, grant)
        assert authenticator.owner_of(backend.token) in ("", grant.owner)
        assert authenticator.imported_owner(backend.token) in (None, grant.owner)

    async def test_invalid_tokens_are_refused(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """So is a client without a token."""
        if authenticator.open:
            pytest.skip("no token is required")
        for token in (backend.invalid_token, ""):
            assert await authenticator.grant(token) is None
            assert authenticator.cached(token) is None

    async def test_two_owners_are_told_apart(self, backend: AuthenticatorBackend, authenticator: Authenticator) -> None:
        """No owner sees the tasks of another one."""
        if not backend.other_token:
            pytest.skip("there is only one owner")
        first = await _granted(authenticator, backend.token)
        assert (await _granted(authenticator, backend.other_token)).owner != first.owner

    async def test_a_valid_token_survives_forget_and_reload(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """Both drop caches, not rights."""
        grant = await _granted(authenticator, backend.token)
        await authenticator.forget(grant.owner)
        assert await authenticator.grant(backend.token) == grant
        await authenticator.reload()
        assert await authenticator.grant(backend.token) == grant

    async def test_clients_are_told_how_to_get_a_token(self, authenticator: Authenticator) -> None:
        """`/auth/info` always has a message."""
        assert authenticator.info.message

    async def test_wrong_credentials_give_no_token(self, authenticator: Authenticator) -> None:
        """Neither does an authenticator that does not support logging in."""
        try:
            token = await authenticator.login({"username": "unknown", "password": "wrong"})
        except BadRequest:
            token = None
        assert token is None

    async def test_a_task_is_approved_and_reported(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """Whatever becomes of it."""
        owner = (await _granted(authenticator, backend.token)).owner
        assert await authenticator.approve(owner, 1) == ""
        await authenticator.finished(owner, {"uuid": _UUID, "status": {"code": 40}, "imagesCount": 1})

    async def test_an_outage_is_not_a_refusal(
        self, backend: AuthenticatorBackend, authenticator: Authenticator
    ) -> None:
        """A client that is refused gives up; ServiceDown makes it retry."""
        if backend.interrupt is None:
            pytest.skip("the backend has no `interrupt`")
        grant = await _granted(authenticator, backend.token)
        backend.interrupt()
        with pytest.raises(ServiceDown):
            await authenticator.grant(backend.other_token or backend.invalid_token)
        await authenticator.forget(grant.owner)
        with suppress(ServiceDown):  # unless it is still cached
            assert await authenticator.grant(backend.token) == grant
        backend.recover()
        assert await authenticator.grant(backend.token) == grant


async def _granted(authenticator: Authenticator, token: str) -> Grant:
    grant = await authenticator.grant(token)
    assert grant is not None, "the token of the backend is valid"
    return grant
