# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Access to the admin port, and the headers that restrict browsers."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from clusterodm.aio import Clock
from clusterodm.core.errors import ConfigError
from clusterodm.core.forwarding import KNOWN
from clusterodm.core.names import printable
from clusterodm.http.forwarded import Proxies
from clusterodm.http.logins import Logins, TooManyGuesses
from clusterodm.settings import Settings

#: The one user of the admin port, as in the original.
USER: Final = "admin"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_OPEN: Final = ("/healthz", "/readyz")
_LEASES: Final = "/api/v1/leases"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def same(secret: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(secret.encode(), expected.encode())


class Guard:
    """Admits or refuses each request. Raises ConfigError for a port that others reach without a password."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._password = settings.admin_pass.get_secret_value()
        self._lease_token = settings.lease_token.get_secret_value()
        self._logins = Logins(clock.steady)
        self._proxies = Proxies(settings.trusted_proxies, settings.proxy_headers)
        if not self._password and not _is_loopback(settings.admin_host):
            raise ConfigError(
                f"--admin-host {settings.admin_host} can be reached from other machines: --admin-pass is needed, or "
                "--admin-pass-file"
            )

    async def refuse(self, request: web.Request) -> web.Response | None:
        """Return the response to a request that is refused; None if it is admitted."""
        if request.path in _OPEN:
            return None
        if not self._password and (why := _not_local(request)):
            return _error(403, f"without --admin-pass this port answers only to localhost, {why}")
        if request.method not in _SAFE and (why := self._foreign(request)):
            return _error(403, f"this request comes from a page of another origin: {why}")
        return await self._judge(request)

    def client(self, request: web.Request) -> str:
        """Return the address that guesses are counted by."""
        return self._proxies.client(request)

    async def _judge(self, request: web.Request) -> web.Response | None:
        """Check credentials; requests without any are not delayed."""
        if not request.headers.get("Authorization"):
            return None if self._may_enter(request) else _unauthorized()

        async def attempt() -> bool:
            return self._may_enter(request)

        try:
            return None if await self._logins.check(self.client(request), attempt) else _unauthorized()
        except TooManyGuesses as error:
            return _too_many(error)

    def _foreign(self, request: web.Request) -> str:
        """Return why a request that changes something may come from a page of another origin; empty if it does not."""
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none"):
            return f"the browser says {printable(site)[:20]}"
        origin, host = request.headers.get("Origin"), self._proxies.origin(request).host
        if origin is None or urlsplit(origin).netloc == host:
            return ""
        return (
            f"that page is at {printable(origin)[:200]}, but this port was called {printable(host)[:200]}. If both are "
            "the same behind a proxy, let it pass the Host header on (nginx: proxy_set_header Host $http_host;)"
        )

    def _may_enter(self, request: web.Request) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._lease_token and request.path.startswith(_LEASES):
            return same(value.strip(), self._lease_token)
        if not self._password:
            return True
        try:
            user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return False
        return scheme.lower() == "basic" and same(password, self._password) and same(user, USER)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _unauthorized() -> web.Response:
    response = _error(401, "the password of admin is needed")
    response.headers["WWW-Authenticate"] = 'Basic realm="ClusterODM", charset="UTF-8"'
    return response


def _too_many(error: TooManyGuesses) -> web.Response:
    response = _error(429, str(error))
    response.headers["Retry-After"] = str(error.seconds)
    return response


def _not_local(request: web.Request) -> str:
    """Return why a request does not come from this machine; empty if it seems to."""
    if passed := [name for name in KNOWN if name in request.headers]:
        return f"and not through a proxy ({passed[0]})"
    if not _is_local_name(request.host):
        return f"not as {printable(request.host)[:200]}"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local_name(host: str) -> bool:
    """Return True if a Host header is an address or localhost, so that it is no other name that was made to resolve to
    this machine (DNS rebinding)."""
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
