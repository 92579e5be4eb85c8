# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

from ipaddress import ip_network

import pytest

from clusterodm.core.forwarding import Address, hop_address, network_of, outermost

TRUSTED = [ip_network(text) for text in ("127.0.0.1", "10.0.0.0/8", "fd00::/8")]


def is_trusted(address: Address) -> bool:
    return any(address in network for network in TRUSTED)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        (" 1.2.3.4 ", "1.2.3.4"),
        *((text, "None") for text in ("", "unix:", "unix:/run/x.sock", "unknown", "_hidden", "1.2.3", "1.2.3.4.5")),
        *((text, "None") for text in ("[1.2.3.4", "1.2.3.4:x", "evil.example", "[]", "1:2", "1.2.3.4\n5", "\xb2")),
    ],
)  # fmt: skip
def test_addresses_are_read_in_every_form_that_proxies_write(text: str, address: str) -> None:
    assert str(hop_address(text)) == address


@pytest.mark.parametrize(
    ("peer", "chain", "client", "hops"),
    [
        ("9.9.9.9", ["6.6.6.6"], "9.9.9.9", 0),
        ("127.0.0.1", [], "127.0.0.1", 0),
        ("127.0.0.1", ["1.2.3.4"], "1.2.3.4", 1),
        ("::ffff:127.0.0.1", ["1.2.3.4"], "1.2.3.4", 1),
        ("127.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4", 1),
        ("127.0.0.1", ["6.6.6.6", "1.2.3.4", "10.0.0.7"], "1.2.3.4", 2),
        ("127.0.0.1", ["6.6.6.6", "[2001:db8::1]:5", "[fd00::1]:443"], "2001:db8::1", 2),
        ("127.0.0.1", ["10.0.0.8", "10.0.0.7"], "10.0.0.8", 2),
        ("127.0.0.1", ["6.6.6.6", "unix:"], "127.0.0.1", 1),
        ("127.0.0.1", ["6.6.6.6", "unknown", "10.0.0.7"], "10.0.0.7", 2),
        ("127.0.0.1", ["6.6.6.6", ""], "127.0.0.1", 1),
        ("", ["6.6.6.6"], "", 0),
    ],
)
def test_the_client_is_the_last_address_that_a_trusted_proxy_added(
    peer: str, chain: list[str], client: str, hops: int
) -> None:
    assert outermost(peer, chain, is_trusted) == (client, hops)


def test_of_ipv6_the_network_counts_because_a_caller_has_all_of_it() -> None:
    assert network_of("2001:db8::1") == network_of("[2001:db8::ffff:1]:80") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert (network_of("::ffff:1.2.3.4"), network_of("1.2.3.4")) == ("1.2.3.4", "1.2.3.4")
    assert (network_of(""), network_of("unix:")) == ("", "unix:")
