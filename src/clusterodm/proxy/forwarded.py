# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What proxies in front of us say of a request: believed only when they are ours.

Each proxy adds to what it got, so what the proxy connected to us added comes last. Going back, the first address
that is none of ours is the client; all before it may be made up.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from aiohttp import web

from clusterodm.core.errors import BadRequest

_HOST: Final = re.compile(r"[A-Za-z0-9._\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


class Proxies:
    """Knows which proxies are ours."""

    def __init__(self, trusted: list[str]) -> None:
        self._networks = [ip_network(text, strict=False) for text in trusted]

    def ours(self, address: str) -> bool:
        """Whether an address is that of a proxy of ours."""
        try:
            ip = ip_address(address.strip('"[]'))
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    def origin(self, request: web.Request) -> str:
        """Scheme and host under which the client reached us. Raises BadRequest for a host that is none."""
        scheme, host = request.scheme, request.host
        if self.ours(request.remote or ""):
            said = self._said(request)
            scheme = said.get("proto", "").lower() if said.get("proto", "").lower() in ("http", "https") else scheme
            host = said.get("host") or host
        if not _HOST.fullmatch(host):
            raise BadRequest("The Host header names no host", no_retry=True)
        return f"{scheme}://{host}"

    def client(self, request: web.Request) -> str:
        """The client's address."""
        peer = request.remote or ""
        if not self.ours(peer):
            return peer
        said = self._said(request).get("for", "")
        return said if _HOST.fullmatch(said) else peer

    def _said(self, request: web.Request) -> dict[str, str]:
        """`for`, `proto` and `host` as the outermost of our proxies has them."""
        if request.forwarded:
            for element in reversed(request.forwarded):
                if not self.ours(element.get("for", "")):
                    return dict(element)
            return dict(request.forwarded[0])
        chain = _list(request, "X-Forwarded-For")
        outer = [address for address in reversed(chain) if not self.ours(address)]
        said = {"for": outer[0] if outer else chain[0] if chain else ""}
        for key, name in (("proto", "X-Forwarded-Proto"), ("host", "X-Forwarded-Host")):
            said[key] = (_list(request, name) or [""])[-1]
        return said


def _list(request: web.Request, name: str) -> list[str]:
    values = request.headers.getall(name, [])
    return [part.strip() for part in ",".join(values).split(",") if part.strip()]
