# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwarding headers of proxies in front of the cluster: believed only of trusted proxies, and only in the headers that
the operator announced, because proxies pass unknown headers on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final, NamedTuple

from aiohttp import web

from clusterodm.core.errors import BadRequest
from clusterodm.core.forwarding import FOR, FORWARDED, HOST, PROTO, Address, outermost

_HOST: Final = re.compile(r"[A-Za-z0-9._\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of RFC 7230
_PAIR: Final = rf'{_TOKEN}=(?:{_TOKEN}|"(?:[^"\\]|\\.)*")'
#: A complete header, so that an unclosed quote of a client cannot swallow what a proxy appends.
_WELL_FORMED: Final = re.compile(rf"\s*{_PAIR}(?:\s*[;,]\s*{_PAIR})*\s*")


class Origin(NamedTuple):
    """The client of a request, and the scheme and host that it was sent to."""

    client: str
    scheme: str
    host: str


class Proxies:
    """The trusted proxies, and their headers."""

    def __init__(self, trusted: Sequence[str], announced: Sequence[str]) -> None:
        self._networks = [ip_network(text, strict=False) for text in trusted]
        self._announced = frozenset(announced)

    def client(self, request: web.Request) -> str:
        """Return the client's address."""
        return self.origin(request).client

    def url(self, request: web.Request) -> str:
        """Return scheme and host under which the client reached the cluster. Raises BadRequest for a malformed host."""
        origin = self.origin(request)
        if not _HOST.fullmatch(origin.host):
            raise BadRequest("The Host header names no host", no_retry=True)
        return f"{origin.scheme}://{origin.host}"

    def origin(self, request: web.Request) -> Origin:
        """Return the origin of a request as far as it is trusted."""
        elements = self._elements(request)
        client, hops = outermost(request.remote or "", [each.get("for", "") for each in elements], self._is_trusted)
        element = elements[-hops] if hops else {}
        scheme = element.get("proto", "").lower()
        scheme = scheme if scheme in ("http", "https") else request.scheme
        return Origin(client, scheme, element.get("host") or request.host)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _elements(self, request: web.Request) -> list[dict[str, str]]:
        """Return the element of each proxy, nearest last."""
        if FORWARDED in self._announced:
            lines = request.headers.getall(FORWARDED, [])
            return [dict(each) for each in request.forwarded] if all(map(_WELL_FORMED.fullmatch, lines)) else []
        columns = {key: self._values(request, name) for key, name in (("for", FOR), ("proto", PROTO), ("host", HOST))}
        # without an address of the client there is only the element of the nearest proxy
        hops = range(max(len(columns["for"]), 1), 0, -1)
        return [{key: _of_hop(values, hop) for key, values in columns.items()} for hop in hops]

    def _values(self, request: web.Request, name: str) -> list[str]:
        lines = request.headers.getall(name, []) if name in self._announced else []
        return [part.strip() for part in ",".join(lines).split(",") if part.strip()]


def _of_hop(values: list[str], hop: int) -> str:
    """Return the value of the `hop`-th proxy, counted from the nearest; that of the farthest one in a list that a proxy
    on the way has overwritten."""
    return values[-min(hop, len(values))] if values else ""
