# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses that owners gave us to call: never those that only we can reach, unless the operator allows it.

A name is looked up once, and the connection goes to the very address that was checked; redirects are checked like first
addresses.
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

#: IPv6 addresses with an IPv4 address at their end.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NO_URL = "is not an http or https URL"
_PRIVATE = "leads to a private address, which is not allowed here"


def is_web_url(url: str) -> bool:
    """Whether `url` can be called at all."""
    try:
        as_written(url)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody could reach. Raises ValueError for what is no IP address."""
    ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or inside or ip
    return ip.is_global and not ip.is_multicast


class _PublicResolver(AbstractResolver):
    """Resolves names, and refuses addresses that are not public."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Public addresses of `host`."""
        found = await self._resolver.resolve(host, port, family)
        public = [entry for entry in found if is_public(entry["host"])]
        if not public:
            raise FetchFailed(_PRIVATE, final=True)
        return public

    async def close(self) -> None:
        """Nothing to close."""


def failed(error: Exception) -> FetchFailed:
    """What a call that went wrong means. Its text has no URL: that may hold a secret."""
    if isinstance(error, aiohttp.InvalidURL):
        return FetchFailed(_NO_URL, final=True)
    return FetchFailed(f"cannot be reached ({describe(error)})", final=False)


class EgressPolicy:
    """What calls to such addresses go through."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        """A session for calls; each must say `allow_redirects=False`."""
        connector = aiohttp.TCPConnector(resolver=None if self._allow_private else _PublicResolver())
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": PROGRAM},
        )

    def check(self, url: str) -> URL:
        """What is to be called for an address: read once, so that what is checked is what is called. Raises FetchFailed
        for one that may not be called; one given by name is looked at when it is looked up."""
        try:
            wanted = as_written(url)
        except ValueError:
            raise FetchFailed(_NO_URL, final=True) from None
        try:
            public = is_public(wanted.host or "")
        except ValueError:
            return wanted
        if not public and not self._allow_private:
            raise FetchFailed(_PRIVATE, final=True)
        return wanted
