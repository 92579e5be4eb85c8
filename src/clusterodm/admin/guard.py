# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may come in by the admin port, and what browsers are told about it."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from clusterodm.admin.logins import Logins
from clusterodm.core.errors import ConfigError
from clusterodm.core.forwarding import KNOWN
from clusterodm.core.names import printable
from clusterodm.http.forwarded import Proxies
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


def same(given: str, wanted: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), wanted.encode())


class Guard:
    """Decides about each request."""

    def __init__(self, settings: Settings) -> None:
        self._password = settings.admin_pass.get_secret_value()
        self._lease_token = settings.lease_token.get_secret_value()
        self._logins = Logins()
        self._proxies = Proxies(settings.trusted_proxies, settings.proxy_headers)
        if not self._password and not _is_loopback(settings.admin_host):
            raise ConfigError(
                f"--admin-host {settings.admin_host} can be reached by others: --admin-pass is needed, or "
                "--admin-pass-file"
            )

    async def refuse(self, request: web.Request) -> web.Response | None:
        """The answer to a request that may not come in; None when it may."""
        if request.path in _OPEN:
            return None
        if not self._password and (why := _not_local(request)):
            return _error(403, f"without --admin-pass this port answers only to localhost, {why}")
        if request.method not in _SAFE and (why := self._foreign(request)):
            return _error(403, f"this request comes from a page of another origin: {why}")
        return await self._judge(request)

    def client(self, request: web.Request) -> str:
        """Return the address by whose name passwords are counted."""
        return self._proxies.client(request)

    async def _judge(self, request: web.Request) -> web.Response | None:
        """Look at what a request shows; only who shows something waits."""
        if not request.headers.get("Authorization"):
            return None if self._may_enter(request) else _unauthorized()
        client = self.client(request)
        seconds = self._logins.refused(client)
        if not seconds:
            if self._may_enter(request):
                return None
            seconds = await self._logins.wrong(client)
        return _too_many(seconds) if seconds else _unauthorized()

    def _foreign(self, request: web.Request) -> str:
        """Return why a request that changes something may come from a page that is not ours; empty: it does not."""
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
    answer = _error(401, "the password of admin is needed")
    answer.headers["WWW-Authenticate"] = 'Basic realm="ClusterODM", charset="UTF-8"'
    return answer


def _too_many(seconds: int) -> web.Response:
    answer = _error(429, f"too many wrong passwords came from this address, try again in {seconds} s")
    answer.headers["Retry-After"] = str(seconds)
    return answer


def _not_local(request: web.Request) -> str:
    """Return why a request does not come from this machine; empty: it seems to."""
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
    """Whether a Host header names this machine by an address or as localhost: a page of another name that was made to
    resolve to us does not."""
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
