# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes: their addresses, stored records, and the facts that placement uses."""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from clusterodm.core.errors import ConfigError

_LOCALHOST: Final = "localhost"
#: The end of a host that is a number, so that it is no name.
_NUMBER: Final = re.compile(r"(^|\.)([0-9]+|0[xX][0-9a-fA-F]*)$")


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a node. `str()` and `repr()` omit the token, a secret."""

    host: str
    port: int
    token: str = ""
    tls: bool = False
    #: Its certificate is not verified, because an operator said so.
    insecure: bool = False

    @property
    def url(self) -> str:
        """Base URL without a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def place(self) -> tuple[str, int]:
        """The identity of a node, independent of how its host is written."""
        return _same_host(self.host), self.port

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"NodeAddress({self.url})"


def parse_address(text: str) -> NodeAddress:
    """Read `host:port` or `http(s)://host:port/?token=...&insecure=true`; port 443 means https. Raises ConfigError."""
    try:
        split = urlsplit(text if "//" in text else f"//{text}")
        port = split.port
    except ValueError:
        raise ConfigError("bad port or IPv6 address in the address of a node") from None
    if not split.hostname or split.scheme not in ("", "http", "https"):
        raise ConfigError("a node address reads host:port or http://host:port or https://host:port")
    if split.path not in ("", "/") or split.fragment:
        raise ConfigError(f"a node answers at the root of its port: leave out {split.path or '#'!r} of its address")
    if "@" in split.netloc:
        raise ConfigError("a node knows no users: leave out what stands before the @ of its address")
    tls = split.scheme == "https" or port == 443
    query = parse_qs(split.query, keep_blank_values=True)
    if unknown := sorted(query.keys() - {"token", "insecure"}):
        raise ConfigError(f"a node address has ?token= and ?insecure= alone, not {unknown[0][:50]!r}")
    token, insecure = query.get("token", [""])[0], query.get("insecure", [""])[0]
    if insecure not in ("", "true", "false"):
        raise ConfigError("insecure is true or false")
    default = {"https": 443, "http": 80}.get(split.scheme, 3000)
    return make_address(split.hostname, port or default, token, tls=tls, insecure=insecure == "true")


def make_address(host: str, port: int, token: str = "", *, tls: bool = False, insecure: bool = False) -> NodeAddress:
    """Return a checked address from its parts; the host may be a URL, as in the original."""
    if "//" in host:
        base = parse_address(host)
        insecure = insecure or base.insecure
        return make_address(base.host, port, token or base.token, tls=base.tls or tls, insecure=insecure)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not host.isprintable() or any(char in host for char in " /?#@"):
        raise ConfigError(f"bad host name for a node: {host!r}")
    if ":" in host and not _is_ipv6(host):
        raise ConfigError(f"bad address for a node: {host!r}")
    if _NUMBER.search(host.rstrip(".")) and _ip(host) is None:  # such as 127.1, which systems take for an address
        raise ConfigError(f"bad address for a node: {host!r}")
    if not 0 < port < 65536:
        raise ConfigError(f"a port is between 1 and 65535, not {port}")
    return NodeAddress(host=host, port=port, token=token, tls=tls or port == 443, insecure=insecure)


def is_loopback(host: str) -> bool:
    """Return True if a host is an address or name by which every machine means itself."""
    ip = _ip(host)
    return _same_host(host) == _LOCALHOST or (ip is not None and ip.is_loopback)


def _same_host(host: str) -> str:
    """One way to write a host: in lower case without the dot of the root, and `localhost` for each way to say it."""
    plain, ip = host.lower().rstrip("."), _ip(host)
    if ip is None:
        return plain
    # who connects to the address that stands for all of this machine comes to the first one of loopback
    local = ip.is_unspecified or ip in (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    return _LOCALHOST if local else str(ip)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip: IPv4Address | IPv6Address = ip_address(host.rstrip("."))
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


class Origin(StrEnum):
    """How a node was added."""

    #: By `--node`, nodes.json or an operator.
    CONFIGURED = "configured"
    #: It stands in the watched `--nodes-file`.
    FILE = "file"
    #: One of the addresses of `--nodes-dns`.
    DNS = "dns"
    #: It registered itself and renews its lease.
    LEASE = "lease"
    #: The cluster created its machine.
    AUTOSCALER = "autoscaler"


#: Label of a node whose machine has the largest size that there is.
LARGEST: Final = "largest"


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A node as stored. Times are seconds since the epoch, 0: never."""

    id: int
    address: NodeAddress
    #: Unschedulable because an operator said so.
    locked: bool = False
    #: Unschedulable, and its results are copied to the cluster, so that it can be switched off.
    draining: bool = False
    #: No longer shown; kept only while tasks and results are on it.
    removed: bool = False
    origin: Origin = Origin.CONFIGURED
    labels: dict[str, str] = {}
    #: Configured slots; 0: as many as it says itself.
    slots: int = 0
    #: When its lease ends unless it is renewed.
    lease_until: float = 0.0
    #: When it will be switched off; it is unschedulable from `drain_before` seconds before.
    ends_at: float = 0.0
    drain_before: float = 0.0

    @property
    def ends(self) -> bool:
        """True if the node's availability depends on the time."""
        return bool(self.lease_until or self.ends_at)

    def leaving(self, now: float) -> bool:
        """True if the node will be switched off, so that results should be collected."""
        ends = self.ends_at and now >= self.ends_at - self.drain_before
        return bool(self.draining or self.removed or ends)

    def closed(self, now: float) -> str:
        """Return why the node does not accept tasks, in a word or two; empty if it does."""
        if self.removed:
            return "removed"
        if self.locked:
            return "locked"
        if self.draining:
            return "draining"
        if self.ends_at and now >= self.ends_at - self.drain_before:
            return "about to end"
        if self.lease_until and now >= self.lease_until:
            return "without a lease"
        return ""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A node's `/info`, with defaults for fields that old nodes omit."""

    version: str = "?"
    task_queue_count: int = 0
    total_memory: int = 0
    available_memory: int = 0
    cpu_cores: int = 0
    max_images: int | None = None
    max_parallel_tasks: int = 1
    engine_version: str = "?"
    engine: str = "?"


#: Seconds that a node is set aside at most; a time further ahead is left from before the clock was set back.
LONGEST_SET_ASIDE: Final = 3600.0


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that placement uses. Times are seconds since the epoch."""

    id: int
    name: str
    online: bool = True
    #: It has answered at least once, so that what it takes is known.
    known: bool = True
    #: Why it is unschedulable (see NodeRecord.closed); empty: it is not.
    closed: str = ""
    max_images: int | None = None
    slots: int = 1
    #: Tasks the node itself said it has.
    queue: int = 0
    #: Tasks that are sent there, or were since its last poll.
    reserved: int = 0
    #: Uploads whose files are prefetched there: they take no slot.
    prefetching: int = 0
    total_memory: int = 0
    #: It runs on a machine that the cluster created, and a larger one is available.
    can_be_larger: bool = False
    chosen_at: float = 0.0
    #: Not used before this time, because it failed lately.
    set_aside_until: float = 0.0

    @property
    def free(self) -> int:
        """Free slots; negative if more tasks wait on the node than it can run."""
        return self.slots - self.queue - self.reserved

    @property
    def empty(self) -> bool:
        """True if no task runs there or is being sent there."""
        return self.queue <= 0 and self.reserved <= 0
