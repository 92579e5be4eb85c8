# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses of callers, and which of a chain of proxies' claims about them count."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

FORWARDED: Final = "forwarded"
FOR: Final = "x-forwarded-for"
PROTO: Final = "x-forwarded-proto"
HOST: Final = "x-forwarded-host"
#: Headers in which proxies name the client.
KNOWN: Final = (FOR, PROTO, HOST, FORWARDED)

#: An address as proxies write it: bare, IPv4 with a port, or in brackets with or without one.
_HOP: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+)(?::\d{1,5})?|([0-9A-Fa-f:.]+)")
#: Bits of an IPv6 address that tell its network: whoever has one has all addresses in it.
_NETWORK: Final = 64

Address = IPv4Address | IPv6Address


def hop_address(text: str) -> Address | None:
    """Return the IP address of a hop; None for `unknown`, `unix:`, hidden names and whatever else is none."""
    match = _HOP.fullmatch(text.partition("%")[0].strip())
    try:
        address = ip_address(match[1] or match[2] or match[3]) if match else None
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def outermost(peer: str, chain: Sequence[str], is_trusted: Callable[[Address], bool]) -> tuple[str, int]:
    """Return the client's address and how many hops of `chain` (nearest last) were added by trusted proxies.

    Each proxy appends the address that it was called from. Going back from the peer, a hop counts as long as a trusted
    proxy added it; all before the first untrusted one may be made up.
    """
    hop, count = hop_address(peer), 0
    shown = str(hop) if hop is not None else peer
    for text in reversed(chain):
        if hop is None or not is_trusted(hop):
            break
        count += 1
        hop = hop_address(text)
        if hop is None:
            break
        shown = str(hop)
    return shown, count


def network_of(address: str) -> str:
    """Return what one caller can choose its address from: of IPv6, the network; of IPv4, the address itself."""
    ip = hop_address(address)
    return str(ip_network((ip, _NETWORK), strict=False)) if isinstance(ip, IPv6Address) else str(ip or address)
