# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to URLs that owners supply: never to private addresses, unless the operator allows it.

A name is resolved once, and the connection goes to the address that was checked; redirects are checked like any URL.
"""

from __future__ import annotations

import ipaddress
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import FetchFailed
from clusterodm.http.reasons import describe
from clusterodm.http.urls import as_written

#: IPv6 addresses that embed an IPv4 address.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NO_URL = "is not an http or https URL"
_PRIVATE = "leads to a private address, which is not allowed here"


def is_web_url(url: str) -> bool:
    """True if `url` is an http or https URL."""
    try:
        as_written(url)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """True if an IP address is globally reachable. Raises ValueError for anything but an IP address."""
    ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or embedded or ip
    return ip.is_global and not ip.is_multicast


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the public addresses of `host`. Raises FetchFailed when it has none."""
        addresses = await self._resolver.resolve(host, port, family)
        public = [entry for entry in addresses if is_public(entry["host"])]
        if not public:
            raise FetchFailed(_PRIVATE, final=True)
        return public

    async def close(self) -> None:
        """Do nothing: it holds no resources."""


def failed(error: Exception) -> FetchFailed:
    """Return the FetchFailed for a failed call. Its text has no URL: that may contain a secret."""
    if isinstance(error, aiohttp.InvalidURL):
        return FetchFailed(_NO_URL, final=True)
    return FetchFailed(f"cannot be reached ({describe(error)})", final=False)


class EgressPolicy:
    """Decides which URLs may be called, and opens the sessions for it."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        """Return a session; each call must pass `allow_redirects=False`."""
        connector = aiohttp.TCPConnector(resolver=None if self._allow_private else _PublicResolver())
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": PROGRAM},
        )

    def check(self, url: str) -> URL:
        """Return the parsed URL to call, so that what is checked is what is called. Raises FetchFailed for one that may
        not be called; a host name is checked when it is resolved."""
        try:
            parsed = as_written(url)
        except ValueError:
            raise FetchFailed(_NO_URL, final=True) from None
        try:
            public = is_public(parsed.host or "")
        except ValueError:
            return parsed
        if not public and not self._allow_private:
            raise FetchFailed(_PRIVATE, final=True)
        return parsed
